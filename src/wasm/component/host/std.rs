use ::std::time::Duration;

use ::http::{HeaderMap, Method as HttpMethod};

use super::bindings::phasegate::plugin::wasm_http::{Method, Request, Response};
use super::bindings::phasegate::plugin::wasm_std::{EntryPoint, Host};
use super::text;
use crate::VERSION;
use crate::capability::mailbox::{self, Message};
use crate::exchange::{Edit, Refused, Reply, contains, first_value, pairs};
use crate::facts::path_and_query;
use crate::wasm;
use crate::wasm::component::session::Session;
use crate::wasm::component::state::State;

type Pairs = Vec<(String, String)>;

impl Host for State {
    fn anyproxy_version(&mut self) -> Result<String, String> {
        Ok(VERSION.to_owned())
    }

    fn variable(&mut self, key: String) -> Result<Option<String>, String> {
        Ok(self.exchange().map_err(text)?.variable(&key))
    }

    async fn sleep(&mut self, time_ms: u64) {
        // What others compute meanwhile is not its own.
        self.cpu.host_call();
        tokio::time::sleep(Duration::from_millis(time_ms)).await;
    }

    fn curr_session_id(&mut self) -> u64 {
        self.session().map_or(NO_SESSION, Session::id)
    }

    fn curr_fd(&mut self) -> u64 {
        CLIENT_FD
    }

    fn main_session_id(&mut self) -> u64 {
        self.session().map_or(NO_SESSION, Session::main)
    }

    fn main_fd(&mut self) -> u64 {
        CLIENT_FD
    }

    fn new_session_id(&mut self) -> u64 {
        self.cpu.host_call();
        mailbox::new_id()
    }

    fn session_send(&mut self, session_id: u64, value: String) -> Result<(), String> {
        let message = Message::new(value).map_err(text)?;
        self.mail().and_then(|mail| mail.mailboxes.send(session_id, message)).map_err(text)
    }

    async fn session_recv(&mut self) -> Result<String, String> {
        self.session().map_err(text)?.recv().await.map_err(text)
    }

    fn session_try_recv(&mut self) -> Result<Option<String>, String> {
        self.session().map_err(text)?.try_recv().map_err(text)
    }

    async fn session_request(&mut self, session_id: u64, value: String, timeout_ms: u64) -> Result<String, String> {
        let (message, asked) = Message::request(value).map_err(text)?;
        self.mail().and_then(|mail| mail.mailboxes.send(session_id, message)).map_err(text)?;
        asked.answer(Duration::from_millis(timeout_ms)).await.map_err(text)
    }

    fn session_response(&mut self, value: String) -> Result<(), String> {
        self.session().and_then(|session| session.respond(value)).map_err(text)
    }

    fn session_quit(&mut self, session_id: u64) -> Result<(), String> {
        self.mail().and_then(|mail| mail.mailboxes.quit(session_id)).map_err(text)
    }

    fn spawn(&mut self, entry: EntryPoint, config: Option<String>) -> Result<u64, String> {
        State::spawn(self, entry.into(), config).map_err(text)
    }

    fn uniq_session_send(&mut self, name: String, value: String) -> Result<(), String> {
        let message = Message::new(value).map_err(text)?;
        self.mail().map_err(text)?.named.send(&name, message).map_err(text)
    }

    async fn uniq_session_request(&mut self, name: String, value: String, timeout_ms: u64) -> Result<String, String> {
        let (message, asked) = Message::request(value).map_err(text)?;
        self.mail().map_err(text)?.named.send(&name, message).map_err(text)?;
        asked.answer(Duration::from_millis(timeout_ms)).await.map_err(text)
    }

    fn add_timer(&mut self, time_ms: u64, key: u64, value: String) {
        if let Err(error) = self.run().timers.add(Duration::from_millis(time_ms), key, value) {
            self.warn(&format!("add-timer: {error}"));
        }
    }

    fn del_timer(&mut self, key: u64) {
        self.run().timers.remove(key);
    }

    async fn get_timer_timeout(&mut self, time_ms: u64) -> Vec<String> {
        self.run().timers.expired(Duration::from_millis(time_ms)).await
    }

    fn in_get_request(&mut self) -> Result<Request, String> {
        let exchange = self.exchange().map_err(text)?;
        let request = &exchange.request;
        Ok(Request {
            method: method(&request.method)?,
            uri: path_and_query(request).into_owned(),
            headers: pairs(&request.headers).map_err(text)?,
            params: params(request.uri.query().unwrap_or_default()),
            body: exchange.body.as_ref().map(|body| body.to_vec()),
        })
    }

    fn in_get_header(&mut self, key: String) -> Result<Option<String>, String> {
        self.in_headers(|headers| first_value(headers, &key))
    }

    fn in_get_headers(&mut self) -> Result<Pairs, String> {
        self.in_headers(pairs)
    }

    fn in_is_header(&mut self, key: String) -> Result<bool, String> {
        self.in_headers(|headers| contains(headers, &key))
    }

    fn in_add_header(&mut self, key: String, value: String) -> Result<(), String> {
        self.edit_in("in-add-header", |mut request| request.append(key, value))
    }

    fn in_add_headers(&mut self, headers: Pairs) -> Result<(), String> {
        self.edit_in("in-add-headers", |mut request| request.append_all(headers))
    }

    fn in_set_header(&mut self, key: String, value: String) -> Result<(), String> {
        self.edit_in("in-set-header", |mut request| request.set(key, value))
    }

    fn in_del_header(&mut self, key: String) -> Result<(), String> {
        self.edit_in("in-del-header", |mut request| request.remove(&key))
    }

    fn in_del_headers(&mut self, keys: Vec<String>) -> Result<(), String> {
        self.edit_in("in-del-headers", |mut request| request.remove_all(&keys))
    }

    fn in_set_method(&mut self, method: String) -> Result<(), String> {
        self.exchange().and_then(|mut exchange| exchange.set_method(&method)).map_err(text)
    }

    fn in_set_uri(&mut self, uri: String) -> Result<(), String> {
        self.exchange().and_then(|mut exchange| exchange.set_uri(&uri)).map_err(text)
    }

    async fn in_body_read_exact(&mut self) -> Result<Vec<u8>, String> {
        let answer = self.exchange().and_then(|mut exchange| exchange.ask_body()).map_err(text)?;
        Ok(answer.await.unwrap_or(Err(Refused::Ended)).map_err(text)?.to_vec())
    }

    fn out_get_status(&mut self) -> Result<u16, String> {
        self.exchange().and_then(|exchange| exchange.status("out-get-status")).map_err(text)
    }

    fn out_set_status(&mut self, status: u16) -> Result<(), String> {
        self.exchange().and_then(|mut exchange| exchange.set_status(status)).map_err(text)
    }

    fn out_get_header(&mut self, key: String) -> Result<Option<String>, String> {
        self.out_headers("out-get-header", |headers| first_value(headers, &key))
    }

    fn out_get_headers(&mut self) -> Result<Pairs, String> {
        self.out_headers("out-get-headers", pairs)
    }

    fn out_is_header(&mut self, key: String) -> Result<bool, String> {
        self.out_headers("out-is-header", |headers| contains(headers, &key))
    }

    fn out_add_header(&mut self, key: String, value: String) -> Result<(), String> {
        self.edit_out("out-add-header", |mut response| response.append(key, value))
    }

    fn out_add_headers(&mut self, headers: Pairs) -> Result<(), String> {
        self.edit_out("out-add-headers", |mut response| response.append_all(headers))
    }

    fn out_set_header(&mut self, key: String, value: String) -> Result<(), String> {
        self.edit_out("out-set-header", |mut response| response.set(key, value))
    }

    fn out_del_header(&mut self, key: String) -> Result<(), String> {
        self.edit_out("out-del-header", |mut response| response.remove(&key))
    }

    fn out_del_headers(&mut self, keys: Vec<String>) -> Result<(), String> {
        self.edit_out("out-del-headers", |mut response| response.remove_all(&keys))
    }

    fn out_set_response(&mut self, res: Response) -> Result<(), String> {
        let reply = reply(res).map_err(text)?;
        self.set_reply(reply).map_err(text)
    }

    async fn out_response(&mut self, res: Response) -> Result<(), String> {
        let reply = reply(res).map_err(text)?;
        let answer = self.exchange().and_then(|mut exchange| exchange.ask_respond(reply)).map_err(text)?;
        answer.await.unwrap_or(Err(Refused::Ended)).map_err(text)
    }
}

/// The downstream connection, as plugins name it.
const CLIENT_FD: u64 = 0;

/// What no session has for its id: the id of an instance that does not run yet.
const NO_SESSION: u64 = 0;

impl State {
    fn in_headers<T>(&mut self, read: impl FnOnce(&HeaderMap) -> Result<T, Refused>) -> Result<T, String> {
        self.exchange().and_then(|exchange| read(exchange.request_headers())).map_err(text)
    }

    fn out_headers<T>(
        &mut self,
        function: &'static str,
        read: impl FnOnce(&HeaderMap) -> Result<T, Refused>,
    ) -> Result<T, String> {
        self.exchange().and_then(|exchange| read(exchange.response_headers(function)?)).map_err(text)
    }

    fn edit_in(
        &mut self,
        function: &'static str,
        edit: impl FnOnce(Edit<'_>) -> Result<(), Refused>,
    ) -> Result<(), String> {
        self.exchange().and_then(|mut exchange| edit(exchange.edit_request(function)?)).map_err(text)
    }

    fn edit_out(
        &mut self,
        function: &'static str,
        edit: impl FnOnce(Edit<'_>) -> Result<(), Refused>,
    ) -> Result<(), String> {
        self.exchange().and_then(|mut exchange| edit(exchange.edit_response(function)?)).map_err(text)
    }
}

impl From<EntryPoint> for wasm::EntryPoint {
    fn from(entry: EntryPoint) -> wasm::EntryPoint {
        match entry {
            EntryPoint::WasmMain => wasm::EntryPoint::Main,
            EntryPoint::WasmMainTimeout => wasm::EntryPoint::Timeout,
            EntryPoint::WasmMainExt1 => wasm::EntryPoint::Ext1,
            EntryPoint::WasmMainExt2 => wasm::EntryPoint::Ext2,
            EntryPoint::WasmMainExt3 => wasm::EntryPoint::Ext3,
        }
    }
}

fn reply(response: Response) -> Result<Reply, Refused> {
    Reply::new(response.status, response.headers.unwrap_or_default(), response.body.unwrap_or_default().into())
}

fn method(method: &HttpMethod) -> Result<Method, String> {
    Ok(match *method {
        HttpMethod::GET => Method::Get,
        HttpMethod::POST => Method::Post,
        HttpMethod::PUT => Method::Put,
        HttpMethod::DELETE => Method::Delete,
        HttpMethod::PATCH => Method::Patch,
        HttpMethod::HEAD => Method::Head,
        HttpMethod::OPTIONS => Method::Options,
        _ => return Err(format!("in-get-request: the enum `method` has no `{method}`")),
    })
}

/// The pairs of a query string, percent-decoded, `+` as a space (the URL Standard, application/x-www-form-urlencoded).
fn params(query: &str) -> Pairs {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

use ::std::time::Duration;

use ::http::{HeaderMap, Method as HttpMethod};

use super::bindings::phasegate::plugin::wasm_http::{Method, Request, Response};
use super::bindings::phasegate::plugin::wasm_std::{EntryPoint, Host};
use super::not_available;
use crate::VERSION;
use crate::exchange::{BodyOr, Edit, Refused, Reply, contains, first_value, pairs};
use crate::facts::path_and_query;
use crate::wasm::state::State;

type Pairs = Vec<(String, String)>;

impl Host for State {
    fn anyproxy_version(&mut self) -> Result<String, String> {
        Ok(VERSION.to_owned())
    }

    fn variable(&mut self, key: String) -> Result<Option<String>, String> {
        Ok(self.exchange().map_err(text)?.variable(&key))
    }

    async fn sleep(&mut self, time_ms: u64) {
        tokio::time::sleep(Duration::from_millis(time_ms)).await;
    }

    fn curr_session_id(&mut self) -> u64 {
        self.mailboxes().0
    }

    fn curr_fd(&mut self) -> u64 {
        CLIENT_FD
    }

    fn main_session_id(&mut self) -> u64 {
        self.mailboxes().1
    }

    fn main_fd(&mut self) -> u64 {
        CLIENT_FD
    }

    fn new_session_id(&mut self) -> u64 {
        self.cpu.host_call();
        State::new_session_id()
    }

    fn session_send(&mut self, _: u64, _: String) -> Result<(), String> {
        not_available("session-send")
    }

    async fn session_recv(&mut self) -> Result<String, String> {
        not_available("session-recv")
    }

    fn session_try_recv(&mut self) -> Result<Option<String>, String> {
        not_available("session-try-recv")
    }

    async fn session_request(&mut self, _: u64, _: String, _: u64) -> Result<String, String> {
        not_available("session-request")
    }

    fn session_response(&mut self, _: String) -> Result<(), String> {
        not_available("session-response")
    }

    fn session_quit(&mut self, _: u64) -> Result<(), String> {
        not_available("session-quit")
    }

    fn spawn(&mut self, _: EntryPoint, _: Option<String>) -> Result<u64, String> {
        not_available("spawn")
    }

    fn uniq_session_send(&mut self, _: String, _: String) -> Result<(), String> {
        not_available("uniq-session-send")
    }

    async fn uniq_session_request(&mut self, _: String, _: String, _: u64) -> Result<String, String> {
        not_available("uniq-session-request")
    }

    fn add_timer(&mut self, _: u64, _: u64, _: String) {
        self.warn("add-timer: not available in this build; the timer will not expire");
    }

    fn del_timer(&mut self, _: u64) {}

    async fn get_timer_timeout(&mut self, time_ms: u64) -> Vec<String> {
        tokio::time::sleep(Duration::from_millis(time_ms)).await;
        Vec::new()
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
        let body = self.exchange().and_then(|mut exchange| exchange.ask_body()).map_err(text)?;
        let body = match body {
            BodyOr::Body(body) => body,
            BodyOr::Asked(answer) => answer.await.unwrap_or(Err(Refused::Ended)).map_err(text)?,
        };
        Ok(body.to_vec())
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
        self.exchange().and_then(|mut exchange| exchange.set_reply(reply)).map_err(text)
    }

    async fn out_response(&mut self, res: Response) -> Result<(), String> {
        let reply = reply(res).map_err(text)?;
        let answer = self.exchange().and_then(|mut exchange| exchange.ask_respond(reply)).map_err(text)?;
        answer.await.unwrap_or(Err(Refused::Ended)).map_err(text)
    }
}

/// The downstream connection, as plugins name it.
const CLIENT_FD: u64 = 0;

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

fn text(refused: Refused) -> String {
    refused.to_string()
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

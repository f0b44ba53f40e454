//! Sends a command to Redis for each request, as filters of Higress do, and goes on when the reply has come. The request then
//! has `x-redis`: the reply without the ends of its lines, or `status N` where there is none, or `refused N` where the host
//! has taken none.
//!
//! The configuration is JSON: `{"cluster", "username", "password", "timeout_ms", "command": ["INCR", "visits"]}`; without a
//! `username` it does not say how it comes to the cluster. A request chooses another command with `x-command`, words, or with
//! `x-query`, a JSON text of what is sent as it is.

use std::cell::RefCell;
use std::collections::HashMap;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel, MapType};
use serde::Deserialize;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_redis_init(
        cluster: *const u8,
        cluster_size: usize,
        username: *const u8,
        username_size: usize,
        password: *const u8,
        password_size: usize,
        timeout: u32,
    ) -> u32;
    fn proxy_redis_call(
        cluster: *const u8,
        cluster_size: usize,
        query: *const u8,
        query_size: usize,
        token: *mut u32,
    ) -> u32;
    fn proxy_get_buffer_bytes(buffer: u32, start: usize, max: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
}

/// Of Higress, for the reply.
const REPLY: u32 = BufferType::PluginConfiguration as u32 + 2;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

thread_local! {
    /// The streams that wait, by the token of their command.
    static WAITING: RefCell<HashMap<u32, u32>> = RefCell::default();
}

#[derive(Clone, Default, Deserialize)]
struct Configuration {
    cluster: String,
    username: Option<String>,
    #[serde(default)]
    password: String,
    #[serde(default)]
    timeout_ms: u32,
    command: Vec<String>,
}

#[derive(Default)]
struct Root {
    configuration: Configuration,
}

struct Stream {
    id: u32,
    configuration: Configuration,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let configuration = self.get_plugin_configuration().unwrap_or_default();
        let Ok(configuration) = serde_json::from_slice::<Configuration>(&configuration) else { return false };
        if let Some(username) = &configuration.username {
            let Configuration { cluster, password, timeout_ms, .. } = &configuration;
            // SAFETY: the pointers and lengths are those of strings that live.
            let status = unsafe {
                proxy_redis_init(
                    cluster.as_ptr(),
                    cluster.len(),
                    username.as_ptr(),
                    username.len(),
                    password.as_ptr(),
                    password.len(),
                    *timeout_ms,
                )
            };
            log::info!("proxy_redis_init: {status}");
        }
        self.configuration = configuration;
        true
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { id, configuration: self.configuration.clone() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let query = match (self.get_http_request_header("x-query"), self.get_http_request_header("x-command")) {
            (Some(query), _) => serde_json::from_str::<String>(&query).unwrap_or_default().into_bytes(),
            (None, Some(command)) => spell(command.split(' ')),
            (None, None) => spell(self.configuration.command.iter().map(String::as_str)),
        };
        let cluster = self.configuration.cluster.split('?').next().unwrap_or_default();
        let mut token = 0;
        // SAFETY: the pointers and lengths are those of strings that live, and of a number.
        let status =
            unsafe { proxy_redis_call(cluster.as_ptr(), cluster.len(), query.as_ptr(), query.len(), &raw mut token) };
        if status != 0 {
            self.set_http_request_header("x-redis", Some(&format!("refused {status}")));
            return Action::Continue;
        }
        WAITING.with_borrow_mut(|waiting| waiting.insert(token, self.id));
        Action::Pause
    }
}

/// A command in RESP.
fn spell<'a>(words: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let words: Vec<_> = words.map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{}", words.len(), words.concat()).into_bytes()
}

/// A reply has come, or will not.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_redis_call_response(_root: u32, token: u32, status: u32, size: u32) {
    let Some(stream) = WAITING.with_borrow_mut(|waiting| waiting.remove(&token)) else { return };
    // SAFETY: a number.
    if unsafe { proxy_set_effective_context(stream) } != 0 {
        log::info!("a reply came for a stream that is gone");
        return;
    }
    let shown = match status {
        0 => String::from_utf8_lossy(&reply(size as usize)).replace("\r\n", " ").trim_end().to_owned(),
        status => format!("status {status} size {}", reply(usize::MAX).len() + size as usize),
    };
    let _ = hostcalls::set_map_value(MapType::HttpRequestHeaders, "x-redis", Some(&shown));
    let _ = hostcalls::resume_http_request();
}

fn reply(most: usize) -> Vec<u8> {
    let (mut data, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the host gives memory that this module has allocated, of exactly this size.
    unsafe {
        if proxy_get_buffer_bytes(REPLY, 0, most, &raw mut data, &raw mut size) != 0 || data.is_null() {
            return Vec::new();
        }
        Vec::from_raw_parts(data, size, size)
    }
}

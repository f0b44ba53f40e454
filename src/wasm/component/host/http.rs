use ::http::Method as HttpMethod;
use ::std::time::Duration;

use super::bindings::phasegate::plugin::wasm_http::{Host, Method, Request, Response, SocketType};
use crate::capability::callout::Call;
use crate::exchange::message_headers;
use crate::wasm::component::state::State;

impl Host for State {
    async fn handle_http(&mut self, typ: SocketType, req: Request, timeout_ms: u64) -> Result<Response, String> {
        let (capabilities, policy) = self.net().map_err(|refused| refused.to_string())?;
        let response = capabilities
            .callouts
            .call(&capabilities.network, policy, typ.into(), call(req)?, Duration::from_millis(timeout_ms))
            .await
            .map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
        Ok(Response { status: head.status.as_u16(), headers: Some(headers), body: body.map(|body| body.to_vec()) })
    }
}

fn call(request: Request) -> Result<Call, String> {
    let Request { method, uri, headers, params, body } = request;
    let body = body.unwrap_or_default();
    let headers = message_headers(headers, body.len()).map_err(|refused| refused.to_string())?;
    Ok(Call { method: method.into(), uri, params, headers, body: body.into() })
}

impl From<Method> for HttpMethod {
    fn from(method: Method) -> HttpMethod {
        match method {
            Method::Get => HttpMethod::GET,
            Method::Post => HttpMethod::POST,
            Method::Put => HttpMethod::PUT,
            Method::Delete => HttpMethod::DELETE,
            Method::Patch => HttpMethod::PATCH,
            Method::Head => HttpMethod::HEAD,
            Method::Options => HttpMethod::OPTIONS,
        }
    }
}

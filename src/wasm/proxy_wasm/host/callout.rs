//! Callouts to clusters: HTTP and gRPC.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::uri::Scheme;
use http::{HeaderMap, Method};

use super::call::{Answer, Call, Refusal, failed, header_name, header_value};
use crate::capability::Capabilities;
use crate::capability::callout::{CalloutError, ClusterCall};
use crate::capability::grpc::{self, GrpcCall, SendError};
use crate::wasm::proxy_wasm::abi::{Direction, Status};
use crate::wasm::proxy_wasm::calls::{Behalf, InFlight, Kind};
use crate::wasm::proxy_wasm::fields::path_of;
use crate::wasm::proxy_wasm::pairs;
use crate::wasm::proxy_wasm::slot::Slot;
use crate::wasm::proxy_wasm::state::State;
use crate::wasm::proxy_wasm::vm::Vm;

#[expect(clippy::too_many_arguments, reason = "of the ABI")]
pub fn http_call(
    call: &mut Call<'_>,
    upstream: u32,
    upstream_size: u32,
    headers: u32,
    headers_size: u32,
    body: u32,
    body_size: u32,
    trailers: u32,
    trailers_size: u32,
    timeout: u32,
    to: u32,
) -> Answer {
    let cluster = call.text(upstream, upstream_size)?;
    // What is negative to the guest is wrong.
    let timeout = milliseconds(i32::try_from(timeout).map_err(|_| Status::BadArgument)?.unsigned_abs());
    let mut request = parse_request(call.read(headers, headers_size)?.0)?;
    request.body = call.bytes(body, body_size)?;
    request.trailers = parse_trailers(call.read(trailers, trailers_size)?.0)?;
    request.timeout = timeout;
    let capabilities = way_to(call, "proxy_http_call", &cluster)?;
    let begun = Begun::new(call, Kind::Http, to)?;
    let response = async move {
        let Capabilities { callouts, network, clusters, .. } = &*capabilities;
        callouts.call_cluster(network, clusters, &cluster, request).await
    };
    begun.spawn(call.state(), response, Vm::deliver_http);
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "of the ABI")]
pub fn grpc_call(
    call: &mut Call<'_>,
    upstream: u32,
    upstream_size: u32,
    service: u32,
    service_size: u32,
    method: u32,
    method_size: u32,
    metadata: u32,
    metadata_size: u32,
    message: u32,
    message_size: u32,
    timeout: u32,
    to: u32,
) -> Answer {
    let what = [(upstream, upstream_size), (service, service_size), (method, method_size), (metadata, metadata_size)];
    let request = GrpcCall { timeout: milliseconds(timeout), ..grpc_request(call, what)? };
    let message = call.bytes(message, message_size)?;
    let begun = Begun::new(call, Kind::GrpcCall, to)?;
    let capabilities = call.state().services.capabilities.clone();
    let answer = async move { grpc::unary(&capabilities, request, message).await };
    begun.spawn(call.state(), answer, Vm::deliver_grpc);
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "of the ABI")]
pub fn grpc_stream(
    call: &mut Call<'_>,
    upstream: u32,
    upstream_size: u32,
    service: u32,
    service_size: u32,
    method: u32,
    method_size: u32,
    metadata: u32,
    metadata_size: u32,
    to: u32,
) -> Answer {
    let what = [(upstream, upstream_size), (service, service_size), (method, method_size), (metadata, metadata_size)];
    let request = grpc_request(call, what)?;
    let begun = Begun::new(call, Kind::GrpcStream, to)?;
    if begun.is_beyond(call.state()) {
        // Nothing is opened: only the refusal comes of it.
        begun.spawn(call.state(), pending(), |vm, root, id, refused: Result<Infallible, grpc::Status>| {
            let Err(status) = refused;
            vm.deliver_grpc_event(root, id, grpc::Event::Closed(status))
        });
        return Ok(());
    }
    let Begun { id, root, slot, generation, behalf, .. } = begun;
    let services = call.state().services.clone();
    let here = services.here();
    let _within = here.enter();
    let (sender, mut events) = grpc::stream(&services.capabilities, request);
    let task = here.spawn(async move {
        while let Some(event) = events.recv().await {
            let Some(slot) = slot.upgrade() else { return };
            if slot.with(generation, |vm| vm.deliver_grpc_event(root, id, event)).is_err() {
                return;
            }
        }
    });
    call.state().calls.insert(id, InFlight::new(root, task.abort_handle(), behalf, Some(sender)));
    Ok(())
}

/// As in Envoy, no message is a bad argument. Behind the end it goes nowhere; without one that cannot be sent, the stream ends.
pub fn grpc_send(call: &mut Call<'_>, id: u32, message: u32, size: u32, end: u32) -> Answer {
    let (message, state) = call.read(message, size)?;
    if state.calls.has_ended(id) {
        return Ok(());
    }
    // One that was refused has no server, and no end yet.
    let Some(sender) = state.calls.sender(id)? else { return Ok(()) };
    match sender.send(message, false) {
        Ok(()) if end != 0 => state.calls.close(id)?,
        Ok(()) | Err(SendError::Closed) => {}
        Err(error) => {
            sender.fail(error);
            state.log(log::Level::Warn, &format!("proxy_grpc_send: {error}: the stream ends"));
        }
    }
    Ok(())
}

/// Ends a call or a stream at once; nothing more comes of it.
pub fn grpc_cancel(call: &mut Call<'_>, id: u32) -> Answer {
    if ![Kind::GrpcCall, Kind::GrpcStream].iter().any(|kind| *kind as u32 == id & 3) {
        return Err(Status::BadArgument.into());
    }
    Ok(call.state().calls.cancel(id)?)
}

/// Ends the request of a stream; a call is cancelled.
pub fn grpc_close(call: &mut Call<'_>, id: u32) -> Answer {
    if id & 3 == Kind::GrpcStream as u32 {
        return Ok(call.state().calls.close(id)?);
    }
    grpc_cancel(call, id)
}

/// So many times the callouts of a VM may be in flight, with those that are refused.
const MOST_REFUSED: usize = 2;

/// A guest that tries again at once must not do so all the time.
const REFUSED_AFTER: Duration = Duration::from_millis(10);

/// A callout that has an id, which the guest knows before anything can come of it.
pub(super) struct Begun {
    id: u32,
    root: u32,
    slot: Weak<Slot>,
    generation: u64,
    behalf: Option<Behalf>,
    /// Those that were in flight before.
    before: usize,
}

impl Begun {
    pub(super) fn new(call: &mut Call<'_>, kind: Kind, to: u32) -> Result<Begun, Refusal> {
        let state = call.state();
        let (root, _) = state.contexts.root()?;
        let before = state.calls.len();
        if before >= MOST_REFUSED * state.vm.callouts {
            return Err(failed(state, "callout", &format!("{before} wait for their callbacks already")));
        }
        let id = state.calls.next(kind);
        // What a tick asks for a stream may be for its response as well.
        let direction = state.contexts.direction.unwrap_or(Direction::Response);
        let behalf = state.contexts.stream().ok().map(|context| Behalf {
            stream: context.stream.clone(),
            position: context.position,
            direction,
        });
        let slot = state.slot.clone();
        let generation = Slot::generation_of(&slot);
        call.write_u32(to, id)?;
        Ok(Begun { id, root, slot, generation, behalf, before })
    }

    /// Why the limits do not permit it. The guest learns of it in the callback, as of a callout that fails in another way: many
    /// filters panic over a status that refuses one, and with the VM all of its streams would go.
    fn refusal(&self, state: &mut State) -> Option<CalloutError> {
        let error = self.is_beyond(state).then_some(CalloutError::TooManyOfVm(state.vm.callouts))?;
        state.at_limit("callout", &error);
        Some(error)
    }

    fn is_beyond(&self, state: &State) -> bool {
        self.before >= state.vm.callouts
    }

    /// Waits for what comes of the callout, and delivers it to the VM if that still lives.
    pub(super) fn spawn<T: Send + 'static, E: From<CalloutError> + Send + 'static>(
        self,
        state: &mut State,
        callout: impl Future<Output = Result<T, E>> + Send + 'static,
        deliver: fn(&mut Vm, u32, u32, Result<T, E>) -> wasmtime::Result<()>,
    ) {
        let refusal = self.refusal(state);
        let Begun { id, root, slot, generation, behalf, .. } = self;
        let task = state.services.here().spawn(async move {
            let result = match refusal {
                None => callout.await,
                Some(refusal) => {
                    tokio::time::sleep(REFUSED_AFTER).await;
                    Err(refusal.into())
                }
            };
            if let Some(slot) = slot.upgrade() {
                // A failure is logged.
                let _ = slot.with(generation, |vm| deliver(vm, root, id, result));
            }
        });
        state.calls.insert(id, InFlight::new(root, task.abort_handle(), behalf, None));
    }
}

/// What a callout to this cluster needs.
///
/// # Errors
/// When there is no such cluster.
pub(super) fn way_to(call: &mut Call<'_>, function: &str, cluster: &str) -> Result<Arc<Capabilities>, Status> {
    let state = call.state();
    let capabilities = state.services.capabilities.clone();
    if !capabilities.clusters.is_known(cluster) {
        state.no_cluster(function, cluster);
        return Err(Status::BadArgument);
    }
    Ok(capabilities)
}

/// 0 is none.
fn milliseconds(timeout: u32) -> Option<Duration> {
    (timeout > 0).then(|| Duration::from_millis(timeout.into()))
}

/// What a gRPC call and a gRPC stream begin with: where cluster, service, method and metadata are.
fn grpc_request(
    call: &mut Call<'_>,
    [cluster, service, method, metadata]: [(u32, u32); 4],
) -> Result<GrpcCall, Refusal> {
    Ok(GrpcCall {
        cluster: grpc_cluster(call, cluster.0, cluster.1)?,
        service: call.text(service.0, service.1)?,
        method: call.text(method.0, method.1)?,
        metadata: {
            let (metadata, state) = call.read(metadata.0, metadata.1)?;
            parse_metadata(metadata).map_err(|_| failed(state, "gRPC", &"the metadata cannot be sent"))?
        },
        timeout: None,
    })
}

/// The name of a cluster, or a serialized `envoy.config.core.v3.GrpcService` with one.
fn grpc_cluster(call: &mut Call<'_>, at: u32, size: u32) -> Result<String, Status> {
    #[derive(prost::Message)]
    struct GrpcService {
        #[prost(message, optional, tag = "1")]
        envoy_grpc: Option<EnvoyGrpc>,
    }
    #[derive(prost::Message)]
    struct EnvoyGrpc {
        #[prost(string, tag = "1")]
        cluster_name: String,
    }
    let (bytes, state) = call.read(at, size)?;
    let services = state.services.clone();
    let clusters = &services.capabilities.clusters;
    let plain = std::str::from_utf8(bytes).ok();
    if let Some(name) = plain.filter(|name| clusters.is_known(name)) {
        return Ok(name.to_owned());
    }
    let service = <GrpcService as prost::Message>::decode(bytes).ok();
    let name = service.and_then(|service| service.envoy_grpc).map(|grpc| grpc.cluster_name);
    match name.or_else(|| plain.map(str::to_owned)) {
        Some(name) if clusters.is_known(&name) => Ok(name),
        name => {
            name.iter().for_each(|name| state.no_cluster("gRPC", name));
            Err(Status::ParseFailure)
        }
    }
}

/// The pseudo-headers and headers of a call.
fn parse_request(map: &[u8]) -> Result<ClusterCall, Status> {
    let (mut method, mut path, mut authority, mut host, mut scheme) = (None, None, None, None, None);
    let mut headers = HeaderMap::new();
    for (name, value) in pairs::decode(map).map_err(|_| Status::BadArgument)? {
        match name {
            _ if name.eq_ignore_ascii_case(b":method") => method = Method::from_bytes(value).ok(),
            _ if name.eq_ignore_ascii_case(b":path") => path = path_of(value),
            _ if name.eq_ignore_ascii_case(b":authority") => authority = Some(header_value(value)?),
            _ if name.eq_ignore_ascii_case(b":scheme") => scheme = Scheme::try_from(value).ok(),
            // Of something else, such as a response whose headers are handed on.
            [b':', ..] => {}
            name if name.eq_ignore_ascii_case(b"host") => host = Some(header_value(value)?),
            name => {
                headers.try_append(header_name(name)?, header_value(value)?).map_err(|_| Status::BadArgument)?;
            }
        }
    }
    Ok(ClusterCall {
        method: method.ok_or(Status::BadArgument)?,
        path: path.ok_or(Status::BadArgument)?,
        // Any text, also none: what names the server is the cluster.
        host: authority.or(host).ok_or(Status::BadArgument)?,
        scheme,
        headers,
        body: bytes::Bytes::new(),
        trailers: HeaderMap::new(),
        timeout: None,
    })
}

fn parse_trailers(map: &[u8]) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    for (name, value) in pairs::decode(map).map_err(|_| Status::BadArgument)? {
        trailers.try_append(header_name(name)?, header_value(value)?).map_err(|_| Status::BadArgument)?;
    }
    Ok(trailers)
}

/// The value of a name that ends in `-bin` is any bytes, sent in base64 (gRPC over HTTP2, "Custom-Metadata"). Pseudo-headers
/// are those of the call: filters that hand on all headers of a request have others among them.
fn parse_metadata(map: &[u8]) -> Result<HeaderMap, Status> {
    let mut metadata = HeaderMap::new();
    let pairs = pairs::decode(map).map_err(|_| Status::BadArgument)?;
    for (name, value) in pairs.into_iter().filter(|(name, _)| !name.starts_with(b":")) {
        let name = header_name(name)?;
        let value = match name.as_str().ends_with("-bin") {
            true => header_value(BASE64_STANDARD.encode(value).as_bytes())?,
            false => header_value(value)?,
        };
        metadata.try_append(name, value).map_err(|_| Status::BadArgument)?;
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_any_text_of_a_header() {
        let request = |authority: &[u8]| {
            let pairs = [(&b":method"[..], &b"GET"[..]), (b":path", b"/"), (b":authority", authority)];
            let map = pairs::encode(|pair| pairs.iter().for_each(|(name, value)| pair(name, value)));
            parse_request(&map).map(|request| request.host)
        };
        for authority in ["", "a.cn", "outbound|80||a.cn", "a b"] {
            assert_eq!(request(authority.as_bytes()).unwrap(), authority);
        }
        assert_eq!(request(b"a\r\nx: y"), Err(Status::BadArgument));
    }
}

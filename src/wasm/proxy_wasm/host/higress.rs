//! What Higress has added to the ABI (higress-group/proxy-wasm-go-sdk, `abi_hostcalls.go`): commands for clusters that are
//! Redis, bytes of a response that a filter sends on by itself, the servers of an upstream.

use std::time::Duration;

use bytes::Bytes;

use super::call::{Answer, Call, failed};
use super::callout::{Begun, way_to};
use crate::capability::resp::{Command, Login};
use crate::wasm::proxy_wasm::abi::{Direction, Status};
use crate::wasm::proxy_wasm::calls::Kind;
use crate::wasm::proxy_wasm::pairs;
use crate::wasm::proxy_wasm::state::Redis;
use crate::wasm::proxy_wasm::vm::Vm;

/// What a command may take of which nothing is said.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How the plugin comes to a cluster from now on. Nothing is connected yet. `?db=NUMBER` behind the name chooses a database; what
/// else stands there is about how Envoy writes.
#[expect(clippy::too_many_arguments, reason = "of the ABI")]
pub fn redis_init(
    call: &mut Call<'_>,
    upstream: u32,
    upstream_size: u32,
    username: u32,
    username_size: u32,
    password: u32,
    password_size: u32,
    timeout: u32,
) -> Answer {
    let upstream = call.text(upstream, upstream_size)?;
    let (cluster, parameters) = upstream.split_once('?').unwrap_or((&upstream, ""));
    let login = Login {
        username: call.text(username, username_size)?,
        password: call.text(password, password_size)?,
        database: match parameters.split('&').find_map(|parameter| parameter.strip_prefix("db=")) {
            Some(database) => database.parse().map_err(|_| Status::BadArgument)?,
            None => 0,
        },
    };
    let capabilities = way_to(call, "proxy_redis_init", cluster)?;
    let timeout = if timeout == 0 { TIMEOUT } else { Duration::from_millis(timeout.into()) };
    let redis = Redis { client: capabilities.redis.get(cluster, login), timeout };
    call.state().contexts.redis()?.insert(cluster.to_owned(), redis);
    Ok(())
}

/// Sends a command; the reply comes to `proxy_on_redis_call_response`.
pub fn redis_call(
    call: &mut Call<'_>,
    upstream: u32,
    upstream_size: u32,
    query: u32,
    query_size: u32,
    to: u32,
) -> Answer {
    let upstream = call.text(upstream, upstream_size)?;
    let cluster = upstream.split('?').next().unwrap_or_default();
    let capabilities = way_to(call, "proxy_redis_call", cluster)?;
    let (query, state) = call.read(query, query_size)?;
    let command = Command::parse(query).map_err(|error| failed(state, "proxy_redis_call", &error))?;
    let unsaid = || Redis { client: capabilities.redis.get(cluster, Login::default()), timeout: TIMEOUT };
    let redis = call.state().contexts.redis()?.entry(cluster.to_owned()).or_insert_with(unsaid);
    let Redis { client, timeout } = redis.clone();
    let begun = Begun::new(call, Kind::Redis, to)?;
    let reply = async move { client.call(&capabilities, &command, timeout).await };
    begun.spawn(call.state(), reply, Vm::deliver_redis);
    Ok(())
}

/// Sends bytes of a response on from the place of the filter, while it holds what has come. `end`: nothing follows.
pub fn inject_encoded_data(call: &mut Call<'_>, body: u32, size: u32, end: u32) -> Answer {
    let (body, state) = call.read(body, size)?;
    let Ok(context) = state.contexts.stream() else { return Ok(()) };
    let mut http = context.stream.lock();
    let held = http.held(Direction::Response, context.position);
    if held.injected.len() + body.len() > held.limit {
        drop(http);
        state.end_stream("proxy_inject_encoded_data_to_filter_chain", &"more at once than limits.buffer permits");
        return Ok(());
    }
    held.injected.append(Bytes::copy_from_slice(body).into());
    held.injects_end |= end != 0;
    drop(http);
    context.stream.wake();
    Ok(())
}

/// The servers of the upstream that the request goes to, and whether they are healthy.
pub fn get_upstream_hosts(call: &mut Call<'_>, to: u32, size: u32) -> Answer {
    let state = call.state();
    let name = state.contexts.stream()?.stream.lock().upstream_name().map(str::to_owned);
    let servers = name.map(|name| state.services.capabilities.clusters.servers(&name)).unwrap_or_default();
    let map = pairs::encode(|pair| {
        for (addr, healthy) in &servers {
            let health = if *healthy { "Healthy" } else { "Unhealthy" };
            pair(addr.to_string().as_bytes(), format!("{{\"health_status\":\"{health}\"}}").as_bytes());
        }
    });
    call.give(&map, to, size)
}

/// The server that the request should go to: another one gets it, if that is none of its upstream or not healthy.
pub fn set_upstream_override_host(call: &mut Call<'_>, addr: u32, size: u32) -> Answer {
    let addr = call.text(addr, size)?;
    let Ok(context) = call.state().contexts.stream() else { return Ok(()) };
    context.stream.lock().upstream_server = addr.parse().ok();
    Ok(())
}

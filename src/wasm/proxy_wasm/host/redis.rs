//! Commands for clusters that are Redis. Higress has added them to the ABI (higress-group/proxy-wasm-go-sdk,
//! `abi_hostcalls.go`).

use std::time::Duration;

use super::call::{Answer, Call, failed};
use super::callout::{Begun, way_to};
use crate::capability::redis::{Command, Login};
use crate::wasm::proxy_wasm::abi::Status;
use crate::wasm::proxy_wasm::calls::Kind;
use crate::wasm::proxy_wasm::state::Redis;
use crate::wasm::proxy_wasm::vm::Vm;

/// What a command may take of which nothing is said.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How the plugin comes to a cluster from now on. Nothing is connected yet. `?db=NUMBER` behind the name chooses a database; what
/// else stands there is about how Envoy writes.
#[expect(clippy::too_many_arguments, reason = "of the ABI")]
pub fn init(
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
pub fn call(call: &mut Call<'_>, upstream: u32, upstream_size: u32, query: u32, query_size: u32, to: u32) -> Answer {
    let upstream = call.text(upstream, upstream_size)?;
    let cluster = upstream.split('?').next().unwrap_or_default();
    let capabilities = way_to(call, "proxy_redis_call", cluster)?;
    let (query, state) = call.read(query, query_size)?;
    let command = Command::parse(query).ok_or_else(|| {
        failed(state, "proxy_redis_call", &"the query is not one command, an array of bulk strings of RESP")
    })?;
    let unsaid = || Redis { client: capabilities.redis.get(cluster, Login::default()), timeout: TIMEOUT };
    let redis = call.state().contexts.redis()?.entry(cluster.to_owned()).or_insert_with(unsaid);
    let Redis { client, timeout } = redis.clone();
    let begun = Begun::new(call, Kind::Redis, to)?;
    let reply = async move { client.call(&capabilities, &command, timeout).await };
    begun.spawn(call.state(), reply, Vm::deliver_redis);
    Ok(())
}

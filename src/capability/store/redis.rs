//! The store in Redis (6 or later), for many processes. A key is a Redis string or a Redis hash under the prefix; what more
//! than one command does is a script, which Redis runs as one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisError, RedisResult, Script, ScriptInvocation, cmd,
};

use super::StoreError;
use super::value::{Kind, Value};
use crate::capability::resp::{Connection, Place};
use crate::config::RedisStore;
use crate::worker::Home;

/// `STRLEN` fails when the key is a hash; `SET` alone would replace it.
static SET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('STRLEN', KEYS[1])
        if ARGV[2] then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) else redis.call('SET', KEYS[1], ARGV[1]) end",
    )
});

/// Gives the outcome and a text. Lua's numbers have 53 bits, so the new value is fetched as text.
static INCR: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local held = redis.call('GET', KEYS[1])
        if held and not string.match(held, '^-?%d+$') then return {'holds', held} end
        redis.call('INCRBY', KEYS[1], ARGV[1])
        if ARGV[2] and not held then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
        return {'done', redis.call('GET', KEYS[1])}",
    )
});

static COMPARE_AND_SET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local held = redis.call('GET', KEYS[1])
        if held and string.sub(held, 1, 7) ~= 'string:' then return {'holds', held} end
        if held ~= (ARGV[2] or false) then return {'differs', ''} end
        redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
        return {'done', ''}",
    )
});

static PERSIST: LazyLock<Script> =
    LazyLock::new(|| Script::new("redis.call('PERSIST', KEYS[1]) return redis.call('EXISTS', KEYS[1])"));

/// One connection, which all calls share.
pub struct Redis {
    config: RedisStore,
    place: Arc<Place>,
    /// The connection lives on a thread of its own: the workers that call are several runtimes, which end when they like.
    /// The thread starts with the first call.
    home: OnceLock<Result<Home, String>>,
}

enum Call {
    Command(Cmd),
    Script(ScriptInvocation<'static>),
}

/// What a call takes a key to hold.
#[derive(Clone, Copy)]
enum Shape {
    Value,
    Fields,
}

impl Redis {
    pub fn new(config: RedisStore) -> Redis {
        Redis { config, place: Arc::default(), home: OnceLock::new() }
    }

    pub async fn set(&self, key: &str, value: Value, ttl: Option<Duration>) -> Result<(), StoreError> {
        let mut call = self.script(&SET, key);
        call.arg(value.encode()).arg(ttl.map(millis));
        self.ask(key, Shape::Value, Call::Script(call)).await
    }

    pub async fn get(&self, key: &str) -> Result<Option<Value>, StoreError> {
        let call = self.command("GET", key);
        decode(key, self.ask(key, Shape::Value, Call::Command(call)).await?)
    }

    pub async fn hset(&self, key: &str, field: &str, value: Value) -> Result<(), StoreError> {
        let mut call = self.command("HSET", key);
        call.arg(field).arg(value.encode());
        self.ask(key, Shape::Fields, Call::Command(call)).await
    }

    pub async fn hget(&self, key: &str, field: &str) -> Result<Option<Value>, StoreError> {
        let mut call = self.command("HGET", key);
        call.arg(field);
        decode(field, self.ask(key, Shape::Fields, Call::Command(call)).await?)
    }

    pub async fn del(&self, key: &str) -> Result<bool, StoreError> {
        let call = self.command("DEL", key);
        self.ask(key, Shape::Value, Call::Command(call)).await
    }

    pub async fn hdel(&self, key: &str, field: &str) -> Result<bool, StoreError> {
        let mut call = self.command("HDEL", key);
        call.arg(field);
        self.ask(key, Shape::Fields, Call::Command(call)).await
    }

    pub async fn incr(&self, key: &str, delta: i64, ttl: Option<Duration>) -> Result<i64, StoreError> {
        let mut call = self.script(&INCR, key);
        call.arg(delta).arg(ttl.map(millis));
        let (outcome, held): (String, Vec<u8>) = self.ask(key, Shape::Value, Call::Script(call)).await?;
        done(key, Kind::S64, &outcome, &held)?;
        match decode(key, Some(held))? {
            Some(Value::S64(number)) => Ok(number),
            _ => Err(StoreError::Foreign(key.to_owned())),
        }
    }

    pub async fn compare_and_set(&self, key: &str, expected: Option<&str>, value: Value) -> Result<bool, StoreError> {
        let mut call = self.script(&COMPARE_AND_SET, key);
        call.arg(value.encode()).arg(expected.map(|text| Value::String(text.to_owned()).encode()));
        let (outcome, held): (String, Vec<u8>) = self.ask(key, Shape::Value, Call::Script(call)).await?;
        done(key, Kind::String, &outcome, &held)
    }

    pub async fn expire(&self, key: &str, ttl: Option<Duration>) -> Result<bool, StoreError> {
        let call = match ttl {
            Some(ttl) => Call::Command(self.command("PEXPIRE", key).arg(millis(ttl)).take()),
            None => Call::Script(self.script(&PERSIST, key)),
        };
        self.ask(key, Shape::Value, call).await
    }

    pub async fn expires_in(&self, key: &str) -> Result<Option<Duration>, StoreError> {
        let call = self.command("PTTL", key);
        let left: i64 = self.ask(key, Shape::Value, Call::Command(call)).await?;
        // -1: kept for good; -2: absent.
        Ok(u64::try_from(left).ok().map(Duration::from_millis))
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.config.prefix)
    }

    fn command(&self, name: &str, key: &str) -> Cmd {
        let mut command = cmd(name);
        command.arg(self.name(key));
        command
    }

    fn script(&self, script: &'static Script, key: &str) -> ScriptInvocation<'static> {
        let mut call = script.prepare_invoke();
        call.key(self.name(key));
        call
    }

    /// Makes a call on the thread of the connection, with the time that it may take.
    async fn ask<T>(&self, key: &str, shape: Shape, call: Call) -> Result<T, StoreError>
    where
        T: FromRedisValue + Send + 'static,
    {
        let Redis { config, place, home } = self;
        let home = home
            .get_or_init(|| Home::start("store").map_err(|error| error.to_string()))
            .as_ref()
            .map_err(|error| StoreError::Unreachable(error.clone()))?;
        let timeout = config.timeout;
        let work = make(call, place.clone(), config.url.clone());
        let answer = match home.handle().spawn(tokio::time::timeout(timeout, work)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => {
                place.give_up();
                return Err(StoreError::Late(timeout));
            }
            Err(error) => return Err(StoreError::Unreachable(error.to_string())),
        };
        answer.map_err(|error| explain(key, shape, &error))
    }
}

async fn make<T: FromRedisValue>(call: Call, place: Arc<Place>, url: String) -> RedisResult<T> {
    let mut connection = place.connected(open(url)).await?;
    let answer = match call {
        Call::Command(command) => command.query_async(&mut connection.multiplexed).await,
        Call::Script(script) => script.invoke_async(&mut connection.multiplexed).await,
    };
    connection.judge(&answer);
    answer
}

async fn open(url: String) -> RedisResult<Connection> {
    let info = url.into_connection_info()?;
    // With it, Redis's client tells when the connection is lost, instead of failing the next call.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let client = Client::open(info.set_redis_settings(settings))?;
    let alive = Arc::new(AtomicBool::new(true));
    let lost = alive.clone();
    let config = AsyncConnectionConfig::new()
        // The time is that of the whole call.
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                lost.store(false, Ordering::Relaxed);
            }
            Ok::<_, redis::aio::SendError>(())
        });
    Ok(Connection::new(client.get_multiplexed_async_connection_with_config(&config).await?, alive))
}

/// What a script says that compares with what it finds: whether it did what it should.
fn done(key: &str, asked: Kind, outcome: &str, held: &[u8]) -> Result<bool, StoreError> {
    if outcome != "holds" {
        return Ok(outcome == "done");
    }
    Err(match decode(key, Some(held.to_vec()))? {
        Some(value) => StoreError::OtherType { key: key.to_owned(), held: value.kind(), asked },
        None => StoreError::Foreign(key.to_owned()),
    })
}

fn decode(key: &str, held: Option<Vec<u8>>) -> Result<Option<Value>, StoreError> {
    let Some(held) = held else { return Ok(None) };
    let value = str::from_utf8(&held).ok().and_then(Value::decode);
    value.map(Some).ok_or_else(|| StoreError::Foreign(key.to_owned()))
}

fn explain(key: &str, shape: Shape, error: &RedisError) -> StoreError {
    // Redis 6 wraps what fails in a script into an error of its own.
    let text = error.to_string();
    if text.contains("WRONGTYPE") {
        return match shape {
            Shape::Value => StoreError::HoldsFields(key.to_owned()),
            Shape::Fields => StoreError::HoldsValue(key.to_owned()),
        };
    }
    if text.contains("would overflow") || text.contains("out of range") {
        return StoreError::Overflow(key.to_owned());
    }
    if error.is_unrecoverable_error() || error.is_io_error() {
        return StoreError::Unreachable(text);
    }
    StoreError::Refused(text)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

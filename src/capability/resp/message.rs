//! RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/), as plugins spell it: one command, one reply.

use bytes::Bytes;
use redis::{Cmd, RedisError, RedisResult, Value, parse_redis_value};

/// Commands that change a connection, or hold it up, which others use as well.
const OF_CONNECTIONS: [&str; 30] = [
    "AUTH",
    "BLMOVE",
    "BLMPOP",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BZMPOP",
    "BZPOPMAX",
    "BZPOPMIN",
    "CLIENT",
    "DISCARD",
    "EXEC",
    "HELLO",
    "MONITOR",
    "MULTI",
    "PSUBSCRIBE",
    "PSYNC",
    "PUNSUBSCRIBE",
    "QUIT",
    "READONLY",
    "RESET",
    "SELECT",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SUNSUBSCRIBE",
    "SYNC",
    "UNSUBSCRIBE",
    "UNWATCH",
    "WAIT",
    "WATCH",
];

/// A command of a plugin.
#[derive(Debug)]
pub struct Command(pub(super) Cmd);

/// Why a query is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("the query is not one command, an array of bulk strings of RESP")]
    Malformed,
    #[error("{0} is about a connection, which the plugin shares with others")]
    OfConnection(String),
}

impl Command {
    /// An array of bulk strings, and nothing behind it.
    ///
    /// # Errors
    /// When it is something else, or would change the connection.
    pub fn parse(query: &[u8]) -> Result<Command, CommandError> {
        let Ok(Value::Array(parts)) = parse_redis_value(query) else { return Err(CommandError::Malformed) };
        let mut command = Cmd::new();
        for part in &parts {
            let Value::BulkString(part) = part else { return Err(CommandError::Malformed) };
            command.arg(part.as_slice());
        }
        let Some(Value::BulkString(name)) = parts.first() else { return Err(CommandError::Malformed) };
        if command.get_packed_command() != query {
            return Err(CommandError::Malformed);
        }
        let name = String::from_utf8_lossy(name).to_ascii_uppercase();
        if OF_CONNECTIONS.contains(&name.as_str()) {
            return Err(CommandError::OfConnection(name));
        }
        Ok(Command(command))
    }
}

/// A reply as the server has sent it: also when it is an error.
///
/// # Errors
/// When there is no reply.
pub fn encode(reply: RedisResult<Value>) -> Result<Bytes, RedisError> {
    let mut into = Vec::new();
    match reply {
        Ok(value) => put(&mut into, &value),
        Err(error) => match error.code() {
            Some(code) => put_error(&mut into, code, error.detail()),
            None => return Err(error),
        },
    }
    Ok(into.into())
}

fn put(into: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Okay => line(into, '+', "OK"),
        Value::SimpleString(text) => line(into, '+', text),
        Value::Int(number) => line(into, ':', number),
        Value::BulkString(bytes) => {
            line(into, '$', bytes.len());
            into.extend_from_slice(bytes);
            into.extend_from_slice(b"\r\n");
        }
        Value::Array(values) => {
            line(into, '*', values.len());
            values.iter().for_each(|value| put(into, value));
        }
        Value::ServerError(error) => put_error(into, error.code(), error.details()),
        Value::Nil => line(into, '$', -1),
        other => put_error(into, "ERR", Some(&format!("a reply that RESP2 has not: {other:?}"))),
    }
}

fn put_error(into: &mut Vec<u8>, code: &str, details: Option<&str>) {
    line(into, '-', format_args!("{code}{}{}", if details.is_some() { " " } else { "" }, details.unwrap_or_default()));
}

fn line(into: &mut Vec<u8>, kind: char, text: impl std::fmt::Display) {
    into.extend_from_slice(format!("{kind}{text}\r\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let command = Command::parse(b"*3\r\n$3\r\nset\r\n$1\r\na\r\n$3\r\n\r\n\xff\r\n").unwrap();
        assert_eq!(command.0.get_packed_command(), b"*3\r\n$3\r\nset\r\n$1\r\na\r\n$3\r\n\r\n\xff\r\n");
        for other in [
            &b""[..],
            b"PING\r\n",
            b"+PING\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*1\r\n",
            b"*1\r\n:1\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$4\r\nPING",
            b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n",
            b"*1\r\n*1\r\n$4\r\nPING\r\n",
            b"*9223372036854775807\r\n$4\r\nPING\r\n",
            b"*1\r\n$9223372036854775807\r\nPING\r\n",
            &b"*1\r\n".repeat(100_000),
        ] {
            let error = Command::parse(other).unwrap_err();
            assert_eq!(error, CommandError::Malformed, "{:?}", &other[..other.len().min(40)]);
        }
    }

    #[test]
    fn a_command_that_would_change_the_connection_is_none() {
        for (command, name) in [("SELECT", "SELECT"), ("multi", "MULTI"), ("BLpop", "BLPOP")] {
            let query = format!("*2\r\n${}\r\n{command}\r\n$1\r\n3\r\n", command.len());
            assert_eq!(Command::parse(query.as_bytes()).unwrap_err(), CommandError::OfConnection(name.to_owned()));
        }
        assert!(OF_CONNECTIONS.is_sorted());
    }

    #[test]
    fn a_reply_is_what_the_server_has_sent() {
        for reply in [
            &b"+OK\r\n"[..],
            b"+PONG\r\n",
            b":-1\r\n",
            b"$-1\r\n",
            b"$0\r\n\r\n",
            b"$4\r\n\r\n\0\xff\r\n",
            b"*0\r\n",
            b"*3\r\n$1\r\na\r\n*1\r\n:1\r\n-ERR in a script\r\n",
            b"-ERR unknown command\r\n",
            b"-NOAUTH Authentication required.\r\n",
            b"-WRONGTYPE\r\n",
        ] {
            assert_eq!(encode(parse_redis_value(reply)).unwrap(), reply, "{reply:?}");
        }
        let refused = parse_redis_value(b"-NOAUTH Authentication required.\r\n").and_then(Value::extract_error);
        assert_eq!(encode(refused).unwrap(), "-NOAUTH Authentication required.\r\n");
        assert!(encode(parse_redis_value(b"!")).is_err());
    }
}

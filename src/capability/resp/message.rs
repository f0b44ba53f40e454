//! RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/), as plugins spell it: one command, one reply.

use bytes::Bytes;
use redis::{Cmd, RedisError, RedisResult, Value, parse_redis_value};

/// A command of a plugin.
#[derive(Debug)]
pub struct Command(pub(super) Cmd);

impl Command {
    /// An array of bulk strings, and nothing behind it. None: it is something else.
    pub fn parse(query: &[u8]) -> Option<Command> {
        let Ok(Value::Array(parts)) = parse_redis_value(query) else { return None };
        let mut command = Cmd::new();
        for part in &parts {
            let Value::BulkString(part) = part else { return None };
            command.arg(part.as_slice());
        }
        (!parts.is_empty() && command.get_packed_command() == query).then_some(Command(command))
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
        // The others are of RESP3, which is not spoken.
        _ => line(into, '$', -1),
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
            assert!(Command::parse(other).is_none(), "{:?}", &other[..other.len().min(40)]);
        }
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

//! One step after another.
//!
//! | step | |
//! |---|---|
//! | `["if", CONDITION, [STEP…], [STEP…]]` | `"end"` of the stream, run `1` of this callback in its context, `"/path"` of the request, this context is `"$NAME"` |
//! | `["let", NAME, STEP]` | `"$NAME"` is the number that the step gives |
//! | `["self"]` | the number of the context |
//! | `["return", N]`, `["pause"]` | what the callback returns at its end |
//! | `["raw", FUNCTION, N, …]` | a host function with these numbers |
//! | `["trap"]`, `["loop"]`, `["exit"]`, `["grow"]` | never comes back |
//!
//! and those of `Run::call`: host functions by short names. `http_call`, `grpc_call` and `grpc_stream` take an object;
//! `then` is what to do with answers, in the effective context of who called.

use serde_json::Value;

use crate::abi::*;
use crate::arguments::{Arguments, data, pairs};
use crate::host::{self, Answer, at, place, size};
use crate::{plan, text};

const EMPTY: &[Value] = &[];

/// One callback.
pub struct Run {
    context: i32,
    end: bool,
    number: usize,
    returns: i32,
}

/// What a step gives: a number that can have a name, or text for the log only.
enum Given {
    Nothing,
    Number(i64),
    /// A number that differs from run to run.
    Id(i64),
    Text(String),
    /// A text, and a number that differs from run to run.
    Both(String, i64),
}

impl Run {
    /// Does what the plan has for a callback; what it returns.
    pub fn callback(name: &str, context: i32, arguments: &[i32], returns: i32) -> i32 {
        let arguments = format!("{arguments:?}");
        say(&format!("#{context} {name}({})", arguments.trim_matches(['[', ']'])));
        let last = arguments.trim_end_matches(']').rsplit(' ').next().unwrap_or_default();
        let mut run = Run { context, end: last == "1", number: plan::count(context, name), returns };
        run.steps(plan::of(context)[name].as_array().map_or(EMPTY, Vec::as_slice));
        run.returns
    }

    /// Does what was to be done with an answer to a call, in the context that made it.
    pub fn answer(name: &str, root: i32, call: i32, numbers: &[i32]) {
        let mut arguments = vec![call];
        arguments.extend(numbers);
        Run::callback(name, root, &arguments, 0);
        let Some(call) = plan::call(call) else { return };
        let steps = if call.then.is_array() { &*call.then } else { &call.then[name] };
        let Some(steps) = steps.as_array() else { return };
        if call.context != root {
            // SAFETY: numbers only.
            let status = unsafe { proxy_set_effective_context(call.context) };
            if status != 0 {
                say(&format!("#{root} {name}: its context {} -> {}", call.context, text::status(status)));
                return;
            }
        }
        Run { context: call.context, end: false, number: 0, returns: 0 }.steps(steps);
    }

    fn steps(&mut self, steps: &[Value]) {
        for step in steps {
            self.step(step);
        }
    }

    fn step(&mut self, step: &Value) -> Option<i64> {
        let (name, arguments) = match step.as_array().and_then(|step| step.split_first()) {
            Some((name, arguments)) => (name.as_str().unwrap_or_default(), Arguments(arguments)),
            None => ("", Arguments(EMPTY)),
        };
        match name {
            "if" => {
                let branch = if self.holds(&arguments.0[0]) { 1 } else { 2 };
                let steps = arguments.0.get(branch).and_then(Value::as_array);
                self.steps(steps.map_or(EMPTY, Vec::as_slice));
                return None;
            }
            "let" => {
                let number = self.step(&arguments.0[1]).unwrap_or(-1);
                plan::set(arguments.text(0), number);
                return Some(number);
            }
            "return" => self.returns = arguments.number(0) as i32,
            "pause" => self.returns = 1,
            "trap" => core::arch::wasm32::unreachable(),
            "exit" => std::process::exit(3),
            "loop" => loop {
                std::hint::black_box(0);
            },
            "grow" => while core::arch::wasm32::memory_grow(0, 16) != usize::MAX {},
            _ => {}
        }
        let result = self.call(name, &arguments);
        let (line, number) = match result {
            Ok(Given::Nothing) => ("OK".to_owned(), None),
            Ok(Given::Number(number)) => (number.to_string(), Some(number)),
            Ok(Given::Id(number)) => (if number == 0 { "0" } else { "an id" }.to_owned(), Some(number)),
            Ok(Given::Text(text)) => (text, None),
            Ok(Given::Both(text, number)) => (text, Some(number)),
            Err(status) => (text::status(status), None),
        };
        say(&format!("#{} {name}({}) -> {line}", self.context, arguments.shown()));
        number
    }

    fn holds(&self, condition: &Value) -> bool {
        match condition {
            Value::Number(number) => number.as_u64() == Some(self.number as u64),
            Value::String(end) if end == "end" => self.end,
            Value::String(name) if name.starts_with('$') => plan::get(&name[1..]) == i64::from(self.context),
            Value::String(path) => host::header(0, b":path").is_ok_and(|given| given == path.as_bytes()),
            _ => false,
        }
    }

    /// A host function. SAFETY of all calls: the pointers are to what lives as long as the call.
    fn call(&self, name: &str, given: &Arguments) -> Answer<Given> {
        let number = |index| given.number(index) as i32;
        let bytes = |index| given.bytes(index);
        let done = |status| host::checked(status).map(|()| Given::Nothing);
        let shown = |data: Vec<u8>| Given::Text(text::bytes(&data));
        unsafe {
            match name {
                "return" | "pause" => Ok(Given::Nothing),
                "self" => Ok(Given::Number(self.context.into())),
                "raw" => {
                    let numbers: Vec<_> = (1..given.0.len()).map(number).collect();
                    match raw(given.text(0), &numbers) {
                        Some(status) => done(status),
                        None => Ok(Given::Text("no such function, or too few numbers".into())),
                    }
                }
                "log" => host::log(number(0), given.text(1)).map(|()| Given::Nothing),
                "log_level" => host::number(|to| proxy_get_log_level(to)).map(Given::Number),
                "time" => {
                    let time = host::long(|to| proxy_get_current_time_nanoseconds(to))?;
                    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                    let near = (clock.as_nanos() as i64 - time).abs() < 1_000_000_000;
                    Ok(Given::Both(if near { "now" } else { "not now" }.to_owned(), time))
                }
                "tick" => done(proxy_set_tick_period_milliseconds(number(0))),
                "print" => {
                    println!("{}", given.text(0));
                    Ok(Given::Nothing)
                }
                "eprint" => {
                    eprintln!("{}", given.text(0));
                    Ok(Given::Nothing)
                }
                "env" => Ok(Given::Text(format!("{:?}", std::env::var(given.text(0)).ok()))),

                "buffer" => host::buffer(given.buffer(0), number(1), number(2)).map(shown),
                "buffer_status" => {
                    let (mut length, mut flags) = (0_u32, 0_u32);
                    host::checked(proxy_get_buffer_status(given.buffer(0), place(&mut length), place(&mut flags)))?;
                    Ok(Given::Text(format!("{length} bytes, flags {flags}")))
                }
                "set_buffer" => {
                    let data = bytes(3);
                    done(proxy_set_buffer_bytes(given.buffer(0), number(1), number(2), at(&data), size(&data)))
                }

                "map_size" => host::number(|to| proxy_get_header_map_size(given.map(0), to)).map(Given::Number),
                "pairs" => {
                    let map = host::bytes(|data, length| proxy_get_header_map_pairs(given.map(0), data, length))?;
                    Ok(Given::Text(text::map(&map)))
                }
                "set_pairs" => {
                    let map = given.pairs(1);
                    done(proxy_set_header_map_pairs(given.map(0), at(&map), size(&map)))
                }
                "get" => host::header(given.map(0), &bytes(1)).map(shown),
                "add" => {
                    let (key, value) = (bytes(1), bytes(2));
                    done(proxy_add_header_map_value(given.map(0), at(&key), size(&key), at(&value), size(&value)))
                }
                "replace" => {
                    let (key, value) = (bytes(1), bytes(2));
                    done(proxy_replace_header_map_value(given.map(0), at(&key), size(&key), at(&value), size(&value)))
                }
                "remove" => {
                    let key = bytes(1);
                    done(proxy_remove_header_map_value(given.map(0), at(&key), size(&key)))
                }

                "property" => {
                    let path = given.path(0);
                    host::bytes(|data, length| proxy_get_property(at(&path), size(&path), data, length)).map(shown)
                }
                "property_map" => {
                    let path = given.path(0);
                    let map = host::bytes(|data, length| proxy_get_property(at(&path), size(&path), data, length))?;
                    Ok(Given::Text(text::sorted_map(&map)))
                }
                // Whether there is one, and how long it is: for what differs from run to run.
                "has_property" => {
                    let path = given.path(0);
                    let value = host::bytes(|data, length| proxy_get_property(at(&path), size(&path), data, length))?;
                    Ok(Given::Number(value.len() as i64))
                }
                "set_property" => {
                    let (path, value) = (given.path(0), bytes(1));
                    done(proxy_set_property(at(&path), size(&path), at(&value), size(&value)))
                }

                "continue" => done(proxy_continue_stream(given.stream(0))),
                "close" => done(proxy_close_stream(given.stream(0))),
                "local_response" => done(self.local_response(&given.0[0])),

                "http_call" => self.http_call(&given.0[0]),
                "grpc_call" | "grpc_stream" => self.grpc_call(name, &given.0[0]),
                "grpc_send" => {
                    let message = bytes(1);
                    done(proxy_grpc_send(number(0), at(&message), size(&message), number(2)))
                }
                "grpc_cancel" => done(proxy_grpc_cancel(number(0))),
                "grpc_close" => done(proxy_grpc_close(number(0))),
                "status" => {
                    let mut code = 0_u32;
                    let text = host::bytes(|data, length| proxy_get_status(place(&mut code), data, length))?;
                    Ok(Given::Text(format!("{code} {}", text::bytes(&text))))
                }

                "get_shared" => {
                    let (key, mut cas) = (bytes(0), 0_u32);
                    let cas_at = place(&mut cas);
                    let data =
                        host::bytes(|data, length| proxy_get_shared_data(at(&key), size(&key), data, length, cas_at))?;
                    let text = format!("{} with {} cas", text::bytes(&data), if cas == 0 { "no" } else { "a" });
                    Ok(Given::Both(text, cas.into()))
                }
                "set_shared" => {
                    let (key, value) = (bytes(0), bytes(1));
                    done(proxy_set_shared_data(at(&key), size(&key), at(&value), size(&value), number(2)))
                }
                "register_queue" => {
                    let name = bytes(0);
                    host::number(|to| proxy_register_shared_queue(at(&name), size(&name), to)).map(Given::Id)
                }
                "resolve_queue" => {
                    let (vm, name) = (bytes(0), bytes(1));
                    host::number(|to| proxy_resolve_shared_queue(at(&vm), size(&vm), at(&name), size(&name), to))
                        .map(Given::Id)
                }
                "enqueue" => {
                    let value = bytes(1);
                    done(proxy_enqueue_shared_queue(number(0), at(&value), size(&value)))
                }
                "dequeue" => host::bytes(|data, length| proxy_dequeue_shared_queue(number(0), data, length)).map(shown),

                "define_metric" => {
                    let (kind, name) = (number(0), bytes(1));
                    host::number(|to| proxy_define_metric(kind, at(&name), size(&name), to)).map(Given::Number)
                }
                "increment_metric" => done(proxy_increment_metric(number(0), given.number(1))),
                "record_metric" => done(proxy_record_metric(number(0), given.number(1))),
                "get_metric" => host::long(|to| proxy_get_metric(number(0), to)).map(Given::Number),

                "effective" => done(proxy_set_effective_context(number(0))),
                "done" => done(proxy_done()),
                "foreign" => {
                    let (name, data) = (bytes(0), bytes(1));
                    let call = |to, length| {
                        proxy_call_foreign_function(at(&name), size(&name), at(&data), size(&data), to, length)
                    };
                    host::bytes(call).map(shown)
                }
                _ => Ok(Given::Text("no such step".into())),
            }
        }
    }

    fn local_response(&self, given: &Value) -> i32 {
        let (details, body, headers) = (data(&given["details"]), data(&given["body"]), pairs(&given["headers"]));
        let (status, grpc) = (given["status"].as_i64().unwrap_or(200), given["grpc_status"].as_i64().unwrap_or(-1));
        // SAFETY: as above.
        unsafe {
            proxy_send_local_response(
                status as i32,
                at(&details),
                size(&details),
                at(&body),
                size(&body),
                at(&headers),
                size(&headers),
                grpc as i32,
            )
        }
    }

    fn http_call(&self, given: &Value) -> Answer<Given> {
        let cluster = data(&given["cluster"]);
        let headers = match &given["headers"] {
            Value::Null => host::map(&[
                (b":method".to_vec(), b"GET".to_vec()),
                (b":path".to_vec(), b"/call".to_vec()),
                (b":authority".to_vec(), b"callee".to_vec()),
            ]),
            headers => pairs(headers),
        };
        let (body, trailers) = (data(&given["body"]), pairs(&given["trailers"]));
        let timeout = given["timeout"].as_i64().unwrap_or(5000) as i32;
        // SAFETY: as above.
        let call = host::number(|to| unsafe {
            proxy_http_call(
                at(&cluster),
                size(&cluster),
                at(&headers),
                size(&headers),
                at(&body),
                size(&body),
                at(&trailers),
                size(&trailers),
                timeout,
                to,
            )
        })?;
        plan::called(call, self.context, &given["then"]);
        Ok(Given::Number(call))
    }

    fn grpc_call(&self, name: &str, given: &Value) -> Answer<Given> {
        let cluster = data(&given["cluster"]);
        let text = |key: &str, otherwise: &str| given[key].as_str().unwrap_or(otherwise).to_owned();
        let (service, method) = (text("service", "test.Service"), text("method", "Method"));
        let (metadata, message) = (pairs(&given["metadata"]), data(&given["message"]));
        let timeout = given["timeout"].as_i64().unwrap_or(5000) as i32;
        // SAFETY: as above.
        let call = host::number(|to| unsafe {
            if name == "grpc_stream" {
                return proxy_grpc_stream(
                    at(&cluster),
                    size(&cluster),
                    at(&service),
                    size(&service),
                    at(&method),
                    size(&method),
                    at(&metadata),
                    size(&metadata),
                    to,
                );
            }
            proxy_grpc_call(
                at(&cluster),
                size(&cluster),
                at(&service),
                size(&service),
                at(&method),
                size(&method),
                at(&metadata),
                size(&metadata),
                at(&message),
                size(&message),
                timeout,
                to,
            )
        })?;
        plan::called(call, self.context, &given["then"]);
        Ok(Given::Number(call))
    }
}

/// A line of the log, at level info.
fn say(line: &str) {
    // Where even that does not work, there is nobody to tell.
    let _ = host::log(2, line);
}

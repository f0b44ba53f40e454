//! One call of each function. What is made with results (sockets that are open, sessions that run) is used at once.

use std::hint::black_box;

use phasegate_plugin::host::EntryPoint;
use phasegate_plugin::log::Level;
use phasegate_plugin::websocket::Message;
use phasegate_plugin::{host, http, log, socket, store, websocket};

use crate::random::Random;

pub fn any(r: &mut Random) {
    match r.below(10) {
        0 | 1 => request(r),
        2 | 3 => response(r),
        4 => sessions(r),
        5 => timers_and_more(r),
        6 => network(r),
        7 => websockets(r),
        8 => typed_store(r),
        _ => keyed_store(r),
    }
}

/// Calls one of the functions; its result is dropped.
macro_rules! one_of {
    ($random:ident: $($call:expr;)+) => {{
        let calls: &[fn(&mut Random)] = &[$(|$random: &mut Random| { let _ = &$random; black_box(&$call); }),+];
        let call = $random.one_of(calls);
        call($random);
    }};
}

fn request(r: &mut Random) {
    one_of! { r:
        host::in_get_request();
        host::in_get_header(&r.text());
        host::in_get_headers();
        host::in_is_header(&r.text());
        host::in_add_header(&r.text(), &r.text());
        host::in_add_headers(&r.pairs());
        host::in_set_header(&r.text(), &r.text());
        host::in_del_header(&r.text());
        host::in_del_headers(&r.texts());
        host::in_set_method(&r.text());
        host::in_set_uri(&r.text());
        host::in_body_read_exact();
        host::variable(&r.text());
        host::variable(&format!("http_header_{}", r.text()));
    }
}

fn response(r: &mut Random) {
    one_of! { r:
        host::out_get_status();
        host::out_set_status(r.number() as u16);
        host::out_set_status(200 + r.below(400) as u16);
        host::out_get_header(&r.text());
        host::out_get_headers();
        host::out_is_header(&r.text());
        host::out_add_header(&r.text(), &r.text());
        host::out_add_headers(&r.pairs());
        host::out_set_header(&r.text(), &r.text());
        host::out_del_header(&r.text());
        host::out_del_headers(&r.texts());
        host::out_set_response(&r.response());
        // Seldom: nothing much can be done after it.
        if r.below(10) == 0 { drop(host::out_response(&r.response())); };
    }
}

fn sessions(r: &mut Random) {
    let entries = [
        EntryPoint::WasmMain,
        EntryPoint::WasmMainTimeout,
        EntryPoint::WasmMainExt1,
        EntryPoint::WasmMainExt2,
        EntryPoint::WasmMainExt3,
    ];
    match r.below(12) {
        0 => drop(host::session_send(r.number(), &r.text())),
        // It waits until there is a message.
        1 if host::session_send(host::curr_session_id(), &r.text()).is_ok() => drop(host::session_recv()),
        2 => drop(host::session_try_recv()),
        3 => drop(host::session_request(r.number(), &r.text(), r.moment())),
        4 => drop(host::session_request(host::curr_session_id(), &r.text(), r.moment())),
        5 => drop(host::session_response(&r.text())),
        6 => drop(host::session_quit(r.number())),
        // With few calls, so that what it spawns in turn comes to an end.
        7 if r.below(4) == 0 => drop(host::spawn(r.one_of(&entries), r.maybe(|r| r.below(2).to_string()).as_deref())),
        8 => drop(host::uniq_session_send(&r.text(), &r.text())),
        9 => drop(host::uniq_session_request(&r.text(), &r.text(), r.moment())),
        10 => drop(host::session_send(host::main_session_id(), &r.text())),
        _ => drop(black_box((host::new_session_id(), host::main_fd()))),
    }
}

fn timers_and_more(r: &mut Random) {
    let levels = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
    one_of! { r:
        host::add_timer(r.number(), r.number(), &r.text());
        host::add_timer(r.moment(), r.below(3), &r.text());
        host::del_timer(r.number());
        host::get_timer_timeout(r.moment());
        host::sleep(r.moment());
        host::anyproxy_version();
        log::log_debug(&r.text());
        log::log_trace(&r.text());
    }
    black_box(log::log_enabled(r.one_of(&levels)));
}

fn network(r: &mut Random) {
    match r.below(9) {
        0 => drop(http::handle_http(r.socket_type(), &r.request(), r.moment())),
        1 => {
            let domain = r.maybe(Random::text);
            if let Ok(fd) = socket::socket_connect(r.socket_type(), &r.address(), domain.as_deref(), r.moment()) {
                drop(socket::socket_write_all(fd, &r.bytes(), r.moment()));
                drop(socket::socket_read(fd, r.number(), r.moment()));
            }
        }
        2 => drop(socket::socket_read(r.fd(), r.number(), r.moment())),
        3 => drop(socket::socket_read_exact(r.fd(), r.number(), r.moment())),
        4 => drop(socket::socket_write(r.fd(), &r.bytes(), r.moment())),
        5 => drop(socket::socket_write_all(r.fd(), &r.bytes(), r.moment())),
        6 => drop(socket::socket_flush(r.fd(), r.moment())),
        7 if r.below(4) == 0 => drop(socket::socket_close(r.fd(), r.moment())),
        _ => drop(socket::socket_close(r.number().max(1), r.moment())),
    }
}

fn websockets(r: &mut Random) {
    match r.below(9) {
        0 => {
            if let Ok(fd) = websocket::socket_connect(r.socket_type(), &r.request(), r.moment()) {
                drop(websocket::socket_write(fd, &Message::Text(r.text()), r.moment()));
            }
        }
        1 => drop(websocket::socket_read(r.fd(), r.moment())),
        2 => drop(websocket::socket_write(r.fd(), &Message::Text(r.text()), r.moment())),
        3 => drop(websocket::socket_write(r.fd(), &Message::Binary(r.bytes()), r.moment())),
        4 => drop(websocket::socket_flush(r.fd(), r.moment())),
        5 => drop(websocket::socket_ping(r.fd(), &r.bytes(), r.moment())),
        6 => drop(websocket::socket_close_with(r.fd(), r.number() as u16, &r.text(), r.moment())),
        7 => drop(websocket::socket_close_code(r.fd())),
        _ => drop(websocket::socket_close(r.fd(), r.moment())),
    }
}

/// The four functions of a type.
macro_rules! four {
    ($r:ident, $set:ident $get:ident $hset:ident $hget:ident, $value:expr) => {
        match $r.below(4) {
            0 => drop(store::$set(&$r.key(), $value)),
            1 => drop(store::$get(&$r.key())),
            2 => drop(store::$hset(&$r.key(), &$r.key(), $value)),
            _ => drop(store::$hget(&$r.key(), &$r.key())),
        }
    };
}

fn typed_store(r: &mut Random) {
    match r.below(13) {
        0 => four!(r, set_bool get_bool hset_bool hget_bool, r.below(2) == 0),
        1 => four!(r, set_s8 get_s8 hset_s8 hget_s8, r.number() as i8),
        2 => four!(r, set_s16 get_s16 hset_s16 hget_s16, r.number() as i16),
        3 => four!(r, set_s32 get_s32 hset_s32 hget_s32, r.number() as i32),
        4 => four!(r, set_s64 get_s64 hset_s64 hget_s64, r.number() as i64),
        5 => four!(r, set_u8 get_u8 hset_u8 hget_u8, r.number() as u8),
        6 => four!(r, set_u16 get_u16 hset_u16 hget_u16, r.number() as u16),
        7 => four!(r, set_u32 get_u32 hset_u32 hget_u32, r.number() as u32),
        8 => four!(r, set_u64 get_u64 hset_u64 hget_u64, r.number()),
        9 => four!(r, set_f32 get_f32 hset_f32 hget_f32, f32::from_bits(r.next() as u32)),
        10 => four!(r, set_f64 get_f64 hset_f64 hget_f64, f64::from_bits(r.next())),
        11 => four!(r, set_char get_char hset_char hget_char, char::from_u32(r.next() as u32).unwrap_or('\0')),
        _ => four!(r, set_string get_string hset_string hget_string, &r.text()),
    }
}

fn keyed_store(r: &mut Random) {
    one_of! { r:
        store::del(&r.key());
        store::hdel(&r.key(), &r.key());
        store::incr(&r.key(), r.number() as i64);
        store::incr_with_expiry(&r.key(), r.number() as i64, r.number());
        store::set_string_with_expiry(&r.key(), &r.text(), r.number());
        store::compare_and_set(&r.key(), r.maybe(Random::text).as_deref(), &r.text());
        store::expire(&r.key(), r.number());
        store::expires_in(&r.key());
    }
}

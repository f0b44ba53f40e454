//! A chat room over WebSocket. The room is a named session, one for the whole process. Who talks in it is a run in
//! `wasm_serverless`: its `wasm-main` passes on what the client says, its `wasm-main-ext1` what the room says. All of it is
//! this module, each with its `role`.
//!
//! ```toml
//! [[wasm_session]]
//! name = "lobby"
//! wasm_path = "chat.wasm"
//! wasm_main_config = 'role = "room"'
//!
//! [[server.local.wasm_serverless]]
//! wasm_path = "chat.wasm"
//! wasm_main_config = 'role = "talk"'
//! wasm_main_ext1_config = 'role = "listen"'
//! ```
//!
//! | role | key | default | |
//! |---|---|---|---|
//! | `room` | `most_members` | 1000 | more are turned away, with the close code 1013 |
//! | `talk` | `session` | `lobby` | the name of the room's session |
//! | `talk` | `longest` | 4096 | bytes of a line; a longer one ends the connection, with the close code 1009 |
//! | `listen` | `patience_ms` | 10000 | how long a client may take for a line; one that is slower is closed, with 1013 |
//!
//! A client says who it is in the query, as in `/chat?name=ann`, and then sends and gets lines of text; its own lines come
//! back to it like any other. Control characters in a line, such as its end, become spaces: one line stays one. Another request than for a WebSocket gets 426, one without a name of 1 to 32 characters 400.
//!
//! Verdict: `ok` when the client has left, `return` when it was not let in.

mod room;
mod talk;

use phasegate_plugin::{Verdict, config, export, host, session};
use serde::{Deserialize, Serialize};

export!(main: main, ext1: listen);

#[derive(Deserialize)]
#[serde(tag = "role", rename_all = "lowercase", deny_unknown_fields)]
enum Config {
    Room(room::Config),
    Talk(talk::Config),
    Listen {
        #[serde(default = "ten_seconds")]
        patience_ms: u64,
    },
}

fn ten_seconds() -> u64 {
    10_000
}

/// What the room is told.
#[derive(Serialize, Deserialize)]
struct Word {
    /// The mailbox of the member, where lines go.
    member: u64,
    name: String,
    act: Act,
}

#[derive(Serialize, Deserialize)]
enum Act {
    Come,
    Say(String),
    Leave,
}

/// What the room answers when there is no more room, or none for this member.
const FULL: &str = "full";

fn main(text: Option<String>) -> Result<Verdict, String> {
    match &*config::<Config>(&text)? {
        Config::Room(config) => room::serve(config),
        Config::Talk(config) => talk::talk(config),
        Config::Listen { .. } => Err("`role = \"listen\"` belongs to `wasm_main_ext1_config`".to_owned()),
    }
}

fn listen(text: Option<String>) -> Result<Verdict, String> {
    let Config::Listen { patience_ms } = *config::<Config>(&text)? else {
        return Err("`wasm_main_ext1_config` is `role = \"listen\"`".to_owned());
    };
    // Where the room has to send lines to.
    host::session_send(host::main_session_id(), &host::curr_session_id().to_string())?;
    while let Ok(line) = host::session_recv() {
        if talk::write(line, patience_ms).is_err() {
            break;
        }
    }
    // Too slow for the lines, or for the room, which has closed the mailbox. `wasm-main` sees the end: it reads.
    talk::turn_out("too slow", patience_ms);
    session::rest()
}

//! The room: who is in it, and what they are told.

use std::collections::BTreeMap;

use phasegate_plugin::{Verdict, host, session};
use serde::Deserialize;

use crate::{Act, FULL, Word};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default = "a_thousand")]
    most_members: usize,
}

fn a_thousand() -> usize {
    1000
}

/// Names by mailbox.
type Members = BTreeMap<u64, String>;

pub fn serve(config: &Config) -> Result<Verdict, String> {
    let mut members = Members::new();
    session::serve(|message| {
        let Word { member, name, act } = serde_json::from_str(message).map_err(|error| error.to_string())?;
        if let Act::Leave = act {
            leave(&mut members, member);
            return Ok(None);
        }
        // Also when it says something: the room may have begun anew since this member came.
        if !members.contains_key(&member) {
            let news = format!("* {name} has come");
            // Who was dropped cannot be told anything, and does not come back.
            if members.len() >= config.most_members || host::session_send(member, &news).is_err() {
                return Ok(Some(FULL.to_owned()));
            }
            tell(&mut members, news);
            members.insert(member, name.clone());
        }
        if let Act::Say(line) = act {
            tell(&mut members, format!("{name}: {line}"));
        }
        Ok(Some(String::new()))
    })
}

/// Tells everybody. Who cannot be told any more is gone or too slow, and leaves.
fn tell(members: &mut Members, line: String) {
    let cannot = |member: &u64| host::session_send(*member, &line).is_err();
    let gone: Vec<u64> = members.keys().copied().filter(cannot).collect();
    gone.into_iter().for_each(|member| leave(members, member));
}

/// Who has left gets nothing more, so that its listener ends, and the others are told.
fn leave(members: &mut Members, member: u64) {
    if let Some(name) = members.remove(&member) {
        // No error: it may have gone by itself.
        let _ = host::session_quit(member);
        tell(members, format!("* {name} has left"));
    }
}

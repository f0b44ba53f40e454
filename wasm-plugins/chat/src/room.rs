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
            if members.len() >= config.most_members {
                return Ok(Some(FULL.to_owned()));
            }
            members.insert(member, name.clone());
            tell(&mut members, format!("* {name} has come"));
        }
        if let Act::Say(line) = act {
            tell(&mut members, format!("{name}: {line}"));
        }
        Ok(Some(String::new()))
    })
}

/// Tells everybody. Who cannot be told any more has left, and the others are told of that.
fn tell(members: &mut Members, line: String) {
    let cannot = |member: &u64| host::session_send(*member, &line).is_err();
    let gone: Vec<u64> = members.keys().copied().filter(cannot).collect();
    gone.into_iter().for_each(|member| leave(members, member));
}

fn leave(members: &mut Members, member: u64) {
    if let Some(name) = members.remove(&member) {
        tell(members, format!("* {name} has left"));
    }
}

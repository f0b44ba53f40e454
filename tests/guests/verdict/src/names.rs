//! Verdicts by name. The guest `probe` has this file, too.

use phasegate_plugin::Verdict;

/// The verdict of this name.
pub fn verdict(name: &str) -> Option<Verdict> {
    Some(match name {
        "ok" => Verdict::Ok,
        "break" => Verdict::Break,
        "finish" => Verdict::Finish,
        "error" => Verdict::Error,
        "return" => Verdict::Return,
        "ext1" => Verdict::Ext1,
        "ext2" => Verdict::Ext2,
        "ext3" => Verdict::Ext3,
        _ => return None,
    })
}

//! One run of a script.

/// What the entry points of one run share, beside the request. It is made when the first of them asks for it, and
/// dropped when the run ends: what it holds is released then.
#[derive(Default)]
pub struct Run {}

//! A plugin failure: what `on_failure` acts on.

use super::limits::Exceeded;

/// Why a run ended without a verdict. `detail` is for the log only: it may hold a backtrace.
#[derive(Debug)]
pub struct Failure {
    pub kind: FailureKind,
    pub detail: String,
}

/// The kinds of failure, by which they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// A trap, which is also how a panic and too deep a recursion end.
    Trap,
    /// The entry point returned `err`.
    Err,
    Cpu,
    Memory,
    Wall,
    /// No instance could be made.
    Instantiate,
}

impl FailureKind {
    /// In the order of their values.
    pub const ALL: [FailureKind; 6] = [
        FailureKind::Trap,
        FailureKind::Err,
        FailureKind::Cpu,
        FailureKind::Memory,
        FailureKind::Wall,
        FailureKind::Instantiate,
    ];

    pub fn name(self) -> &'static str {
        match self {
            FailureKind::Err => "err",
            FailureKind::Trap => "trap",
            FailureKind::Cpu => "cpu",
            FailureKind::Memory => "memory",
            FailureKind::Wall => "wall",
            FailureKind::Instantiate => "instantiate",
        }
    }
}

impl Failure {
    pub fn err(message: String) -> Failure {
        Failure { kind: FailureKind::Err, detail: message }
    }

    /// A run that ended by an error of Wasmtime.
    pub fn from_run(error: &wasmtime::Error) -> Failure {
        let kind = match error.downcast_ref::<Exceeded>() {
            Some(Exceeded::Memory(_)) => FailureKind::Memory,
            Some(Exceeded::Cpu(_)) => FailureKind::Cpu,
            Some(Exceeded::Wall(_)) => FailureKind::Wall,
            None => FailureKind::Trap,
        };
        Failure { kind, detail: format!("{error:?}") }
    }

    /// An instance that could not be made.
    pub fn from_instantiation(error: &wasmtime::Error) -> Failure {
        Failure { kind: FailureKind::Instantiate, detail: format!("{error:?}") }
    }
}

impl From<Exceeded> for Failure {
    fn from(exceeded: Exceeded) -> Failure {
        Failure::from_run(&exceeded.into())
    }
}

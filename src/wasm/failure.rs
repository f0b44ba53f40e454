//! A plugin failure: what `on_failure` acts on.

use super::limits::Exceeded;
use crate::phase::FailureKind;

/// Why a run ended without a verdict. `detail` is for the log only: it may hold a backtrace.
#[derive(Debug)]
pub struct Failure {
    pub kind: FailureKind,
    pub detail: String,
}

impl Failure {
    pub fn err(message: String) -> Failure {
        Failure { kind: FailureKind::Err, detail: message }
    }

    /// A run that ended by an error of Wasmtime.
    pub fn from_run(error: &wasmtime::Error) -> Failure {
        let kind = match error.downcast_ref::<Exceeded>() {
            Some(Exceeded::Memory(_)) => FailureKind::Memory,
            Some(Exceeded::Cpu(_) | Exceeded::CpuInAll(_)) => FailureKind::Cpu,
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

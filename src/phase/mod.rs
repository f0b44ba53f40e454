//! The six phases, the verdicts of plugins, and what a chain does with a verdict. Pure logic: this module knows neither
//! Pingora nor Wasmtime.

mod chain;
mod failure;
#[cfg(test)]
mod tests;

pub use chain::{Action, Chain, End, Step, Walk};
pub use failure::FailureKind;

use std::fmt;

/// A point in the life of a request where plugins run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Access,
    Serverless,
    HttpInHeaders,
    HttpFilterHeadersPre,
    HttpFilterHeaders,
    AccessLog,
}

impl Phase {
    /// In the order in which a request meets them.
    pub const ALL: [Phase; 6] = [
        Phase::Access,
        Phase::Serverless,
        Phase::HttpInHeaders,
        Phase::HttpFilterHeadersPre,
        Phase::HttpFilterHeaders,
        Phase::AccessLog,
    ];

    /// The name of the phase: its key in the configuration, and its name in logs and metrics.
    pub fn directive(self) -> &'static str {
        match self {
            Phase::Access => "wasm_access",
            Phase::Serverless => "wasm_serverless",
            Phase::HttpInHeaders => "wasm_http_in_headers",
            Phase::HttpFilterHeadersPre => "wasm_http_filter_headers_pre",
            Phase::HttpFilterHeaders => "wasm_http_filter_headers",
            Phase::AccessLog => "wasm_access_log",
        }
    }

    /// Whether a plugin can end the request here, by `error`, `return` or `status:CODE`.
    pub fn can_end_request(self) -> bool {
        matches!(self, Phase::Access | Phase::Serverless)
    }

    /// Whether a plugin can choose the upstream here: the request has not been sent yet and will be.
    pub fn can_choose_upstream(self) -> bool {
        self == Phase::Access
    }

    /// Whether plugins may edit the request here.
    pub fn can_edit_request(self) -> bool {
        matches!(self, Phase::Access | Phase::Serverless | Phase::HttpInHeaders)
    }

    /// Whether there is a response to read.
    pub fn has_response(self) -> bool {
        self.can_edit_response() || self == Phase::AccessLog
    }

    /// Whether plugins may edit the response here.
    pub fn can_edit_response(self) -> bool {
        matches!(self, Phase::HttpFilterHeadersPre | Phase::HttpFilterHeaders)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.directive())
    }
}

/// Where a script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Phase(Phase),
    /// Not for a request: a named session.
    Session,
}

impl Place {
    /// The name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Place::Phase(phase) => phase.directive(),
            Place::Session => "session",
        }
    }
}

impl From<Phase> for Place {
    fn from(phase: Phase) -> Place {
        Place::Phase(phase)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an entry point returns: the enum `error` of `wasm-std`, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Ok,
    Break,
    Finish,
    Error,
    Return,
    Ext(Ext),
}

/// One of the three verdicts whose meaning the configuration gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ext {
    Ext1,
    Ext2,
    Ext3,
}

impl Ext {
    pub const ALL: [Ext; 3] = [Ext::Ext1, Ext::Ext2, Ext::Ext3];

    /// The value of the variable `wasm_ext`.
    pub fn name(self) -> &'static str {
        match self {
            Ext::Ext1 => "ext1",
            Ext::Ext2 => "ext2",
            Ext::Ext3 => "ext3",
        }
    }
}

impl Verdict {
    pub const ALL: [Verdict; 8] = [
        Verdict::Ok,
        Verdict::Break,
        Verdict::Finish,
        Verdict::Error,
        Verdict::Return,
        Verdict::Ext(Ext::Ext1),
        Verdict::Ext(Ext::Ext2),
        Verdict::Ext(Ext::Ext3),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Break => "break",
            Verdict::Finish => "finish",
            Verdict::Error => "error",
            Verdict::Return => "return",
            Verdict::Ext(ext) => ext.name(),
        }
    }
}

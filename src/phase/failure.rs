//! Why a script or a filter gave no verdict.

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

//! The five entry points of `wasm-service`.

/// An export that the host may run, in the order in which a tie is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryPoint {
    Main,
    Timeout,
    Ext1,
    Ext2,
    Ext3,
}

impl EntryPoint {
    pub const ALL: [EntryPoint; 5] =
        [EntryPoint::Main, EntryPoint::Timeout, EntryPoint::Ext1, EntryPoint::Ext2, EntryPoint::Ext3];

    /// The name of the function in WIT.
    pub fn export(self) -> &'static str {
        match self {
            EntryPoint::Main => "wasm-main",
            EntryPoint::Timeout => "wasm-main-timeout",
            EntryPoint::Ext1 => "wasm-main-ext1",
            EntryPoint::Ext2 => "wasm-main-ext2",
            EntryPoint::Ext3 => "wasm-main-ext3",
        }
    }
}

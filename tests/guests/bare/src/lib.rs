//! A core module that is neither a plugin nor a Proxy-Wasm filter: it has no component type section.

#[unsafe(no_mangle)]
pub extern "C" fn answer() -> u32 {
    42
}

//! What a Proxy-Wasm filter is recognised by, and nothing else.

#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}

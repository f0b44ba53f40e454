//! What the guest `pw_probe` does, and what came of it.

use serde_json::{Value, json};

use crate::support::*;

/// A filter with this name that makes these calls, for the route above it.
pub fn pw_probe(name: &str, plan: &Value) -> String {
    let module = guests::path("pw_probe");
    format!(
        "[[server.local.proxy_wasm]]\nname = '{name}'\nwasm_path = '{}'\nconfiguration = '''{plan}'''\n",
        module.display()
    )
}

/// Steps that read these properties.
pub fn read<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<Value> {
    paths.into_iter().map(|path| json!(["property", (path.split('.').collect::<Vec<_>>())])).collect()
}

/// What the filter of this name has logged of its streams and of itself: steps with their results, and callbacks.
pub fn lines(proxy: &Proxy, filter: &str) -> Vec<String> {
    let log = proxy.log();
    let of = |line: &str| {
        let (_, line) = line.split_once(&format!("filter={filter} request="))?;
        Some(line.split_once('#')?.1.split_once(' ')?.1.to_owned())
    };
    log.lines().filter_map(of).collect()
}

/// As [`lines`], after the stream has ended: the results of one callback, in the order of its steps.
pub fn outcomes(proxy: &Proxy, filter: &str, callback: &str) -> Vec<String> {
    eventually("the end of the stream", || lines(proxy, filter).iter().any(|line| line == "on_delete()"));
    let lines = lines(proxy, filter);
    let of = lines.into_iter().skip_while(|line| !line.starts_with(&format!("{callback}("))).skip(1);
    of.map_while(|line| Some(line.split_once(" -> ")?.1.to_owned())).collect()
}

/// A property that is a number, as the guest shows it.
pub fn number(value: u64) -> String {
    format!("0x{}", value.to_le_bytes().map(|byte| format!("{byte:02x}")).concat())
}

/// A property that is a text.
pub fn text(value: impl std::fmt::Display) -> String {
    format!("{:?}", value.to_string())
}

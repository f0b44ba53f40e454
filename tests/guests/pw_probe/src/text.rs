//! Results as text that is the same on every run.

/// Text in quotes; other bytes in hexadecimal; much of either by its length and checksum.
pub fn bytes(bytes: &[u8]) -> String {
    if bytes.len() > 512 {
        return format!("{} bytes {}", bytes.len(), fnv(bytes));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !"\n\r\t".contains(c)) => format!("{text:?}"),
        _ => format!("0x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

pub fn map(map: &[u8]) -> String {
    lines(map).map_or_else(|| format!("no map: {}", bytes(map)), |pairs| format!("[{}]", pairs.join(", ")))
}

/// A map without an order.
pub fn sorted_map(bytes: &[u8]) -> String {
    let Some(mut pairs) = lines(bytes) else { return map(bytes) };
    pairs.sort();
    format!("[{}]", pairs.join(", "))
}

fn lines(map: &[u8]) -> Option<Vec<String>> {
    let pairs = crate::host::pairs(map)?;
    Some(pairs.iter().map(|(name, value)| format!("{}: {}", bytes(name), bytes(value))).collect())
}

/// A status by its name in the specification.
pub fn status(status: i32) -> String {
    const NAMES: [&str; 13] = [
        "OK",
        "NOT_FOUND",
        "BAD_ARGUMENT",
        "SERIALIZATION_FAILURE",
        "PARSE_FAILURE",
        "BAD_EXPRESSION",
        "INVALID_MEMORY_ACCESS",
        "EMPTY",
        "CAS_MISMATCH",
        "RESULT_MISMATCH",
        "INTERNAL_FAILURE",
        "BROKEN_CONNECTION",
        "UNIMPLEMENTED",
    ];
    let name = usize::try_from(status).ok().and_then(|status| NAMES.get(status));
    name.map_or_else(|| format!("status {status}"), |name| (*name).to_owned())
}

/// FNV-1a of 64 bits.
fn fnv(bytes: &[u8]) -> String {
    let hash =
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

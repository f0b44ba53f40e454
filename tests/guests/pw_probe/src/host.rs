//! The host functions with Rust's types. An error is a status other than OK.

use crate::abi::*;

pub type Answer<T> = Result<T, i32>;

pub fn log(level: i32, text: &str) -> Answer<()> {
    // SAFETY: here as everywhere below, the pointers are to what lives as long as the call.
    checked(unsafe { proxy_log(level, at(text), size(text)) })
}

/// Bytes that the host has allocated here: a call that is given where to write their address and length.
pub fn bytes(call: impl FnOnce(i32, i32) -> i32) -> Answer<Vec<u8>> {
    let (mut data, mut length) = (0_u32, 0_u32);
    checked(call(place(&mut data), place(&mut length)))?;
    let (data, length) = (data as usize as *mut u8, length as usize);
    if data.is_null() || length == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the host got it from `proxy_on_memory_allocate`, whose boxes are as long as they are wide.
    Ok(unsafe { Vec::from_raw_parts(data, length, length) })
}

/// A number that the host writes.
pub fn number(call: impl FnOnce(i32) -> i32) -> Answer<i64> {
    let mut number = 0_u32;
    checked(call(place(&mut number)))?;
    Ok(number.into())
}

/// The same with 64 bits.
pub fn long(call: impl FnOnce(i32) -> i32) -> Answer<i64> {
    let mut number = 0_i64;
    checked(call(place(&mut number)))?;
    Ok(number)
}

pub fn buffer(buffer: i32, start: i32, max: i32) -> Answer<Vec<u8>> {
    bytes(|data, length| unsafe { proxy_get_buffer_bytes(buffer, start, max, data, length) })
}

pub fn header(map: i32, name: &[u8]) -> Answer<Vec<u8>> {
    bytes(|data, length| unsafe { proxy_get_header_map_value(map, at(name), size(name), data, length) })
}

pub fn checked(status: i32) -> Answer<()> {
    if status == 0 { Ok(()) } else { Err(status) }
}

/// The address of something that the host reads.
pub fn at(bytes: &(impl AsRef<[u8]> + ?Sized)) -> i32 {
    bytes.as_ref().as_ptr() as i32
}

pub fn size(bytes: &(impl AsRef<[u8]> + ?Sized)) -> i32 {
    bytes.as_ref().len() as i32
}

/// The address of something that the host writes.
pub fn place<T>(to: &mut T) -> i32 {
    std::ptr::from_mut(to) as i32
}

/// A map as the ABI writes it.
pub fn map(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut map = (pairs.len() as u32).to_le_bytes().to_vec();
    for (name, value) in pairs {
        map.extend((name.len() as u32).to_le_bytes());
        map.extend((value.len() as u32).to_le_bytes());
    }
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        map.extend(text);
        map.push(0);
    }
    map
}

/// The other way; none when the bytes are no map.
pub fn pairs(map: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    if map.is_empty() {
        return Some(Vec::new());
    }
    let number = |at: usize| Some(u32::from_le_bytes(map.get(at..at + 4)?.try_into().ok()?) as usize);
    let count = number(0)?;
    let mut position = 4 + 8 * count;
    let mut text = |length: usize| {
        let text = map.get(position..position + length)?.to_vec();
        (map.get(position + length) == Some(&0)).then_some(())?;
        position += length + 1;
        Some(text)
    };
    let pairs: Option<Vec<_>> =
        (0..count).map(|i| Some((text(number(4 + 8 * i)?)?, text(number(8 + 8 * i)?)?))).collect();
    pairs.filter(|_| position == map.len())
}

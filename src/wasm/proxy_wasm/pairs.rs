//! Maps as they cross between host and guest: how many pairs, the sizes of each key and value, then all of them, each with a
//! NUL after it. Numbers are 32 bits, little-endian. An empty map is no bytes at all.

/// Bytes and pairs of a map that is read at the most: the limits of Envoy.
const MOST_BYTES: usize = 1 << 20;
const MOST_PAIRS: usize = 1024;

/// Bytes of a number, and of the sizes of one pair.
const NUMBER: usize = 4;
const SIZES: usize = 2 * NUMBER;

/// Why bytes are not a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PairsError {
    #[error("a map of {0} bytes is too large: {MOST_BYTES} is the most")]
    TooLarge(usize),
    #[error("a map of {0} pairs has too many: {MOST_PAIRS} is the most")]
    TooMany(usize),
    #[error("the map ends too early")]
    Short,
    #[error("a key or value of the map does not end with a NUL")]
    NoNul,
    #[error("{0} bytes follow the map")]
    Trailing(usize),
}

/// A key and its value.
type Pair<'a> = (&'a [u8], &'a [u8]);

/// The pairs of a map, in order.
///
/// # Errors
/// When it is too large, or no map.
pub fn decode(map: &[u8]) -> Result<Vec<Pair<'_>>, PairsError> {
    if map.is_empty() {
        return Ok(Vec::new());
    }
    if map.len() > MOST_BYTES {
        return Err(PairsError::TooLarge(map.len()));
    }
    let (count, rest) = map.split_first_chunk().ok_or(PairsError::Short)?;
    let count = u32::from_le_bytes(*count) as usize;
    if count > MOST_PAIRS {
        return Err(PairsError::TooMany(count));
    }
    let (sizes, mut data) = rest.split_at_checked(count * SIZES).ok_or(PairsError::Short)?;
    let (sizes, _) = sizes.as_chunks::<NUMBER>();
    let mut sizes = sizes.iter().map(|size| u32::from_le_bytes(*size) as usize);
    let mut pairs = Vec::with_capacity(count);
    while let (Some(key), Some(value)) = (sizes.next(), sizes.next()) {
        pairs.push((text(&mut data, key)?, text(&mut data, value)?));
    }
    if data.is_empty() { Ok(pairs) } else { Err(PairsError::Trailing(data.len())) }
}

/// The map of all pairs that `each` calls with. It is called twice, and has to come to the same both times.
pub fn encode(each: impl Fn(&mut dyn FnMut(&[u8], &[u8]))) -> Vec<u8> {
    let (mut count, mut bytes) = (0, 0);
    each(&mut |key, value| {
        count += 1;
        bytes += key.len() + value.len() + 2;
    });
    if count == 0 {
        return Vec::new();
    }
    let mut map = vec![0; NUMBER + count * SIZES + bytes];
    let (number, rest) = map.split_at_mut(NUMBER);
    let (mut sizes, mut data) = rest.split_at_mut(count * SIZES);
    number.copy_from_slice(&(count as u32).to_le_bytes());
    each(&mut |key, value| {
        for text in [key, value] {
            put(&mut sizes, &(text.len() as u32).to_le_bytes(), 0);
            put(&mut data, text, 1);
        }
    });
    map
}

/// Takes a key or value off the data, and its NUL.
fn text<'a>(data: &mut &'a [u8], size: usize) -> Result<&'a [u8], PairsError> {
    let (text, rest) = data.split_at_checked(size).ok_or(PairsError::Short)?;
    let (nul, rest) = rest.split_first().ok_or(PairsError::Short)?;
    *data = rest;
    if *nul == 0 { Ok(text) } else { Err(PairsError::NoNul) }
}

/// Writes bytes to the begin of a place, and leaves what is behind them and so many more.
fn put(place: &mut &mut [u8], bytes: &[u8], more: usize) {
    let (here, rest) = std::mem::take(place).split_at_mut(bytes.len() + more);
    here[..bytes.len()].copy_from_slice(bytes);
    *place = rest;
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    fn encoded(pairs: &Pairs) -> Vec<u8> {
        encode(|pair| pairs.iter().for_each(|(key, value)| pair(key, value)))
    }

    fn borrowed(pairs: &Pairs) -> Vec<Pair<'_>> {
        pairs.iter().map(|(key, value)| (&key[..], &value[..])).collect()
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(pairs in vec((vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..20)), 0..20)) {
            let map = encoded(&pairs);
            prop_assert_eq!(decode(&map), Ok(borrowed(&pairs)));
        }

        #[test]
        fn what_is_decoded_was_the_encoding_of_that(
            // Numbers that are small, so that some of it is a map.
            map in vec(prop_oneof![4 => Just(0u8), 1 => 0..3u8], 0..60)
        ) {
            if let Ok(pairs) = decode(&map) {
                let pairs: Pairs = pairs.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
                let again = encoded(&pairs);
                prop_assert!(again == map || (again.is_empty() && map == [0; 4]));
            }
        }

        #[test]
        fn a_map_that_is_cut_or_longer_is_none(
            pairs in vec((vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..9)), 1..9),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut map = encoded(&pairs);
            let cut = cut.index(map.len());
            prop_assert_eq!(decode(&map[..cut]).is_ok(), cut == 0);
            map.push(0);
            prop_assert_eq!(decode(&map), Err(PairsError::Trailing(1)));
        }

        #[test]
        fn hostile_bytes_do_no_harm(mut map in vec(any::<u8>(), 0..200), count in 0..5u8) {
            let _ = decode(&map);
            if map.len() >= 4 {
                map[..4].copy_from_slice(&[count, 0, 0, 0]);
                let _ = decode(&map);
            }
        }
    }

    #[test]
    fn the_format_is_that_of_the_abi() {
        let map = encode(|pair| {
            pair(b"a", b"");
            pair(b"", b"bc");
        });
        let sizes = [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
        assert_eq!(map, [&sizes[..], b"a\0\0\0bc\0"].concat());
        assert_eq!(map.capacity(), map.len());
        assert_eq!((encoded(&vec![]), decode(&[])), (vec![], Ok(vec![])));
        assert_eq!(decode(&[0; 4]), Ok(vec![]));
    }

    #[test]
    fn limits() {
        let many = |count| encoded(&vec![(vec![], vec![]); count]);
        assert_eq!(decode(&many(MOST_PAIRS)).unwrap().len(), MOST_PAIRS);
        assert_eq!(decode(&many(MOST_PAIRS + 1)), Err(PairsError::TooMany(MOST_PAIRS + 1)));
        let large = |size: usize| encoded(&vec![(vec![], vec![1; size - 14])]);
        assert_eq!(decode(&large(MOST_BYTES)).unwrap().len(), 1);
        assert_eq!(decode(&large(MOST_BYTES + 1)), Err(PairsError::TooLarge(MOST_BYTES + 1)));
    }

    #[test]
    fn each_part_is_checked() {
        let map = encoded(&vec![(b"k".to_vec(), b"v".to_vec())]);
        let with = |at: usize, byte: u8| {
            let mut map = map.clone();
            map[at] = byte;
            decode(&map).unwrap_err()
        };
        assert_eq!(with(13, 1), PairsError::NoNul, "after the key");
        assert_eq!(with(15, 1), PairsError::NoNul, "after the value");
        assert_eq!(with(4, 9), PairsError::Short, "a key beyond the end");
        assert_eq!(with(11, 0xff), PairsError::Short, "a value far beyond the end");
        assert_eq!(with(0, 2), PairsError::Short, "more pairs than there are");
        assert_eq!(with(0, 0), PairsError::Trailing(12));
        assert_eq!(with(3, 0xff), PairsError::TooMany(0xff00_0001));
        assert_eq!(decode(&[1]), Err(PairsError::Short));
    }
}

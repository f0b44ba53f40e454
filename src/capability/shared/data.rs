//! Shared data: values by key, each with a version, so that a change can depend on nobody else's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

/// Bytes of all keys and values under one `vm_id` at the most.
const MOST_BYTES: usize = 64 << 20;
/// Bytes that a key needs beside itself, about.
const PER_KEY: usize = 96;

/// Why a value was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    #[error("the value has another version by now")]
    CasMismatch,
    #[error("the data that this `vm_id` shares is full: {MOST_BYTES} bytes is the most")]
    Full,
}

/// The values of one namespace.
#[derive(Default)]
pub struct Data(RwLock<Entries>);

/// Gives out versions, from 1; never 0.
#[derive(Default)]
pub struct Versions(AtomicU32);

#[derive(Default)]
struct Entries {
    values: HashMap<Box<[u8]>, (Bytes, u32)>,
    bytes: usize,
}

impl Data {
    pub fn get(&self, key: &[u8]) -> Option<(Bytes, u32)> {
        self.0.read().values.get(key).cloned()
    }

    pub fn set(&self, key: &[u8], value: &[u8], version: u32, versions: &Versions) -> Result<(), SetError> {
        let mut entries = self.0.write();
        let Entries { values, bytes } = &mut *entries;
        let before = values.get_mut(key);
        if before.as_ref().is_some_and(|(_, current)| version != 0 && version != *current) {
            return Err(SetError::CasMismatch);
        }
        let freed = before.as_ref().map_or(0, |(value, _)| value.len());
        let needed = value.len() + if before.is_some() { 0 } else { PER_KEY + key.len() };
        if needed > freed && *bytes - freed + needed > MOST_BYTES {
            return Err(SetError::Full);
        }
        *bytes = *bytes - freed + needed;
        let entry = (Bytes::copy_from_slice(value), versions.next());
        match before {
            Some(before) => *before = entry,
            None => drop(values.insert(key.into(), entry)),
        }
        Ok(())
    }
}

impl Versions {
    fn next(&self) -> u32 {
        loop {
            let next = self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if next != 0 {
                return next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a set is given as the version.
    #[derive(Clone, Copy, Debug)]
    enum Given {
        Zero,
        Current,
        Number(u32),
    }

    proptest! {
        #[test]
        fn it_is_a_map_with_versions(
            sets in proptest::collection::vec((0..4u8, any::<[u8; 2]>(), prop_oneof![
                Just(Given::Zero), Just(Given::Current), (0..20u32).prop_map(Given::Number),
            ]), 0..60),
        ) {
            let (data, versions) = (Data::default(), Versions::default());
            let mut model: HashMap<u8, ([u8; 2], u32)> = HashMap::new();
            let mut last = 0;
            for (key, value, given) in sets {
                let current = model.get(&key).map(|(_, version)| *version);
                let version = match given {
                    Given::Zero => 0,
                    Given::Current => current.unwrap_or(7),
                    Given::Number(number) => number,
                };
                let fits = current.is_none_or(|current| version == 0 || version == current);
                let result = data.set(&[key], &value, version, &versions);
                prop_assert_eq!(result, if fits { Ok(()) } else { Err(SetError::CasMismatch) });
                if fits {
                    last += 1;
                    model.insert(key, (value, last));
                }
                for key in 0..4 {
                    let expected = model.get(&key).map(|(value, version)| (Bytes::copy_from_slice(value), *version));
                    prop_assert_eq!(data.get(&[key]), expected);
                }
            }
        }
    }

    #[test]
    fn of_all_who_change_one_version_one_wins() {
        let (data, versions) = (Data::default(), Versions::default());
        data.set(b"n", &0u32.to_le_bytes(), 0, &versions).unwrap();
        let add_one = || {
            loop {
                let (value, version) = data.get(b"n").unwrap();
                let n = u32::from_le_bytes(value.as_ref().try_into().unwrap()) + 1;
                if data.set(b"n", &n.to_le_bytes(), version, &versions).is_ok() {
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| add_one()));
            }
        });
        assert_eq!(data.get(b"n").unwrap().0.as_ref(), 4000u32.to_le_bytes());
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let (data, versions) = (Data::default(), Versions::default());
        let half = vec![0; MOST_BYTES / 2];
        data.set(b"a", &half, 0, &versions).unwrap();
        assert_eq!(data.set(b"b", &half, 0, &versions), Err(SetError::Full));
        assert_eq!(data.get(b"b"), None);
        assert_eq!(data.set(b"a", &half, 9, &versions), Err(SetError::CasMismatch));
        let rest = MOST_BYTES - PER_KEY - 1;
        data.set(b"a", &vec![0; rest], 1, &versions).unwrap();
        assert_eq!(data.set(b"a", &vec![0; rest + 1], 2, &versions), Err(SetError::Full));
        data.set(b"a", b"", 2, &versions).unwrap();
        data.set(b"b", &half, 0, &versions).unwrap();
    }

    #[test]
    fn no_version_is_zero() {
        let versions = Versions(AtomicU32::new(u32::MAX - 1));
        assert_eq!([versions.next(), versions.next(), versions.next()], [u32::MAX, 1, 2]);
    }
}

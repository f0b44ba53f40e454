//! What was compiled and is in use, by its content: the same code is compiled once, whatever is configured with it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::file::Digest;

/// Forgets what nobody uses any more.
pub struct InUse<T>(Mutex<HashMap<Digest, Weak<T>>>);

impl<T> Default for InUse<T> {
    fn default() -> InUse<T> {
        InUse(Mutex::default())
    }
}

impl<T> InUse<T> {
    /// What was made of the content with this digest.
    pub fn get(&self, digest: &Digest) -> Option<Arc<T>> {
        self.0.lock().get(digest).and_then(Weak::upgrade)
    }

    /// What was made of the content with this digest, or else is made of it now.
    ///
    /// # Errors
    /// Those of making it.
    pub fn get_or_make<E>(&self, digest: Digest, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        if let Some(made) = self.get(&digest) {
            return Ok(made);
        }
        // Without the lock: it takes long.
        let made = Arc::new(make()?);
        let mut all = self.0.lock();
        all.retain(|_, made| made.strong_count() > 0);
        all.insert(digest, Arc::downgrade(&made));
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_is_made_once_and_forgotten_after() {
        let all = InUse::default();
        let make = |digest, value: &'static str| all.get_or_make(digest, || Ok::<_, ()>(value)).unwrap();
        let [one, two] = [make([1; 32], "a"), make([1; 32], "b")];
        assert!(Arc::ptr_eq(&one, &two));
        drop((one, two));
        let _other = make([2; 32], "c");
        assert_eq!(all.0.lock().len(), 1);
        assert!(all.get(&[1; 32]).is_none());
        assert_eq!(all.get_or_make([3; 32], || Err("no")), Err("no"));
    }
}

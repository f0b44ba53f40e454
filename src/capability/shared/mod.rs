//! What the VMs of Proxy-Wasm filters share: data and queues, by the `vm_id` of the VMs. They outlive VMs and reloads; what
//! was shared under a `vm_id` goes when nothing with that `vm_id` is left.

mod data;
mod queue;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use self::data::{Data, Versions};
use self::queue::{Names, Queues};

pub use data::SetError;
pub use queue::{QueueError, QueueListener};

/// All that is shared in the process.
#[derive(Default)]
pub struct Shared {
    namespaces: Mutex<HashMap<Box<str>, Weak<Namespace>>>,
    versions: Versions,
    queues: Queues,
}

impl Shared {
    /// What is shared under this `vm_id`, which may be empty. It lives as long as one of these answers.
    pub fn open(self: &Arc<Shared>, vm_id: &str) -> Arc<Namespace> {
        let mut namespaces = self.namespaces.lock();
        if let Some(namespace) = namespaces.get(vm_id).and_then(Weak::upgrade) {
            return namespace;
        }
        let namespace = Arc::new(Namespace {
            vm_id: vm_id.into(),
            data: Data::default(),
            queues: Names::default(),
            shared: self.clone(),
        });
        namespaces.insert(vm_id.into(), Arc::downgrade(&namespace));
        namespace
    }

    /// The id of a queue; none when it was never registered.
    pub fn resolve_queue(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        // The lock must be free when the namespace is let go of: that may be the end of it.
        let namespace = self.namespaces.lock().get(vm_id).cloned();
        namespace?.upgrade()?.queues.id(name)
    }

    /// Appends a message, of whoever knows the id, and tells the listener of the queue.
    ///
    /// # Errors
    /// `NotFound`, `Full`
    pub fn enqueue(&self, id: u32, message: &[u8]) -> Result<(), QueueError> {
        self.queues.enqueue(id, message)
    }

    /// Tells the listener of a queue, if it has one, of a message that is there. As [`Shared::enqueue`] does.
    pub fn tell_of_message(&self, id: u32) {
        self.queues.tell_of_message(id);
    }

    /// Takes the oldest message.
    ///
    /// # Errors
    /// `NotFound`, `Empty`
    pub fn dequeue(&self, id: u32) -> Result<Bytes, QueueError> {
        self.queues.dequeue(id)
    }
}

/// What is shared under one `vm_id`.
pub struct Namespace {
    vm_id: Box<str>,
    data: Data,
    queues: Names,
    shared: Arc<Shared>,
}

impl Namespace {
    /// The value of a key, and its version.
    pub fn get(&self, key: &[u8]) -> Option<(Bytes, u32)> {
        self.data.get(key)
    }

    /// Gives a key a value and a version that no value of the process had before. `version` is the one that the key must
    /// have now: 0 stands for any, and a key that has no value yet takes any.
    ///
    /// # Errors
    /// `CasMismatch`, `Full`
    pub fn set(&self, key: &[u8], value: &[u8], version: u32) -> Result<(), SetError> {
        self.data.set(key, value, version, &self.shared.versions)
    }

    /// Makes a queue, or finds the one of this name with what is in it. Messages are told to this listener from now on, and when
    /// it is gone, or there is none, to the one before.
    ///
    /// # Errors
    /// `Full`
    pub fn register_queue(&self, name: &[u8], listener: Option<Weak<dyn QueueListener>>) -> Result<u32, QueueError> {
        self.queues.register(name, listener, &self.shared.queues)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.queues.remove_from(&self.shared.queues);
        let mut namespaces = self.shared.namespaces.lock();
        // It may have been opened anew meanwhile.
        if namespaces.get(&self.vm_id).is_some_and(|current| std::ptr::eq(current.as_ptr(), self)) {
            namespaces.remove(&self.vm_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::shared::queue::tests::Heard;

    #[test]
    fn a_namespace_lives_as_long_as_a_holder() {
        let shared = Arc::new(Shared::default());
        let (one, other) = (shared.open("a"), shared.open("a"));
        one.set(b"k", b"v", 0).unwrap();
        let queue = one.register_queue(b"q", Heard::nobody()).unwrap();
        drop(one);
        assert_eq!(other.get(b"k").unwrap().0, "v");
        assert_eq!(shared.resolve_queue("a", b"q"), Some(queue));
        drop(other);
        assert_eq!(shared.open("a").get(b"k"), None);
        assert_eq!(shared.resolve_queue("a", b"q"), None);
        assert_eq!(shared.enqueue(queue, b"x"), Err(QueueError::NotFound));
        assert!(shared.namespaces.lock().is_empty(), "nothing stays behind");
    }

    #[test]
    fn namespaces_do_not_see_each_other() {
        let shared = Arc::new(Shared::default());
        let (empty, a) = (shared.open(""), shared.open("a"));
        empty.set(b"k", b"empty", 0).unwrap();
        a.set(b"k", b"a", 0).unwrap();
        assert_eq!(empty.get(b"k").unwrap(), ("empty".into(), 1));
        assert_eq!(a.get(b"k").unwrap(), ("a".into(), 2), "versions are of the process");
        let queue = a.register_queue(b"q", Heard::nobody()).unwrap();
        assert_eq!(shared.resolve_queue("", b"q"), None);
        assert_ne!(empty.register_queue(b"q", Heard::nobody()), Ok(queue));
    }

    #[test]
    fn opening_and_dropping_on_many_threads_loses_nothing() {
        let shared = Arc::new(Shared::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let namespace = shared.open("a");
                        namespace.set(b"k", b"v", 0).unwrap();
                        assert!(namespace.get(b"k").is_some());
                        let queue = namespace.register_queue(b"q", Heard::nobody()).unwrap();
                        assert_eq!(shared.resolve_queue("a", b"q"), Some(queue));
                        shared.enqueue(queue, b"x").unwrap();
                    }
                });
            }
        });
        assert!(shared.namespaces.lock().is_empty());
        assert!(shared.queues.is_empty());
    }
}

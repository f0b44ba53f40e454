//! Shared queues: messages in order, from any VM that knows a queue to any that takes them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::capability::budget::{Budget, Taken};

/// Bytes of all queues under one `vm_id` at the most.
const MOST_BYTES: usize = 64 << 20;
/// Bytes that a queue, and a message, need beside themselves, about.
const PER_QUEUE: usize = 256;
const PER_MESSAGE: usize = 48;
/// A queue that is empty again keeps room for so many messages.
const KEEP_CAPACITY: usize = 64;

/// Why a queue did not take, or give, a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    #[error("there is no queue with this id")]
    NotFound,
    #[error("the queue is empty")]
    Empty,
    #[error("the queues of this `vm_id` are full: {MOST_BYTES} bytes is the most")]
    Full,
}

/// Whoever is to take messages from a queue.
pub trait QueueListener: Send + Sync {
    /// A message was put into this queue. Called once a message, by whoever put it there: it must not wait.
    fn queue_ready(&self, queue: u32);
}

/// All queues of the process, by id.
#[derive(Default)]
pub struct Queues {
    table: RwLock<HashMap<u32, Arc<Queue>>>,
    last_id: AtomicU32,
}

/// The queues of one namespace, by name.
pub struct Names {
    ids: Mutex<HashMap<Box<[u8]>, Named>>,
    room: Budget,
}

struct Named {
    id: u32,
    queue: Arc<Queue>,
    _room: Taken,
}

struct Queue {
    state: Mutex<State>,
    room: Budget,
}

struct State {
    messages: VecDeque<(Bytes, Taken)>,
    /// All who have registered and may still be there, the last at the end.
    listeners: Vec<Weak<dyn QueueListener>>,
}

impl State {
    /// The last to register of those who are there.
    fn listener(&mut self) -> Option<Arc<dyn QueueListener>> {
        while let Some(last) = self.listeners.last() {
            let listener = last.upgrade();
            if listener.is_some() {
                return listener;
            }
            self.listeners.pop();
        }
        None
    }

    fn add_listener(&mut self, listener: Weak<dyn QueueListener>) {
        self.listeners.retain(|other| other.strong_count() > 0 && !Weak::ptr_eq(other, &listener));
        self.listeners.push(listener);
    }
}

impl Queues {
    pub fn enqueue(&self, id: u32, message: &[u8]) -> Result<(), QueueError> {
        let queue = self.queue(id)?;
        let room = queue.room.take(PER_MESSAGE + message.len()).ok_or(QueueError::Full)?;
        queue.state.lock().messages.push_back((Bytes::copy_from_slice(message), room));
        self.tell_of_message(id);
        Ok(())
    }

    /// When nobody is left who could hear of it, the message waits for the next to register.
    pub fn tell_of_message(&self, id: u32) {
        let Ok(queue) = self.queue(id) else { return };
        let listener = queue.state.lock().listener();
        if let Some(listener) = listener {
            listener.queue_ready(id);
        }
    }

    pub fn dequeue(&self, id: u32) -> Result<Bytes, QueueError> {
        let queue = self.queue(id)?;
        let mut state = queue.state.lock();
        let (message, _) = state.messages.pop_front().ok_or(QueueError::Empty)?;
        if state.messages.is_empty() {
            state.messages.shrink_to(KEEP_CAPACITY);
        }
        Ok(message)
    }

    fn queue(&self, id: u32) -> Result<Arc<Queue>, QueueError> {
        self.table.read().get(&id).cloned().ok_or(QueueError::NotFound)
    }

    /// An id that is not 0, and that no other queue has.
    fn add(&self, queue: Arc<Queue>) -> u32 {
        let mut table = self.table.write();
        loop {
            let id = self.last_id.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if id != 0 && !table.contains_key(&id) {
                table.insert(id, queue);
                return id;
            }
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.table.read().is_empty()
    }
}

impl Default for Names {
    fn default() -> Names {
        Names { ids: Mutex::default(), room: Budget::new(MOST_BYTES) }
    }
}

impl Names {
    pub fn register(
        &self,
        name: &[u8],
        listener: Option<Weak<dyn QueueListener>>,
        queues: &Queues,
    ) -> Result<u32, QueueError> {
        let mut ids = self.ids.lock();
        if let Some(named) = ids.get(name) {
            if let Some(listener) = listener {
                named.queue.state.lock().add_listener(listener);
            }
            return Ok(named.id);
        }
        let room = self.room.take(PER_QUEUE + name.len()).ok_or(QueueError::Full)?;
        let state = Mutex::new(State { messages: VecDeque::new(), listeners: listener.into_iter().collect() });
        let queue = Arc::new(Queue { state, room: self.room.clone() });
        let id = queues.add(queue.clone());
        ids.insert(name.into(), Named { id, queue, _room: room });
        Ok(id)
    }

    pub fn id(&self, name: &[u8]) -> Option<u32> {
        self.ids.lock().get(name).map(|named| named.id)
    }

    /// The end of all of them.
    pub fn remove_from(&mut self, queues: &Queues) {
        let mut table = queues.table.write();
        for named in self.ids.get_mut().values() {
            table.remove(&named.id);
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The queues it was told of.
    #[derive(Default)]
    pub struct Heard(Mutex<Vec<u32>>);

    impl QueueListener for Heard {
        fn queue_ready(&self, queue: u32) {
            self.0.lock().push(queue);
        }
    }

    impl Heard {
        fn listener(self: &Arc<Heard>) -> Option<Weak<dyn QueueListener>> {
            let listener: Weak<Heard> = Arc::downgrade(self);
            Some(listener)
        }

        pub fn nobody() -> Option<Weak<dyn QueueListener>> {
            None
        }
    }

    #[test]
    fn messages_come_out_in_order_and_once() {
        let (queues, names) = (Queues::default(), Names::default());
        let id = names.register(b"q", Heard::nobody(), &queues).unwrap();
        assert_eq!((id, queues.dequeue(id)), (1, Err(QueueError::Empty)));
        for message in ["one", "", "three"] {
            queues.enqueue(id, message.as_bytes()).unwrap();
        }
        for message in ["one", "", "three"] {
            assert_eq!(queues.dequeue(id).unwrap(), message);
        }
        assert_eq!(queues.dequeue(id), Err(QueueError::Empty));
        assert_eq!(queues.dequeue(id + 1), Err(QueueError::NotFound));
        assert_eq!(queues.enqueue(0, b"x"), Err(QueueError::NotFound));
    }

    #[test]
    fn the_last_to_register_hears_of_each_message_once() {
        let (queues, names) = (Queues::default(), Names::default());
        let (first, second) = (Arc::new(Heard::default()), Arc::new(Heard::default()));
        let id = names.register(b"q", first.listener(), &queues).unwrap();
        queues.enqueue(id, b"1").unwrap();
        assert_eq!(names.register(b"q", second.listener(), &queues), Ok(id));
        queues.enqueue(id, b"2").unwrap();
        queues.enqueue(id, b"3").unwrap();
        assert_eq!((&*first.0.lock(), &*second.0.lock()), (&vec![id], &vec![id, id]));
        assert_eq!(names.register(b"q", Heard::nobody(), &queues), Ok(id));
        queues.enqueue(id, b"3").unwrap();
        assert_eq!(second.0.lock().len(), 3, "nobody takes nothing over");
        assert_eq!(queues.dequeue(id).unwrap(), "1", "what was there stays");
        drop(second);
        queues.enqueue(id, b"4").unwrap();
        assert_eq!(first.0.lock().len(), 2, "who was there before hears again");
        drop(first);
        queues.enqueue(id, b"5").unwrap();
        let third = Arc::new(Heard::default());
        assert_eq!(names.register(b"q", third.listener(), &queues), Ok(id));
        assert_eq!(third.0.lock().len(), 0, "nobody is told of what was there");
    }

    #[test]
    fn listeners_that_are_gone_are_forgotten_and_one_that_registers_again_is_the_last() {
        let (queues, names) = (Queues::default(), Names::default());
        let (first, second) = (Arc::new(Heard::default()), Arc::new(Heard::default()));
        let register = |heard: &Arc<Heard>| names.register(b"q", heard.listener(), &queues).unwrap();
        let id = register(&first);
        register(&second);
        for _ in 0..1000 {
            register(&Arc::default());
        }
        register(&first);
        let count = queues.queue(id).unwrap().state.lock().listeners.len();
        assert_eq!(count, 2);
        queues.enqueue(id, b"1").unwrap();
        assert_eq!((first.0.lock().len(), second.0.lock().len()), (1, 0));
    }

    #[test]
    fn a_listener_may_take_the_message_at_once() {
        struct Taker(Arc<Queues>, Mutex<Vec<Bytes>>);
        impl QueueListener for Taker {
            fn queue_ready(&self, queue: u32) {
                self.1.lock().push(self.0.dequeue(queue).unwrap());
            }
        }
        let (queues, names) = (Arc::new(Queues::default()), Names::default());
        let taker = Arc::new(Taker(queues.clone(), Mutex::default()));
        let listener: Weak<Taker> = Arc::downgrade(&taker);
        let id = names.register(b"q", Some(listener), &queues).unwrap();
        queues.enqueue(id, b"1").unwrap();
        assert_eq!(*taker.1.lock(), ["1"]);
    }

    #[test]
    fn queues_are_bounded_and_messages_give_their_room_back() {
        let (queues, names) = (Queues::default(), Names::default());
        let id = names.register(b"q", Heard::nobody(), &queues).unwrap();
        let other = names.register(b"r", Heard::nobody(), &queues).unwrap();
        let message = vec![0; MOST_BYTES / 2];
        queues.enqueue(id, &message).unwrap();
        assert_eq!(queues.enqueue(other, &message), Err(QueueError::Full));
        assert_eq!(names.register(&message, Heard::nobody(), &queues), Err(QueueError::Full));
        queues.dequeue(id).unwrap();
        queues.enqueue(other, &message).unwrap();
    }

    #[test]
    fn threads_lose_no_message() {
        let (queues, names, heard) = (Queues::default(), Names::default(), Arc::new(Heard::default()));
        let id = names.register(b"q", heard.listener(), &queues).unwrap();
        let taken = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..2u32 {
                let queues = &queues;
                scope.spawn(move || {
                    (0..1000u32).for_each(|n| queues.enqueue(id, &(thread * 1000 + n).to_le_bytes()).unwrap());
                });
                scope.spawn(|| {
                    while taken.lock().len() < 2000 {
                        if let Ok(message) = queues.dequeue(id) {
                            taken.lock().push(u32::from_le_bytes(message.as_ref().try_into().unwrap()));
                        }
                    }
                });
            }
        });
        let mut taken = taken.into_inner();
        taken.sort_unstable();
        assert_eq!(taken, (0..2000).collect::<Vec<_>>());
        assert_eq!(heard.0.lock().len(), 2000);
    }
}

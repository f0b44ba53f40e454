//! Mailboxes: how runs talk to each other, in one request and across the process.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::budget::{Budget, MOST_WAITING, Taken};
use crate::observe::metrics::{Counted, Live};

/// Messages that wait in one mailbox at the most.
pub const MOST_MESSAGES: usize = 1024;
/// Bytes of one message, or answer, at the most.
pub const LARGEST_MESSAGE: usize = 1 << 20;
/// Bytes of all messages that wait in one mailbox at the most.
pub const MOST_BYTES: usize = 16 << 20;

/// So many that senders seldom meet.
const SHARDS: usize = 32;

/// Why a message was not delivered, received or answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    #[error("there is no session {0}: it has ended, or never told its id")]
    Unknown(u64),
    #[error("session {0} has quit and takes no more messages")]
    Closed(u64),
    #[error("the mailbox of session {0} is full: {MOST_MESSAGES} messages, or {MOST_BYTES} bytes, wait in it")]
    Full(u64),
    #[error("{MOST_WAITING} bytes wait in the mailboxes and timers of the process: send again when some are received")]
    NoRoom,
    #[error("a message of {0} bytes is too large: {LARGEST_MESSAGE} bytes is the most")]
    TooLarge(usize),
    #[error("there is no session outside of a run, as during initialization: use sessions in an entry point")]
    NoRun,
    #[error("this session has quit: no more messages come")]
    Quit,
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the session ended, or received another message, without an answer")]
    Unanswered,
    #[error("there is no request to answer: receive one, and answer it once and before the next message")]
    NoRequest,
    #[error("who asked does not wait for the answer any more")]
    AskerGone,
}

/// A number that no other session of this process has, and that nobody guesses: who knows it was told. Never 0.
pub fn new_id() -> u64 {
    loop {
        // The bits of a UUID that are not random are elsewhere in its other half.
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        if high ^ low != 0 {
            return high ^ low;
        }
    }
}

/// What lies in a mailbox.
#[derive(Debug)]
pub struct Message {
    pub value: String,
    /// Of a request.
    pub answer: Option<Answer>,
}

impl Message {
    /// A message that nobody waits for.
    ///
    /// # Errors
    /// When it is too large.
    pub fn new(value: String) -> Result<Message, MailError> {
        Ok(Message { value: small(value)?, answer: None })
    }

    /// A message that wants an answer, and what waits for that.
    ///
    /// # Errors
    /// When it is too large.
    pub fn request(value: String) -> Result<(Message, Asked), MailError> {
        let (answer, asked) = oneshot::channel();
        Ok((Message { value: small(value)?, answer: Some(Answer(answer)) }, Asked(asked)))
    }

    /// Whether it is a request, and nobody waits for its answer any more.
    fn is_given_up(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.0.is_closed())
    }
}

/// Where the answer of a request goes. Dropped, it tells whoever asked that there will be none.
#[derive(Debug)]
pub struct Answer(oneshot::Sender<String>);

impl Answer {
    /// # Errors
    /// When the answer is too large, or nobody waits for it any more.
    pub fn give(self, value: String) -> Result<(), MailError> {
        self.0.send(small(value)?).map_err(|_| MailError::AskerGone)
    }
}

/// Whoever waits for an answer.
pub struct Asked(oneshot::Receiver<String>);

impl Asked {
    /// # Errors
    /// When no answer comes in time, or none can come any more.
    pub async fn answer(self, timeout: Duration) -> Result<String, MailError> {
        match tokio::time::timeout(timeout, self.0).await {
            Ok(answer) => answer.map_err(|_| MailError::Unanswered),
            Err(_) => Err(MailError::Timeout(timeout)),
        }
    }
}

/// All mailboxes of the process, by session id.
pub struct Mailboxes {
    shards: [Mutex<HashMap<u64, Arc<Mailbox>>>; SHARDS],
    live: Live,
    waiting: Budget,
}

impl Mailboxes {
    pub fn new(live: Live, waiting: Budget) -> Mailboxes {
        Mailboxes { shards: Default::default(), live, waiting }
    }

    /// Opens the mailbox of a session: from now on it can be sent to, until the inbox is dropped.
    pub fn open(self: &Arc<Mailboxes>, id: u64) -> Arc<Inbox> {
        let mailbox =
            Arc::new(Mailbox { id, queue: Mutex::default(), changed: Notify::new(), waiting: self.waiting.clone() });
        self.shard(id).lock().insert(id, mailbox.clone());
        Arc::new(Inbox { mailbox, mailboxes: self.clone(), _counted: Counted::new(&self.live.mailboxes) })
    }

    /// Puts a message into a mailbox; never waits.
    ///
    /// # Errors
    /// When there is no such mailbox, it has quit or is full, or the message is too large.
    pub fn send(&self, id: u64, message: Message) -> Result<(), MailError> {
        self.find(id)?.put(message)
    }

    /// Lets a session quit: what waits in its mailbox can still be received, and then comes the end.
    ///
    /// # Errors
    /// When there is no such mailbox. To quit twice is none.
    pub fn quit(&self, id: u64) -> Result<(), MailError> {
        self.find(id)?.quit();
        Ok(())
    }

    fn find(&self, id: u64) -> Result<Arc<Mailbox>, MailError> {
        self.shard(id).lock().get(&id).cloned().ok_or(MailError::Unknown(id))
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<Mailbox>>> {
        // Ids are random, so that they spread by themselves.
        &self.shards[id as usize % SHARDS]
    }
}

/// A mailbox, for the one session that receives from it. With the last of its owners the mailbox is gone.
pub struct Inbox {
    mailbox: Arc<Mailbox>,
    mailboxes: Arc<Mailboxes>,
    _counted: Counted,
}

impl Inbox {
    pub fn id(&self) -> u64 {
        self.mailbox.id
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// When the session has quit and nothing is left.
    pub async fn recv(&self) -> Result<Message, MailError> {
        loop {
            let changed = self.mailbox.changed.notified();
            if let Some(message) = self.try_recv()? {
                return Ok(message);
            }
            changed.await;
        }
    }

    /// The next message, if there is one now. Requests that were given up meanwhile are none.
    ///
    /// # Errors
    /// As [`Inbox::recv`].
    pub fn try_recv(&self) -> Result<Option<Message>, MailError> {
        let mut queue = self.mailbox.queue.lock();
        while let Some((message, _)) = queue.messages.pop_front() {
            queue.bytes -= message.value.len();
            if !message.is_given_up() {
                queue.received += 1;
                return Ok(Some(message));
            }
        }
        if queue.closed { Err(MailError::Quit) } else { Ok(None) }
    }

    /// # Errors
    /// As [`Mailboxes::send`].
    pub fn put(&self, message: Message) -> Result<(), MailError> {
        self.mailbox.put(message)
    }

    pub fn quit(&self) {
        self.mailbox.quit();
    }

    pub fn has_quit(&self) -> bool {
        self.mailbox.queue.lock().closed
    }

    /// Quits, and leaves what waits to another mailbox.
    pub fn hand_over(&self, to: &Inbox) {
        let mut from = self.mailbox.queue.lock();
        // Of the same bounds and still empty: all of it fits.
        *to.mailbox.queue.lock() = Queue {
            messages: std::mem::take(&mut from.messages),
            bytes: std::mem::take(&mut from.bytes),
            ..Queue::default()
        };
        from.closed = true;
        drop(from);
        self.mailbox.changed.notify_one();
    }

    pub fn is_empty(&self) -> bool {
        self.mailbox.queue.lock().messages.iter().all(|(message, _)| message.is_given_up())
    }

    /// How many messages have been received.
    pub fn received(&self) -> u64 {
        self.mailbox.queue.lock().received
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.mailboxes.shard(self.mailbox.id).lock().remove(&self.mailbox.id);
        // Who found it just before must not wait for an answer that cannot come.
        let mut queue = self.mailbox.queue.lock();
        queue.closed = true;
        queue.messages.clear();
    }
}

struct Mailbox {
    id: u64,
    queue: Mutex<Queue>,
    changed: Notify,
    waiting: Budget,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<(Message, Taken)>,
    bytes: usize,
    received: u64,
    closed: bool,
}

impl Queue {
    fn has_room(&self, message: &Message) -> bool {
        self.messages.len() < MOST_MESSAGES && self.bytes + message.value.len() <= MOST_BYTES
    }

    fn drop_given_up(&mut self) {
        self.messages.retain(|(message, _)| !message.is_given_up());
        self.bytes = self.messages.iter().map(|(message, _)| message.value.len()).sum();
    }
}

impl Mailbox {
    fn put(&self, message: Message) -> Result<(), MailError> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(MailError::Closed(self.id));
        }
        if !queue.has_room(&message) {
            queue.drop_given_up();
            if !queue.has_room(&message) {
                return Err(MailError::Full(self.id));
            }
        }
        let taken = self.waiting.take(message.value.len()).ok_or(MailError::NoRoom)?;
        queue.bytes += message.value.len();
        queue.messages.push_back((message, taken));
        drop(queue);
        // There is one receiver at the most; the notice is kept until it looks.
        self.changed.notify_one();
        Ok(())
    }

    fn quit(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_one();
    }
}

fn small(value: String) -> Result<String, MailError> {
    if value.len() > LARGEST_MESSAGE { Err(MailError::TooLarge(value.len())) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailboxes() -> (Arc<Mailboxes>, Live) {
        let live = Live::default();
        (Arc::new(Mailboxes::new(live.clone(), Budget::new(MOST_WAITING))), live)
    }

    fn message(value: &str) -> Message {
        Message::new(value.to_owned()).unwrap()
    }

    #[test]
    fn messages_come_in_order_and_a_mailbox_goes_with_its_inbox() {
        let (mailboxes, live) = mailboxes();
        let inbox = mailboxes.open(7);
        assert_eq!(live.mailboxes.get(), 1);
        for value in ["a", "b"] {
            mailboxes.send(7, message(value)).unwrap();
        }
        assert_eq!(inbox.try_recv().unwrap().unwrap().value, "a");
        assert_eq!(inbox.try_recv().unwrap().unwrap().value, "b");
        assert!(inbox.try_recv().unwrap().is_none());
        assert_eq!(mailboxes.send(8, message("c")), Err(MailError::Unknown(8)));
        drop(inbox);
        assert_eq!(mailboxes.send(7, message("c")), Err(MailError::Unknown(7)));
        assert_eq!(live.mailboxes.get(), 0);
    }

    #[test]
    fn ids_are_unlike_each_other() {
        let ids: Vec<_> = (0..1000).map(|_| new_id()).collect();
        assert!(ids.iter().all(|id| *id != 0));
        // Each of the 64 bits is set in about half of them: none is fixed, as those of a version would be.
        for bit in 0..64 {
            let set = ids.iter().filter(|id| *id >> bit & 1 == 1).count();
            assert!((350..650).contains(&set), "bit {bit}: {set}");
        }
        let gaps: std::collections::HashSet<_> = ids.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        assert_eq!(gaps.len(), 999, "one does not tell the next");
    }

    #[test]
    fn messages_and_their_bytes_are_bounded() {
        let (mailboxes, _) = mailboxes();
        let inbox = mailboxes.open(1);
        (0..MOST_MESSAGES).for_each(|_| mailboxes.send(1, message("x")).unwrap());
        assert_eq!(mailboxes.send(1, message("x")), Err(MailError::Full(1)));
        inbox.try_recv().unwrap().unwrap();
        mailboxes.send(1, message("x")).unwrap();

        let large = "x".repeat(LARGEST_MESSAGE);
        assert_eq!(Message::new(format!("{large}x")).unwrap_err(), MailError::TooLarge(LARGEST_MESSAGE + 1));
        let _inbox = mailboxes.open(2);
        (0..MOST_BYTES / LARGEST_MESSAGE).for_each(|_| mailboxes.send(2, message(&large)).unwrap());
        assert_eq!(mailboxes.send(2, message("x")), Err(MailError::Full(2)));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_a_message_and_by_the_end() {
        let (mailboxes, _) = mailboxes();
        let inbox = mailboxes.open(1);
        let (received, ()) = tokio::join!(inbox.recv(), async { mailboxes.send(1, message("a")).unwrap() });
        assert_eq!(received.unwrap().value, "a");
        mailboxes.send(1, message("b")).unwrap();
        mailboxes.quit(1).unwrap();
        mailboxes.quit(1).unwrap();
        assert_eq!(mailboxes.send(1, message("c")), Err(MailError::Closed(1)));
        assert_eq!(inbox.recv().await.unwrap().value, "b", "what came before is not lost");
        assert_eq!(inbox.recv().await.unwrap_err(), MailError::Quit);

        let waiting = mailboxes.open(2);
        let (received, ()) = tokio::join!(waiting.recv(), async { mailboxes.quit(2).unwrap() });
        assert_eq!(received.unwrap_err(), MailError::Quit);
    }

    #[tokio::test]
    async fn a_request_is_answered_or_says_why_not() {
        let (mailboxes, _) = mailboxes();
        let inbox = mailboxes.open(1);
        let ask = |value: &str| {
            let (message, asked) = Message::request(value.to_owned()).unwrap();
            mailboxes.send(1, message).unwrap();
            asked
        };
        let long = Duration::from_secs(20);
        let asked = ask("1+1");
        inbox.recv().await.unwrap().answer.unwrap().give("2".into()).unwrap();
        assert_eq!(asked.answer(long).await, Ok("2".into()));

        let short = Duration::from_millis(1);
        let asked = ask("late");
        let late = inbox.recv().await.unwrap().answer.unwrap();
        assert_eq!(asked.answer(short).await, Err(MailError::Timeout(short)));
        assert_eq!(late.give("x".into()), Err(MailError::AskerGone));

        let (ignored, waiting) = (ask("ignored"), ask("waiting"));
        drop(inbox.recv().await.unwrap());
        assert_eq!(ignored.answer(long).await, Err(MailError::Unanswered));
        drop(inbox);
        assert_eq!(waiting.answer(long).await, Err(MailError::Unanswered));
    }

    #[test]
    fn all_mailboxes_share_what_may_wait() {
        let waiting = Budget::new(5);
        let mailboxes = Arc::new(Mailboxes::new(Live::default(), waiting.clone()));
        let (one, other) = (mailboxes.open(1), mailboxes.open(2));
        mailboxes.send(1, message("123")).unwrap();
        mailboxes.send(2, message("12")).unwrap();
        assert_eq!(mailboxes.send(2, message("1")), Err(MailError::NoRoom));
        one.try_recv().unwrap().unwrap();
        mailboxes.send(2, message("123")).unwrap();
        other.hand_over(&one);
        assert_eq!(mailboxes.send(1, message("1")), Err(MailError::NoRoom));
        drop((one, other));
        assert!(waiting.take(5).is_some());
    }

    #[test]
    fn requests_that_were_given_up_take_no_room() {
        let (mailboxes, _) = mailboxes();
        let inbox = mailboxes.open(1);
        let give_up = || mailboxes.send(1, Message::request("x".into()).unwrap().0);
        (0..MOST_MESSAGES).for_each(|_| give_up().unwrap());
        assert!(inbox.is_empty());
        mailboxes.send(1, message("a")).unwrap();
        (1..MOST_MESSAGES).for_each(|_| give_up().unwrap());
        mailboxes.send(1, message("b")).unwrap();
        assert_eq!(inbox.try_recv().unwrap().unwrap().value, "a");
        give_up().unwrap();
        assert_eq!(inbox.try_recv().unwrap().unwrap().value, "b");
        assert!(inbox.try_recv().unwrap().is_none());
        assert_eq!((inbox.received(), inbox.mailbox.queue.lock().bytes), (2, 0));
    }

    #[tokio::test]
    async fn what_waits_can_be_handed_over() {
        let (mailboxes, _) = mailboxes();
        let (old, new) = (mailboxes.open(1), mailboxes.open(2));
        ["a", "b"].into_iter().for_each(|value| mailboxes.send(1, message(value)).unwrap());
        old.hand_over(&new);
        assert_eq!(old.recv().await.unwrap_err(), MailError::Quit);
        assert_eq!(new.recv().await.unwrap().value, "a");
        assert_eq!(new.recv().await.unwrap().value, "b");
        assert!(new.is_empty() && new.received() == 2);
    }
}

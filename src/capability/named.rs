//! Named sessions: in the whole process one running instance a name. The first message starts it, a failure restarts it.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::mailbox::{self, Inbox, MailError, Mailboxes, Message};
use crate::observe::metrics::{Counted, Live};
use crate::worker::Home;

/// How long a session that is to quit may take before it is cancelled.
pub const GRACE: Duration = Duration::from_secs(1);

/// The pause before a restart: the first, and the longest after it has doubled again and again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What the code of a session is.
pub trait Program: Send + Sync {
    /// Runs the session to its end. It logs and counts its failures itself; one of an inbox that has quit is none.
    fn run(self: Arc<Self>, inbox: Arc<Inbox>) -> BoxFuture<'static, Outcome>;
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Returned,
    Failed,
}

/// A name, and what runs under it.
pub struct Definition {
    pub name: Arc<str>,
    pub program: Arc<dyn Program>,
}

/// Why a named session cannot be sent to.
#[derive(Debug, thiserror::Error)]
pub enum NamedError {
    #[error("there is no session named `{0}`: add `[[wasm_session]]` with `name = \"{0}\"` to the configuration")]
    Unknown(String),
    #[error(transparent)]
    Mail(#[from] MailError),
    #[error("sessions have no thread to run on: {0}")]
    Thread(#[from] std::io::Error),
}

/// All named sessions of the process. They run on a thread of their own, which starts with the first of them: no worker
/// waits for them, and none takes them along when it ends.
pub struct NamedSessions {
    table: RwLock<HashMap<Arc<str>, Arc<Named>>>,
    home: Mutex<Option<Home>>,
    mailboxes: Arc<Mailboxes>,
    live: Live,
}

impl NamedSessions {
    pub fn new(mailboxes: Arc<Mailboxes>, live: Live) -> NamedSessions {
        NamedSessions { table: RwLock::default(), home: Mutex::default(), mailboxes, live }
    }

    /// Puts a message into the mailbox of a session; the first one starts it.
    ///
    /// # Errors
    /// When no session has this name, or as [`Mailboxes::send`].
    pub fn send(&self, name: &str, message: Message) -> Result<(), NamedError> {
        let unknown = || NamedError::Unknown(name.to_owned());
        let named = self.table.read().get(name).cloned().ok_or_else(unknown)?;
        let mut state = named.state.lock();
        if state.program.is_none() {
            return Err(unknown());
        }
        if let Some(inbox) = state.inbox.clone() {
            if !inbox.has_quit() {
                return Ok(inbox.put(message)?);
            }
            // It was quit, but does not end: the message is for the next.
            let put = state.turn_over(inbox, &self.mailboxes).put(message);
            named.changed.notify_one();
            return Ok(put?);
        }
        let home = self.home()?;
        let inbox = self.mailboxes.open(mailbox::new_id());
        inbox.put(message)?;
        state.inbox = Some(inbox);
        if !std::mem::replace(&mut state.supervised, true) {
            home.spawn(named.clone().supervise(Counted::new(&self.live.named_sessions)));
        }
        Ok(())
    }

    /// Puts other definitions in the place of the ones so far. Sessions that run quit: they have [`GRACE`] to end, and
    /// what waits in their mailboxes goes to the new session of the same name, which starts after them. A session whose
    /// name is gone only quits; one whose program is the same goes on. Does not wait.
    pub fn replace(&self, definitions: Vec<Definition>) {
        let mut table = self.table.write();
        let mut before = std::mem::take(&mut *table);
        for Definition { name, program } in definitions {
            let named = before.remove(&name).unwrap_or_else(|| Arc::new(Named::new(name.clone())));
            named.turn_into(Some(program), &self.mailboxes);
            table.insert(name, named);
        }
        for (name, gone) in before {
            gone.turn_into(None, &self.mailboxes);
            // Should the name come back at once, it waits for the end of this one.
            if gone.state.lock().supervised {
                table.insert(name, gone);
            }
        }
    }

    /// Quits all sessions and waits for their end, or until the time for it is over; then they are cancelled. Blocks.
    pub fn shut_down(&self, is_over: impl Fn() -> bool) {
        self.replace(Vec::new());
        while self.live.named_sessions.get() > 0 && !is_over() {
            std::thread::sleep(Duration::from_millis(5));
        }
        *self.home.lock() = None;
    }

    fn home(&self) -> std::io::Result<Handle> {
        let mut home = self.home.lock();
        let home = match &mut *home {
            Some(home) => home,
            none => none.insert(Home::start("sessions")?),
        };
        Ok(home.handle().clone())
    }
}

/// One name.
struct Named {
    name: Arc<str>,
    state: Mutex<State>,
    /// Told when the session that runs is not the one that should.
    changed: Notify,
}

struct State {
    /// None: the name is gone.
    program: Option<Arc<dyn Program>>,
    /// Where messages go; none when nothing runs, or should.
    inbox: Option<Arc<Inbox>>,
    /// Whether the task is there that runs the session.
    supervised: bool,
}

impl Named {
    fn new(name: Arc<str>) -> Named {
        Named {
            name,
            state: Mutex::new(State { program: None, inbox: None, supervised: false }),
            changed: Notify::new(),
        }
    }

    fn turn_into(&self, program: Option<Arc<dyn Program>>, mailboxes: &Arc<Mailboxes>) {
        let mut state = self.state.lock();
        if program.as_ref().zip(state.program.as_ref()).is_some_and(|(program, other)| same(program, other)) {
            return;
        }
        let stays = program.is_some();
        state.program = program;
        let Some(running) = state.inbox.take() else { return };
        if stays {
            state.turn_over(running, mailboxes);
        } else {
            running.quit();
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Runs the session as long as messages come, or failures.
    async fn supervise(self: Arc<Named>, _counted: Counted) {
        let mut pauses = Pauses::default();
        let mut last: Option<Arc<dyn Program>> = None;
        while let Some((program, inbox)) = self.current() {
            // What another program did is nothing against this one.
            if !last.replace(program.clone()).is_some_and(|before| same(&before, &program)) {
                pauses = Pauses::default();
            }
            let (started, received) = (Instant::now(), inbox.received());
            let outcome = self.run(program, &inbox).await;
            if started.elapsed() >= PAUSES.1 {
                pauses = Pauses::default();
            }
            if self.pauses_after(&inbox, outcome, inbox.received() > received) {
                tokio::select! {
                    () = sleep(pauses.next()) => {}
                    () = self.replaced(&inbox) => {}
                }
            }
        }
    }

    /// What is to run, if anything is.
    fn current(&self) -> Option<(Arc<dyn Program>, Arc<Inbox>)> {
        let mut state = self.state.lock();
        let current = state.program.clone().zip(state.inbox.clone());
        state.supervised = current.is_some();
        current
    }

    /// One run, which is cancelled when it has been replaced and does not end.
    async fn run(&self, program: Arc<dyn Program>, inbox: &Arc<Inbox>) -> Outcome {
        let mut run = pin!(AssertUnwindSafe(program.run(inbox.clone())).catch_unwind());
        let overdue = async {
            self.replaced(inbox).await;
            sleep(GRACE).await;
        };
        tokio::select! {
            outcome = &mut run => outcome.unwrap_or(Outcome::Failed),
            () = overdue => {
                log::warn!("the session `{}` did not quit within {} ms: it is cancelled", self.name, GRACE.as_millis());
                Outcome::Returned
            }
        }
    }

    /// Waits until messages go elsewhere.
    async fn replaced(&self, inbox: &Arc<Inbox>) {
        while self.state.lock().has(inbox) {
            self.changed.notified().await;
        }
    }

    /// What a run leaves; whether there has to be a pause before the next.
    fn pauses_after(&self, inbox: &Arc<Inbox>, outcome: Outcome, received: bool) -> bool {
        let mut state = self.state.lock();
        if !state.has(inbox) {
            return false;
        }
        let returned = outcome == Outcome::Returned;
        if inbox.has_quit() || (returned && inbox.is_empty()) {
            state.inbox = None;
            return false;
        }
        // One that returns without a look at what waits would do so again at once, for ever.
        !(returned && received)
    }
}

impl State {
    /// Lets what runs quit, and leaves what waits for it to the one that runs after it.
    fn turn_over(&mut self, running: Arc<Inbox>, mailboxes: &Arc<Mailboxes>) -> &Arc<Inbox> {
        let inbox = mailboxes.open(mailbox::new_id());
        running.hand_over(&inbox);
        self.inbox.insert(inbox)
    }

    fn has(&self, inbox: &Arc<Inbox>) -> bool {
        self.inbox.as_ref().is_some_and(|current| Arc::ptr_eq(current, inbox))
    }
}

fn same(program: &Arc<dyn Program>, other: &Arc<dyn Program>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(program), Arc::as_ptr(other))
}

/// The pauses before restarts: each is twice as long as the one before, and up to a quarter longer, so that sessions
/// which failed together do not come back together.
#[derive(Default)]
struct Pauses(u32);

impl Pauses {
    fn next(&mut self) -> Duration {
        let (first, longest) = PAUSES;
        let pause = first.saturating_mul(1 << self.0).min(longest);
        self.0 = (self.0 + 1).min(16);
        let random = RandomState::new().build_hasher().finish() % 1000;
        pause + pause.mul_f64(random as f64 / 4000.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::capability::budget::Budget;

    /// Answers with its generation and how many messages it has seen; ends on `return`, fails on `fail`, does not listen
    /// any more on `hang`.
    struct Echo {
        generation: &'static str,
        running: Arc<AtomicUsize>,
    }

    struct Running(Arc<AtomicUsize>);

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }

    impl Program for Echo {
        fn run(self: Arc<Self>, inbox: Arc<Inbox>) -> BoxFuture<'static, Outcome> {
            Box::pin(async move {
                assert_eq!(self.running.fetch_add(1, SeqCst), 0, "one at a time");
                let _running = Running(self.running.clone());
                for seen in 1.. {
                    let Ok(message) = inbox.recv().await else { break };
                    match message.value.as_str() {
                        "return" => return Outcome::Returned,
                        "fail" => return Outcome::Failed,
                        "panic" => panic!("as it was told"),
                        "hang" => std::future::pending().await,
                        _ => {
                            let answer = format!("{} {seen}", self.generation);
                            message.answer.into_iter().for_each(|to| to.give(answer.clone()).unwrap());
                        }
                    }
                }
                Outcome::Returned
            })
        }
    }

    struct Test {
        named: NamedSessions,
        live: Live,
        running: Arc<AtomicUsize>,
    }

    impl Test {
        fn new() -> Test {
            let live = Live::default();
            let named = NamedSessions::new(Arc::new(Mailboxes::new(live.clone(), Budget::new(1 << 20))), live.clone());
            let test = Test { named, live, running: Arc::default() };
            test.define(&["a"], "old");
            test
        }

        fn define(&self, names: &[&str], generation: &'static str) {
            let program = || Arc::new(Echo { generation, running: self.running.clone() });
            let define = |name: &&str| Definition { name: (*name).into(), program: program() };
            self.named.replace(names.iter().map(define).collect());
        }

        fn send(&self, value: &str) {
            self.named.send("a", Message::new(value.to_owned()).unwrap()).unwrap();
        }

        async fn ask(&self) -> String {
            let (message, asked) = Message::request("ask".to_owned()).unwrap();
            self.named.send("a", message).unwrap();
            asked.answer(Duration::from_secs(20)).await.unwrap()
        }

        async fn wait_for(&self, running: i64) {
            while self.live.named_sessions.get() != running {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[tokio::test]
    async fn the_first_message_starts_it_and_the_next_after_its_end_starts_it_anew() {
        let test = Test::new();
        assert_eq!(test.live.named_sessions.get(), 0);
        assert_eq!(test.ask().await, "old 1");
        assert_eq!(test.ask().await, "old 2");
        test.send("return");
        test.wait_for(0).await;
        assert_eq!(test.live.mailboxes.get(), 0);
        assert_eq!(test.ask().await, "old 1");
        test.send("return");
        assert_eq!(test.ask().await, "old 1", "what comes before the end is known goes to the next");
        let unknown = test.named.send("b", Message::new("x".into()).unwrap()).unwrap_err().to_string();
        assert!(unknown.contains("[[wasm_session]]") && unknown.contains("name = \"b\""), "{unknown}");
    }

    #[tokio::test]
    async fn a_failure_and_a_panic_restart_it_after_a_pause() {
        let test = Test::new();
        for end in ["fail", "panic"] {
            let start = Instant::now();
            test.send(end);
            assert_eq!(test.ask().await, "old 1", "the message has waited");
            assert!(start.elapsed() >= PAUSES.0, "{:?}", start.elapsed());
        }
    }

    #[tokio::test]
    async fn another_takes_over_what_waits() {
        let test = Test::new();
        test.send("hang");
        eventually_running(&test).await;
        test.send("waits");
        test.define(&["a"], "new");
        assert_eq!(test.ask().await, "new 2");
        // Replaced where it pauses after a failure, it does not pause to the end.
        test.send("fail");
        test.define(&["a"], "newest");
        assert!(test.ask().await.starts_with("newest"));
        test.define(&[], "");
        test.wait_for(0).await;
        assert_eq!((test.live.mailboxes.get(), test.running.load(SeqCst)), (0, 0));
        assert!(matches!(test.named.send("a", Message::new("x".into()).unwrap()), Err(NamedError::Unknown(_))));
    }

    #[tokio::test]
    async fn one_that_was_quit_and_hangs_is_followed_by_the_next() {
        let test = Test::new();
        test.send("hang");
        eventually_running(&test).await;
        test.send("waits");
        let id = test.named.table.read()["a"].state.lock().inbox.as_ref().unwrap().id();
        test.named.mailboxes.quit(id).unwrap();
        let start = Instant::now();
        assert_eq!(test.ask().await, "old 2", "it has what waited, too");
        assert!(start.elapsed() >= GRACE, "{:?}", start.elapsed());
        assert_eq!(test.ask().await, "old 3");
        assert_eq!((test.live.mailboxes.get(), test.running.load(SeqCst)), (1, 1));
    }

    #[tokio::test]
    async fn one_that_was_quit_while_its_mailbox_is_full_is_followed_by_the_next() {
        let test = Test::new();
        test.send("hang");
        eventually_running(&test).await;
        let send = || test.named.send("a", Message::new("waits".to_owned()).unwrap());
        while send().is_ok() {}
        let id = test.named.table.read()["a"].state.lock().inbox.as_ref().unwrap().id();
        test.named.mailboxes.quit(id).unwrap();
        assert!(send().is_err(), "it is full");
        let start = Instant::now();
        while send().is_err() {
            assert!(start.elapsed() < Duration::from_secs(20));
            sleep(Duration::from_millis(1)).await;
        }
        test.ask().await;
    }

    #[tokio::test]
    async fn another_program_begins_with_the_first_pause() {
        let test = Test::new();
        let pause = async |failures| {
            let start = Instant::now();
            (0..failures).for_each(|_| test.send("fail"));
            test.ask().await;
            start.elapsed()
        };
        assert!(pause(2).await >= PAUSES.0 * 3);
        test.define(&["a"], "new");
        assert!(pause(1).await < PAUSES.0 * 2);
    }

    async fn eventually_running(test: &Test) {
        while test.running.load(SeqCst) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn the_end_of_the_process_does_not_wait_for_ever() {
        let test = Test::new();
        test.send("hang");
        eventually_running(&test).await;
        let start = Instant::now();
        test.named.shut_down(|| start.elapsed() > Duration::from_millis(10));
        assert!(start.elapsed() < GRACE);
        test.wait_for(0).await;
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pauses = Pauses::default();
        let pauses: Vec<_> = (0..20).map(|_| pauses.next().as_secs_f64()).collect();
        for (pause, least) in pauses.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]) {
            assert!((least..=least * 1.25).contains(pause), "{pauses:?}");
        }
        assert!(pauses.iter().skip(5).any(|pause| *pause != pauses[5]), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause < 38.0));
    }
}

//! The session of one run: its mailbox, and what it owes.

use std::sync::Arc;

use crate::capability::background::BackgroundError;
use crate::capability::mailbox::{self, Answer, Inbox, MailError, Mailboxes};

/// Why an entry point was not spawned.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("the plugin has no entry point `{0}`")]
    NoEntryPoint(&'static str),
    #[error(transparent)]
    Background(#[from] BackgroundError),
}

/// Who a run is to others; by default, the `wasm-main` of its script run. Its mailbox is opened when its id is asked for:
/// most runs have none.
#[derive(Default)]
pub struct Session {
    /// Made when it is asked for, as most runs never do.
    id: Option<u64>,
    /// Of the `wasm-main` of its script run, when that is another.
    main: Option<u64>,
    inbox: Option<Arc<Inbox>>,
    /// Of the message that was received last, when it was a request.
    answer: Option<Answer>,
}

impl Session {
    /// Of an entry point other than `wasm-main`, which has this id.
    pub fn of_other(main: u64) -> Session {
        Session { main: Some(main), ..Session::default() }
    }

    /// Of a named session, whose mailbox is there before its run.
    pub fn named(inbox: Arc<Inbox>) -> Session {
        Session { id: Some(inbox.id()), inbox: Some(inbox), ..Session::default() }
    }

    /// Of a run that this one spawns; both are open then.
    pub fn spawned(&mut self, mailboxes: &Arc<Mailboxes>) -> Session {
        self.open(mailboxes);
        let mut session = Session::of_other(self.main());
        session.open(mailboxes);
        session
    }

    pub fn id(&mut self) -> u64 {
        *self.id.get_or_insert_with(mailbox::new_id)
    }

    pub fn main(&mut self) -> u64 {
        self.main.unwrap_or_else(|| self.id())
    }

    pub fn open(&mut self, mailboxes: &Arc<Mailboxes>) {
        if self.inbox.is_none() {
            self.inbox = Some(mailboxes.open(self.id()));
        }
    }

    /// Waits for the next message. When it is a request, that is the one to answer; the one before gets no answer any more.
    ///
    /// # Errors
    /// When the session has quit, or was never opened.
    pub async fn recv(&mut self) -> Result<String, MailError> {
        let message = self.inbox.as_ref().ok_or(MailError::Quit)?.recv().await?;
        self.answer = message.answer;
        Ok(message.value)
    }

    /// The next message, if there is one now.
    ///
    /// # Errors
    /// As [`Session::recv`].
    pub fn try_recv(&mut self) -> Result<Option<String>, MailError> {
        let Some(message) = self.inbox.as_ref().ok_or(MailError::Quit)?.try_recv()? else { return Ok(None) };
        self.answer = message.answer;
        Ok(Some(message.value))
    }

    /// Answers the request that was received last, if no message was after it.
    ///
    /// # Errors
    /// When there is none, it was answered, or nobody waits for the answer any more.
    pub fn respond(&mut self, value: String) -> Result<(), MailError> {
        self.answer.take().ok_or(MailError::NoRequest)?.give(value)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capability::budget::Budget;
    use crate::capability::mailbox::Message;

    #[tokio::test]
    async fn an_answer_is_for_what_was_received_last() {
        let mailboxes = Arc::new(Mailboxes::new(Default::default(), Budget::new(1 << 20)));
        let mut session = Session::default();
        session.open(&mailboxes);
        let ask = |session: &mut Session| {
            let (message, asked) = Message::request("ask".into()).unwrap();
            mailboxes.send(session.id(), message).unwrap();
            asked
        };
        let tell = |session: &mut Session| mailboxes.send(session.id(), Message::new("tell".into()).unwrap()).unwrap();
        let (first, ()) = (ask(&mut session), tell(&mut session));
        assert_eq!((session.recv().await.unwrap(), session.recv().await.unwrap()), ("ask".into(), "tell".into()));
        assert_eq!(session.respond("x".into()), Err(MailError::NoRequest));
        assert_eq!(first.answer(Duration::from_secs(20)).await, Err(MailError::Unanswered));

        let (second, ()) = (ask(&mut session), tell(&mut session));
        session.try_recv().unwrap().unwrap();
        session.try_recv().unwrap().unwrap();
        assert_eq!(session.respond("x".into()), Err(MailError::NoRequest));
        assert_eq!(second.answer(Duration::from_secs(20)).await, Err(MailError::Unanswered));
    }
}

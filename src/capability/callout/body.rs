//! The body of a request.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

#[derive(Clone)]
pub enum Payload {
    Whole { data: Bytes, trailers: HeaderMap },
    Piped { pipe: Pipe, attempt: usize },
}

/// A body that is written while it is being sent. Clones are the same.
#[derive(Clone, Default)]
pub struct Pipe(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    /// Bytes in `pieces`.
    unsent: usize,
    /// The one that sends it; those before it have been given up.
    attempt: usize,
    /// Pieces that have been taken and may be wanted again.
    taken: Vec<Bytes>,
    /// Some are not among them any more.
    is_past: bool,
    end: Option<End>,
    /// Of who sends it.
    waker: Option<Waker>,
}

/// Pieces that are held for another try. Most requests that a server refuses have one.
const MOST_TAKEN: usize = 4;

/// Bytes of them, unless it is one.
const MOST_TAKEN_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Cancelled,
}

/// Why a piece is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PipeError {
    #[error("the request has ended")]
    Ended,
    #[error("the server does not take what has been sent before: {0} bytes wait")]
    Full(usize),
}

impl Payload {
    pub fn whole(data: Bytes) -> Payload {
        Payload::Whole { data, trailers: HeaderMap::new() }
    }

    /// For one attempt to send it.
    pub fn attempt(&self) -> Payload {
        match self {
            Payload::Whole { .. } => self.clone(),
            Payload::Piped { pipe, .. } => Payload::Piped { pipe: pipe.clone(), attempt: pipe.0.lock().attempt },
        }
    }

    /// Whether it can be sent again, from its beginning.
    pub fn rewind(&self) -> bool {
        match self {
            Payload::Whole { .. } => true,
            Payload::Piped { pipe, .. } => pipe.rewind(),
        }
    }

    /// It will not be sent again.
    pub fn settle(&self) {
        if let Payload::Piped { pipe, .. } = self {
            pipe.0.lock().settle();
        }
    }
}

impl Pipe {
    /// A body whose pieces are those of the pipe.
    pub fn payload(&self) -> Payload {
        Payload::Piped { pipe: self.clone(), attempt: 0 }
    }

    /// Takes a piece, if no more than this many bytes wait before it.
    ///
    /// # Errors
    /// When more wait, and after the end.
    pub fn push(&self, piece: Bytes, most: usize) -> Result<(), PipeError> {
        let mut queue = self.0.lock();
        if queue.end.is_some() {
            return Err(PipeError::Ended);
        }
        if queue.unsent > most {
            return Err(PipeError::Full(queue.unsent));
        }
        queue.unsent += piece.len();
        queue.pieces.push_back(piece);
        queue.wake();
        Ok(())
    }

    /// The body ends after the pieces so far.
    pub fn finish(&self) {
        let mut queue = self.0.lock();
        queue.end.get_or_insert(End::Finished);
        queue.wake();
    }

    /// Whoever has no whole body yet learns that there will be none.
    pub fn cancel(&self) {
        let mut queue = self.0.lock();
        if queue.end == Some(End::Finished) && queue.pieces.is_empty() {
            return;
        }
        queue.end = Some(End::Cancelled);
        queue.pieces.clear();
        queue.wake();
    }

    fn poll(&self, attempt: usize, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let mut queue = self.0.lock();
        if attempt != queue.attempt {
            return Poll::Ready(Some(Err(Reason::CANCEL.into())));
        }
        if let Some(piece) = queue.pieces.pop_front() {
            queue.unsent -= piece.len();
            let bytes = queue.taken.iter().map(Bytes::len).sum::<usize>() + piece.len();
            if queue.taken.len() == MOST_TAKEN || (!queue.taken.is_empty() && bytes > MOST_TAKEN_BYTES) {
                queue.settle();
            }
            if !queue.is_past {
                queue.taken.push(piece.clone());
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        match queue.end {
            Some(End::Finished) => Poll::Ready(None),
            Some(End::Cancelled) => Poll::Ready(Some(Err(Reason::CANCEL.into()))),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn rewind(&self) -> bool {
        let mut queue = self.0.lock();
        queue.attempt += 1;
        queue.wake();
        while let Some(piece) = queue.taken.pop() {
            queue.unsent += piece.len();
            queue.pieces.push_front(piece);
        }
        !queue.is_past
    }

    fn has_ended(&self, attempt: usize) -> bool {
        let queue = self.0.lock();
        attempt == queue.attempt && queue.pieces.is_empty() && queue.end == Some(End::Finished)
    }
}

impl Queue {
    fn settle(&mut self) {
        self.is_past = true;
        self.taken = Vec::new();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Body for Payload {
    type Data = Bytes;
    /// With the reason for which the stream is reset.
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match &mut *self {
            Payload::Whole { data, .. } if !data.is_empty() => Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            Payload::Whole { trailers, .. } if !trailers.is_empty() => {
                Poll::Ready(Some(Ok(Frame::trailers(std::mem::take(trailers)))))
            }
            Payload::Whole { .. } => Poll::Ready(None),
            Payload::Piped { pipe, attempt } => {
                pipe.poll(*attempt, cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Payload::Whole { data, trailers } => data.is_empty() && trailers.is_empty(),
            Payload::Piped { pipe, attempt } => pipe.has_ended(*attempt),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Payload::Whole { data, trailers } if trailers.is_empty() => SizeHint::with_exact(data.len() as u64),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http_body_util::BodyExt;

    use super::*;

    /// The next piece, if there is one already.
    fn next(payload: &mut Payload) -> Option<Result<Bytes, Option<Reason>>> {
        let frame = payload.frame().now_or_never()??;
        Some(frame.map(|frame| frame.into_data().unwrap()).map_err(|error| error.reason()))
    }

    #[test]
    fn an_attempt_that_has_been_given_up_takes_nothing_from_the_next() {
        let pipe = Pipe::default();
        let payload = pipe.payload();
        let mut old = payload.attempt();
        pipe.push("a".into(), 0).unwrap();
        assert_eq!(next(&mut old), Some(Ok("a".into())));
        assert!(payload.rewind());
        pipe.finish();
        assert_eq!(next(&mut old), Some(Err(Some(Reason::CANCEL))));
        assert!(!old.is_end_stream());
        let mut new = payload.attempt();
        assert_eq!(next(&mut new), Some(Ok("a".into())));
        assert!(new.is_end_stream());
    }

    #[test]
    fn pieces_that_are_held_are_few_and_small() {
        for (sizes, can_again) in [
            (&[1 << 20][..], true),
            (&[1 << 20, 1], false),
            (&[1, 64 << 10], false),
            (&[1, 1, 1, 1], true),
            (&[1, 1, 1, 1, 1], false),
        ] {
            let pipe = Pipe::default();
            let payload = pipe.payload();
            let mut attempt = payload.attempt();
            for size in sizes {
                pipe.push(vec![0; *size].into(), 0).unwrap();
                assert!(next(&mut attempt).is_some());
            }
            assert_eq!(payload.rewind(), can_again, "{sizes:?}");
        }
    }
}

//! Callouts that a VM waits for, by the ids that the guest knows them by.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::task::AbortHandle;

use super::abi::{Direction, Status};
use super::stream::Stream;
use crate::capability::grpc::GrpcStream;

/// The kinds of callout, which the low two bits of an id tell (proxy-wasm-cpp-host, `wasm.h`, and the one of Higress).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http = 0,
    GrpcCall = 1,
    GrpcStream = 2,
    Redis = 3,
}

/// Streams of gRPC that have ended, and that a filter may still want to close, at the most.
const MOST_ENDED: usize = 10_000;

/// Dropped, all are given up.
#[derive(Default)]
pub struct Calls {
    in_flight: HashMap<u32, InFlight>,
    /// Those of gRPC that have ended, and that the filter has not closed, with their root contexts: it may still do so, as in
    /// Envoy.
    ended: BTreeMap<u32, u32>,
    /// The last number that was given.
    last: u32,
}

/// A callout. Dropped, it is given up.
pub struct InFlight {
    /// The root context that waits for it.
    root: u32,
    task: AbortHandle,
    /// What may be paused until it ends, and in which stretch it was made there.
    behalf: Option<(Behalf, u32)>,
    /// Of a gRPC stream.
    sender: Option<GrpcStream>,
    /// Whether the filter has ended its request.
    closed: bool,
}

/// For whom a callout is made: a direction of a stream, at a filter.
pub struct Behalf {
    pub stream: Arc<Stream>,
    pub position: usize,
    pub direction: Direction,
}

impl InFlight {
    pub fn new(root: u32, task: AbortHandle, behalf: Option<Behalf>, sender: Option<GrpcStream>) -> InFlight {
        let behalf = behalf.map(|behalf| {
            let Behalf { stream, position, direction } = &behalf;
            let stretch = stream.lock().held(*direction, *position).begin_callout();
            (behalf, stretch)
        });
        InFlight { root, task, behalf, sender, closed: false }
    }

    /// Whether the filter has ended its request.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The direction for which it was made, if it was for a stream.
    pub fn direction(&self) -> Option<Direction> {
        self.behalf.as_ref().map(|(behalf, _)| behalf.direction)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.task.abort();
        if let Some((Behalf { stream, position, direction }, stretch)) = &self.behalf {
            stream.lock().held(*direction, *position).end_callout(*stretch);
            stream.wake();
        }
    }
}

impl Calls {
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// An id that no callout in flight has.
    pub fn next(&mut self, kind: Kind) -> u32 {
        loop {
            self.last = (self.last + 1) & (u32::MAX >> 2);
            let id = self.last << 2 | kind as u32;
            if self.last != 0 && !self.in_flight.contains_key(&id) && !self.ended.contains_key(&id) {
                return id;
            }
        }
    }

    pub fn insert(&mut self, id: u32, call: InFlight) {
        self.in_flight.insert(id, call);
    }

    pub fn contains(&self, id: u32) -> bool {
        self.in_flight.contains_key(&id)
    }

    /// Takes a callout out: it has ended, or is given up when this is dropped.
    pub fn remove(&mut self, id: u32) -> Option<InFlight> {
        self.in_flight.remove(&id)
    }

    /// One of gRPC has ended by itself. That it is there no more is no mistake of a filter, until [`Calls::forget`].
    pub fn end(&mut self, id: u32) -> Option<InFlight> {
        let call = self.in_flight.remove(&id)?;
        if self.ended.len() >= MOST_ENDED {
            self.ended.pop_first();
        }
        self.ended.insert(id, call.root);
        Some(call)
    }

    pub fn has_ended(&self, id: u32) -> bool {
        self.ended.contains_key(&id)
    }

    pub fn forget(&mut self, id: u32) {
        self.ended.remove(&id);
    }

    /// Ends one of gRPC at once; nothing more comes of it.
    ///
    /// # Errors
    /// When there is none of this id.
    pub fn cancel(&mut self, id: u32) -> Result<(), Status> {
        let is_there = self.in_flight.remove(&id).is_some() || self.ended.remove(&id).is_some();
        is_there.then_some(()).ok_or(Status::NotFound)
    }

    /// Ends the request of a gRPC stream.
    ///
    /// # Errors
    /// As [`Calls::cancel`].
    pub fn close(&mut self, id: u32) -> Result<(), Status> {
        match self.in_flight.get_mut(&id) {
            Some(call) => {
                call.closed = true;
                call.sender.iter().for_each(GrpcStream::close);
                Ok(())
            }
            None => self.cancel(id),
        }
    }

    /// Gives up all that a root context waits for.
    pub fn give_up(&mut self, root: u32) {
        self.in_flight.retain(|_, call| call.root != root);
        self.ended.retain(|_, of| *of != root);
    }

    /// The direction of a stream that waits for a callout.
    pub fn direction(&self, id: u32) -> Option<Direction> {
        self.in_flight.get(&id)?.direction()
    }

    /// The sending half of a gRPC stream; one that was refused has none.
    ///
    /// # Errors
    /// When the id is of another kind, or of none that lives.
    pub fn sender(&self, id: u32) -> Result<Option<&GrpcStream>, Status> {
        if id & 3 != Kind::GrpcStream as u32 {
            return Err(Status::BadArgument);
        }
        self.in_flight.get(&id).map(|call| call.sender.as_ref()).ok_or(Status::NotFound)
    }
}

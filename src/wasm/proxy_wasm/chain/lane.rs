//! One direction of a stream: where headers, body and trailers are among the filters.

use bytes::Bytes;

use crate::observe::metrics::Counted;
use crate::wasm::proxy_wasm::abi::Direction;
use crate::wasm::proxy_wasm::buffer::Buffer;
use crate::wasm::proxy_wasm::stream::Http;

pub struct Lane {
    direction: Direction,
    /// Whether the headers have come.
    begun: bool,
    ends_with_headers: bool,
    /// In the order of the way. No chain is empty.
    stages: Vec<Stage>,
    /// What has passed all of them.
    out: Buffer,
    out_end: Option<End>,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Body,
    Trailers,
}

/// A message at one filter.
#[derive(Default)]
pub struct Stage {
    pub headers: Headers,
    pub pause: Pause,
    /// Has come, and was not shown to the filter yet.
    inbox: Buffer,
    /// The filter has seen it, and holds it without wanting to see it again.
    kept: Buffer,
    end: Option<End>,
    /// Whether the filter has been told of the end.
    pub told: bool,
    /// Whether the end has gone on.
    ended: bool,
    /// While it is paused.
    paused: Option<Counted>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Headers {
    /// They have not come this far.
    #[default]
    Ahead,
    /// Paused; the body is shown to the filter meanwhile.
    Held,
    /// Paused, with everything after them.
    HeldWithAll,
    Passed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pause {
    #[default]
    None,
    Body,
    Trailers,
    /// Everything that comes: the headers have gone on by themselves.
    All,
}

impl Stage {
    pub fn is_paused(&self) -> bool {
        matches!(self.headers, Headers::Held | Headers::HeldWithAll) || self.pause != Pause::None
    }

    /// Counts the stream as paused, if it is.
    pub fn count_pause(&mut self, count: impl FnOnce() -> Counted) {
        if !self.is_paused() {
            self.paused = None;
        } else if self.paused.is_none() {
            self.paused = Some(count());
        }
    }

    /// Whether the filter can be shown what follows the headers.
    fn takes_more(&self) -> bool {
        matches!(self.headers, Headers::Held | Headers::Passed) && self.pause != Pause::All
    }
}

impl Lane {
    pub fn new(direction: Direction, filters: usize) -> Lane {
        let stages = (0..filters).map(|_| Stage::default()).collect();
        Lane { direction, begun: false, ends_with_headers: false, stages, out: Buffer::default(), out_end: None }
    }

    /// The headers have come. Those of a local reply begin a response anew that another has begun.
    pub fn begin(&mut self, end: bool) {
        if self.begun {
            *self = Lane::new(self.direction, self.stages.len());
        }
        self.begun = true;
        self.ends_with_headers = end;
    }

    pub fn feed(&mut self, data: Bytes, end: Option<End>) {
        if let Some(stage) = self.stages.first_mut() {
            stage.inbox.append(data.into());
            stage.end = stage.end.or(end);
        }
    }

    pub fn take(&mut self) -> (Option<Bytes>, Option<End>) {
        let data = self.out.take().freeze();
        ((!data.is_empty()).then_some(data), self.out_end.take())
    }

    pub fn headers_passed(&self) -> bool {
        self.stages.last().is_some_and(|stage| stage.headers == Headers::Passed)
    }

    pub fn holds_headers_alone(&self) -> bool {
        let stuck = self.stages.iter().find(|stage| stage.headers != Headers::Passed);
        stuck.is_some_and(|stage| stage.headers == Headers::Held)
    }

    pub fn has_begun(&self) -> bool {
        self.begun
    }

    pub fn ends_with_headers(&self) -> bool {
        self.ends_with_headers
    }

    /// Of a filter in the chain.
    pub fn position(&self, index: usize) -> usize {
        match self.direction {
            Direction::Request => index,
            Direction::Response => self.stages.len() - 1 - index,
        }
    }

    pub fn stage(&self, index: usize) -> &Stage {
        &self.stages[index]
    }

    pub fn stage_mut(&mut self, index: usize) -> &mut Stage {
        &mut self.stages[index]
    }

    pub fn has_headers_for(&self, index: usize) -> bool {
        let come = self.begun && (index == 0 || self.stages[index - 1].headers == Headers::Passed);
        come && self.stages[index].headers == Headers::Ahead
    }

    /// Whether there is anything to show: data, or an end without any.
    pub fn has_body_for(&self, index: usize) -> bool {
        let stage = &self.stages[index];
        let ends = stage.end == Some(End::Body) && !stage.told;
        stage.takes_more() && (!stage.inbox.is_empty() || ends)
    }

    pub fn has_trailers_for(&self, index: usize) -> bool {
        let stage = &self.stages[index];
        stage.takes_more() && stage.end == Some(End::Trailers) && !stage.told
    }

    /// What is shown to a filter now, and whether it is the end.
    pub fn show_body(&mut self, index: usize) -> (Buffer, bool) {
        let stage = &mut self.stages[index];
        let end = stage.end == Some(End::Body);
        stage.told |= end;
        (stage.inbox.take(), end)
    }

    /// The filter holds these bytes, and the next callback is about what follows them.
    pub fn keep(&mut self, index: usize, body: Buffer) {
        self.stages[index].kept.append(body);
    }

    /// Everything that the filter was shown goes on, with these bytes. `trailers`: there are some now.
    pub fn release(&mut self, index: usize, mut body: Buffer, trailers: bool) {
        let stage = &mut self.stages[index];
        if !stage.kept.is_empty() {
            let mut whole = stage.kept.take();
            whole.append(body);
            body = whole;
        }
        stage.headers = Headers::Passed;
        stage.pause = Pause::None;
        let end = stage.end.filter(|_| stage.told && !stage.ended);
        let end = end.map(|end| if trailers { End::Trailers } else { end });
        if !stage.ended {
            stage.ended = end.is_some();
            self.pass_on(index, body, end);
        }
    }

    /// Bytes that have passed a filter, and nobody has taken yet.
    pub fn waits_behind(&self, index: usize) -> usize {
        self.stages.get(index + 1).map_or(&self.out, |next| &next.inbox).len()
    }

    /// Goes on from a filter by itself, whatever that holds; if it is the end, nothing follows it. The headers have come this far.
    pub fn inject(&mut self, index: usize, body: Buffer, end: bool) {
        let stage = &mut self.stages[index];
        if stage.ended {
            return;
        }
        if stage.headers == Headers::HeldWithAll {
            stage.pause = Pause::All;
        }
        stage.headers = Headers::Passed;
        stage.ended = end;
        self.pass_on(index, body, end.then_some(End::Body));
    }

    fn pass_on(&mut self, index: usize, body: Buffer, end: Option<End>) {
        let (into, into_end) = match self.stages.get_mut(index + 1) {
            Some(next) => (&mut next.inbox, &mut next.end),
            None => (&mut self.out, &mut self.out_end),
        };
        into.append(body);
        *into_end = into_end.or(end);
    }

    /// The position of the first filter that has paused this direction.
    pub fn paused(&self) -> Option<usize> {
        self.stages.iter().position(Stage::is_paused).map(|index| self.position(index))
    }

    /// Whether some filter holds, or has waiting, more than it may.
    pub fn is_full(&self, http: &mut Http) -> bool {
        self.stages.iter().enumerate().any(|(index, stage)| {
            let held = http.held(self.direction, self.position(index));
            stage.is_paused() && held.body.len() + stage.kept.len() + stage.inbox.len() > held.limit
        })
    }
}

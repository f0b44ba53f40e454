//! What is tried in both proxies: filters, the origins behind, the requests, and where the two are known to differ.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::reason::Reason;
use crate::support::guests;

pub struct Case {
    pub name: &'static str,
    pub filters: Vec<Filter>,
    pub origins: Vec<Origin>,
    pub requests: Vec<Request>,
    /// What the log must have said, beyond the end of all requests, before it is looked at.
    pub waits_for: Option<&'static str>,
    /// Lines of the log are compared sorted and each once: for what Envoy does on its main thread too.
    pub unordered: bool,
    /// A Lua script in front of the filters, in Envoy only.
    pub lua: Option<&'static str>,
    /// What the origin has seen when the request is ended under way is chance.
    pub ends_under_way: bool,
    /// Envoy does not survive it: what is compared is only that Phasegate does.
    pub crashes: Option<Reason>,
    /// How many bytes a body may have that is held, where it is not the default.
    pub buffer_limit: Option<u32>,
}

#[derive(Clone)]
pub struct Filter {
    pub module: PathBuf,
    pub configuration: String,
    pub vm_configuration: String,
    pub root_id: &'static str,
    /// The case's name unless it is set.
    pub vm_id: Option<&'static str>,
    pub environment: Vec<(&'static str, &'static str)>,
    /// `closed`, `open`, `reload`.
    pub failure_policy: &'static str,
    pub allowed_capabilities: Vec<&'static str>,
    pub allow_on_headers_stop_iteration: bool,
}

/// A server, and what it answers to its n-th request, from 0.
#[derive(Clone)]
pub struct Origin {
    /// `origin` is where requests go; others are clusters for callouts. `@name` in a configuration is such a cluster.
    pub name: &'static str,
    pub h2: bool,
    /// Nobody listens there.
    pub down: bool,
    pub answer: Arc<Answers>,
}

/// By the number of the request and its path.
type Answers = dyn Fn(usize, &str) -> Answer + Send + Sync;

#[derive(Clone)]
pub enum Answer {
    Response(Message),
    /// As soon as the header of the request is there.
    Early(Message),
    /// Never answers.
    Silence,
    /// Ends the connection.
    Reset,
}

#[derive(Clone)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub h2: bool,
    pub message: Message,
    /// It comes this long after the one before.
    pub after: Duration,
    /// The client leaves after this time.
    pub leaves_after: Option<Duration>,
}

/// The half of an exchange.
#[derive(Clone, Default)]
pub struct Message {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    /// Each is sent once the one before has gone out.
    pub chunks: Vec<Bytes>,
    pub trailers: Vec<(&'static str, &'static str)>,
    /// The connection ends after the chunks.
    pub broken: bool,
    /// Each chunk comes long after the one before: a callout has been answered meanwhile.
    pub slow: bool,
}

impl Case {
    pub fn new(name: &'static str, filter: Filter) -> Case {
        Case {
            name,
            filters: vec![filter],
            origins: vec![Origin::new("origin", |_, _| response(200, "hello"))],
            requests: Vec::new(),
            waits_for: None,
            unordered: false,
            lua: None,
            ends_under_way: false,
            crashes: None,
            buffer_limit: None,
        }
    }

    /// The guest `pw_probe` with this plan, and one GET of `/`.
    pub fn probe(name: &'static str, plan: Value) -> Case {
        Case::new(name, Filter::probe(plan))
    }

    /// Another filter after the first.
    pub fn then(mut self, filter: Filter) -> Case {
        self.filters.push(filter);
        self
    }

    /// With this origin, or another cluster.
    pub fn origin(mut self, origin: Origin) -> Case {
        self.origins.retain(|other| other.name != origin.name);
        self.origins.push(origin);
        self
    }

    /// With an origin that always answers so.
    pub fn answered(self, message: Message) -> Case {
        // In HTTP/1.1 trailers come only to who says that it wants them.
        let h2 = !message.trailers.is_empty();
        self.origin(Origin { h2, ..Origin::new("origin", move |_, _| message.clone()) })
    }

    /// With a cluster `@callee` that answers with its number and the path.
    pub fn callee(self) -> Case {
        self.origin(Origin::new("callee", |number, path| {
            response(200, format!("answer {number} to {path}")).header("x-callee", "yes")
        }))
    }

    pub fn request(mut self, request: Request) -> Case {
        self.requests.push(request);
        self
    }

    pub fn until(mut self, line: &'static str) -> Case {
        self.waits_for = Some(line);
        self
    }

    /// With steps for another callback of the first filter.
    pub fn plan(mut self, callback: &str, steps: Value) -> Case {
        let mut plan: Value = serde_json::from_str(&self.filters[0].configuration).expect("the guest is a probe");
        plan[callback] = steps;
        self.filters[0].configuration = plan.to_string();
        self
    }

    /// With `allow_on_headers_stop_iteration`.
    pub fn stop_iteration(mut self) -> Case {
        self.filters[0].allow_on_headers_stop_iteration = true;
        self
    }

    pub fn ends_under_way(mut self) -> Case {
        self.ends_under_way = true;
        self
    }

    /// It ends Envoy's process.
    pub fn crashes(mut self, reason: Reason) -> Case {
        self.crashes = Some(reason);
        self
    }

    pub fn unordered(mut self) -> Case {
        self.unordered = true;
        self
    }

    /// The requests; one GET of `/` where none is given.
    pub fn requests(&self) -> Vec<Request> {
        if self.requests.is_empty() { vec![get("/")] } else { self.requests.clone() }
    }

    /// A text of the configuration with `@name` for its own clusters.
    pub fn resolved(&self, configuration: &str) -> String {
        self.origins.iter().fold(configuration.to_owned(), |text, origin| {
            text.replace(&format!("@{}", origin.name), &format!("{}-{}", self.name, origin.name))
        })
    }

    /// The name of a cluster in a configuration.
    pub fn cluster(&self, origin: &Origin) -> String {
        // The examples name theirs.
        match origin.name {
            "httpbin" | "grpcbin" => origin.name.to_owned(),
            name => format!("{}-{name}", self.name),
        }
    }
}

impl Filter {
    /// One of the test guests.
    pub fn guest(name: &str, configuration: &str) -> Filter {
        Filter::module(guests::path(name), configuration)
    }

    pub fn probe(plan: Value) -> Filter {
        Filter::guest("pw_probe", &plan.to_string())
    }

    pub fn module(module: PathBuf, configuration: &str) -> Filter {
        Filter {
            module,
            configuration: configuration.to_owned(),
            vm_configuration: String::new(),
            root_id: "",
            vm_id: None,
            environment: Vec::new(),
            failure_policy: "closed",
            allowed_capabilities: Vec::new(),
            allow_on_headers_stop_iteration: false,
        }
    }
}

impl Origin {
    pub fn new<A: Into<Answer>>(
        name: &'static str,
        answer: impl Fn(usize, &str) -> A + Send + Sync + 'static,
    ) -> Origin {
        Origin { name, h2: false, down: false, answer: Arc::new(move |number, path| answer(number, path).into()) }
    }

    pub fn down(mut self) -> Origin {
        self.down = true;
        self
    }

    pub fn h2(mut self) -> Origin {
        self.h2 = true;
        self
    }
}

impl From<Message> for Answer {
    fn from(message: Message) -> Answer {
        Answer::Response(message)
    }
}

/// A response with this body.
pub fn response(status: u16, body: impl Into<Bytes>) -> Message {
    Message { status, chunks: vec![body.into()], ..Message::default() }
}

/// One without a body.
pub fn empty(status: u16) -> Message {
    Message { status, ..Message::default() }
}

pub fn get(path: &str) -> Request {
    Request {
        method: "GET",
        path: path.to_owned(),
        h2: false,
        message: Message::default(),
        after: Duration::ZERO,
        leaves_after: None,
    }
}

pub fn post(path: &str, body: impl Into<Bytes>) -> Request {
    let message = Message { chunks: vec![body.into()], ..Message::default() };
    Request { method: "POST", message, ..get(path) }
}

impl Request {
    pub fn method(mut self, method: &'static str) -> Request {
        self.method = method;
        self
    }

    pub fn h2(mut self) -> Request {
        self.h2 = true;
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Request {
        self.message = self.message.header(name, value);
        self
    }

    pub fn chunks<B: Into<Bytes>>(mut self, chunks: impl IntoIterator<Item = B>) -> Request {
        self.message = self.message.chunks(chunks);
        self
    }

    pub fn slowly(mut self) -> Request {
        self.message = self.message.slowly();
        self
    }

    pub fn trailer(mut self, name: &'static str, value: &'static str) -> Request {
        self.message = self.message.trailer(name, value);
        self
    }

    pub fn after(mut self, milliseconds: u64) -> Request {
        self.after = Duration::from_millis(milliseconds);
        self
    }

    pub fn leaves_after(mut self, milliseconds: u64) -> Request {
        self.leaves_after = Some(Duration::from_millis(milliseconds));
        self
    }
}

impl Message {
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Message {
        self.headers.push((name, value.into()));
        self
    }

    /// A body of unknown length, in pieces.
    pub fn chunks<B: Into<Bytes>>(mut self, chunks: impl IntoIterator<Item = B>) -> Message {
        self.chunks = chunks.into_iter().map(Into::into).collect();
        self.headers.push(("transfer-encoding", "chunked".into()));
        self
    }

    pub fn trailer(mut self, name: &'static str, value: &'static str) -> Message {
        self.trailers.push((name, value));
        self
    }

    /// Pieces that come long after each other.
    pub fn slowly(mut self) -> Message {
        self.slow = true;
        self
    }

    /// The connection ends in the middle of the body.
    pub fn broken(mut self) -> Message {
        self.broken = true;
        self
    }

    /// Whether the length of the body is told beforehand.
    pub fn has_length(&self) -> bool {
        self.trailers.is_empty() && !self.broken && !self.headers.iter().any(|(name, _)| *name == "transfer-encoding")
    }
}

//! The numbers of the Proxy-Wasm ABI (proxy-wasm/spec, versions 0.1.0, 0.2.0 and 0.2.1), and what Higress has added to them.

use std::ops::{Index, IndexMut};

/// What a host function answers: `proxy_status_t`. SDKs panic over values that they do not know, so these are all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    NotFound = 1,
    BadArgument = 2,
    SerializationFailure = 3,
    ParseFailure = 4,
    InvalidMemoryAccess = 6,
    Empty = 7,
    CasMismatch = 8,
    InternalFailure = 10,
    Unimplemented = 12,
}

/// `OK` of `proxy_status_t`.
pub const OK: u32 = 0;

/// Which header map: `proxy_header_map_type_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapType {
    RequestHeaders,
    RequestTrailers,
    ResponseHeaders,
    ResponseTrailers,
    GrpcInitialMetadata,
    GrpcTrailingMetadata,
    CallHeaders,
    CallTrailers,
}

impl MapType {
    pub fn parse(value: u32) -> Result<MapType, Status> {
        Ok(match value {
            0 => MapType::RequestHeaders,
            1 => MapType::RequestTrailers,
            2 => MapType::ResponseHeaders,
            3 => MapType::ResponseTrailers,
            4 => MapType::GrpcInitialMetadata,
            5 => MapType::GrpcTrailingMetadata,
            6 => MapType::CallHeaders,
            7 => MapType::CallTrailers,
            _ => return Err(Status::BadArgument),
        })
    }
}

/// Which buffer: `proxy_buffer_type_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferType {
    RequestBody,
    ResponseBody,
    /// Data of TCP, of which there is none here.
    Tcp,
    CallBody,
    GrpcMessage,
    VmConfiguration,
    PluginConfiguration,
    ForeignArguments,
    /// Of Higress.
    RedisReply,
}

impl BufferType {
    pub fn parse(value: u32) -> Result<BufferType, Status> {
        Ok(match value {
            0 => BufferType::RequestBody,
            1 => BufferType::ResponseBody,
            2 | 3 => BufferType::Tcp,
            4 => BufferType::CallBody,
            5 => BufferType::GrpcMessage,
            6 => BufferType::VmConfiguration,
            7 => BufferType::PluginConfiguration,
            8 => BufferType::ForeignArguments,
            9 => BufferType::RedisReply,
            _ => return Err(Status::BadArgument),
        })
    }
}

/// The way of a message through the filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Request,
    Response,
}

/// One of each direction.
#[derive(Default)]
pub struct Both<T> {
    pub request: T,
    pub response: T,
}

impl<T> Index<Direction> for Both<T> {
    type Output = T;

    fn index(&self, direction: Direction) -> &T {
        match direction {
            Direction::Request => &self.request,
            Direction::Response => &self.response,
        }
    }
}

impl<T> IndexMut<Direction> for Both<T> {
    fn index_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::Request => &mut self.request,
            Direction::Response => &mut self.response,
        }
    }
}

/// `proxy_stream_type_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamType {
    Http(Direction),
    /// Of TCP, which there are none of here.
    Downstream,
    Upstream,
}

impl StreamType {
    pub fn parse(value: u32) -> Result<StreamType, Status> {
        Ok(match value {
            0 => StreamType::Http(Direction::Request),
            1 => StreamType::Http(Direction::Response),
            2 => StreamType::Downstream,
            3 => StreamType::Upstream,
            _ => return Err(Status::BadArgument),
        })
    }
}

/// What `proxy_on_*_headers` answers: `FilterHeadersStatus` of Envoy, as its Wasm extension reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadersAction {
    Continue,
    /// Holds the headers; body callbacks come.
    StopIteration,
    /// Holds everything.
    StopAll,
}

impl HeadersAction {
    pub fn parse(value: u32, allow_stop_iteration: bool) -> HeadersAction {
        match value {
            0 | 2 => HeadersAction::Continue,
            1 if allow_stop_iteration => HeadersAction::StopIteration,
            _ => HeadersAction::StopAll,
        }
    }
}

/// What `proxy_on_*_body` answers: `FilterDataStatus` of Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyAction {
    Continue,
    /// Keeps what came so far; over the limit the stream fails.
    Buffer,
    /// Keeps what came so far; over the limit no more is read.
    Watermark,
    /// Drops what came.
    NoBuffer,
}

impl BodyAction {
    pub fn parse(value: u32) -> BodyAction {
        match value {
            0 => BodyAction::Continue,
            1 => BodyAction::Buffer,
            2 => BodyAction::Watermark,
            _ => BodyAction::NoBuffer,
        }
    }
}

/// The level of `proxy_log_level_t`; CRITICAL is an error.
pub fn log_level(value: u32) -> Result<log::Level, Status> {
    Ok(match value {
        0 => log::Level::Trace,
        1 => log::Level::Debug,
        2 => log::Level::Info,
        3 => log::Level::Warn,
        4 | 5 => log::Level::Error,
        _ => return Err(Status::BadArgument),
    })
}

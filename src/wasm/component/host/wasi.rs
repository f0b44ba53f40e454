//! WASI 0.2 as plugins get it: clocks, random numbers, and output as log lines. There is no file system, no network, and
//! of the environment only what `allow.env` names.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use tokio::io::AsyncWrite;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::io::poll;
use wasmtime_wasi::p2::bindings::sync::filesystem::types;
use wasmtime_wasi::p2::bindings::sync::io::streams::{self, InputStream, OutputStream};
use wasmtime_wasi::p2::{DynPollable, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiView};

use crate::wasm::component::state::State;
use crate::wasm::log;

/// Adds WASI to the linker. Whatever could wait is asynchronous, but for what every Rust plugin imports for its panic
/// messages: streams, which never wait here, and files, of which there are none.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    // Who waits has called the host: what others compute meanwhile is not its own.
    poll::add_to_linker::<State, Pollables>(linker, |state| {
        state.cpu.host_call();
        state.ctx().table
    })?;
    streams::add_to_linker::<State, NeverWaits>(linker, |state| ReadyStreams(state))?;
    // Without a directory to start from, no guest ever holds a file: none of these functions can be reached.
    types::add_to_linker::<State, WasiFilesystem>(linker, State::filesystem)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The sandbox of one instance.
pub fn context(env: &[(String, String)], output: &Arc<log::Output>) -> WasiCtx {
    WasiCtx::builder()
        .envs(env)
        .stdout(Output { to: output.clone(), level: ::log::Level::Info })
        .stderr(Output { to: output.clone(), level: ::log::Level::Error })
        .build()
}

/// Standard output or error of a guest.
#[derive(Clone)]
struct Output {
    to: Arc<log::Output>,
    level: ::log::Level,
}

impl IsTerminal for Output {
    /// Standard output is taken for one, so that C writes each line at once, and not when another request comes.
    fn is_terminal(&self) -> bool {
        self.level == ::log::Level::Info
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn wasmtime_wasi::p2::OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.to.write(self.level, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl wasmtime_wasi::p2::OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.to.write(self.level, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

/// Streams that answer at once: the synchronous bindings of `wasmtime-wasi` block on the runtime, which panics inside a
/// worker. Nothing that a plugin can open here waits: standard input is empty, standard output a log.
struct ReadyStreams<'a>(&'a mut State);

impl ReadyStreams<'_> {
    fn table(&mut self) -> &mut ResourceTable {
        self.0.ctx().table
    }

    /// What was written becomes lines of the log at once.
    fn logged<T>(&mut self, result: T) -> T {
        self.0.flush_output();
        result
    }
}

struct Pollables;

impl HasData for Pollables {
    type Data<'a> = &'a mut ResourceTable;
}

struct NeverWaits;

impl HasData for NeverWaits {
    type Data<'a> = ReadyStreams<'a>;
}

/// The result of a future that is ready, as it must be.
fn now<T>(future: impl Future<Output = StreamResult<T>>) -> StreamResult<T> {
    future
        .now_or_never()
        .unwrap_or_else(|| Err(StreamError::Trap(wasmtime::format_err!("a stream would have to wait"))))
}

mod waiting {
    pub use wasmtime_wasi::p2::bindings::io::streams::{Host, HostInputStream, HostOutputStream};
}

impl streams::Host for ReadyStreams<'_> {
    fn convert_stream_error(&mut self, error: StreamError) -> wasmtime::Result<streams::StreamError> {
        Ok(waiting::Host::convert_stream_error(self.table(), error)?.into())
    }
}

impl streams::HostOutputStream for ReadyStreams<'_> {
    fn check_write(&mut self, stream: Resource<OutputStream>) -> StreamResult<u64> {
        waiting::HostOutputStream::check_write(self.table(), stream)
    }

    fn write(&mut self, stream: Resource<OutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        let written = waiting::HostOutputStream::write(self.table(), stream, bytes);
        self.logged(written)
    }

    fn blocking_write_and_flush(&mut self, stream: Resource<OutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        let written = now(waiting::HostOutputStream::blocking_write_and_flush(self.table(), stream, bytes));
        self.logged(written)
    }

    fn flush(&mut self, stream: Resource<OutputStream>) -> StreamResult<()> {
        waiting::HostOutputStream::flush(self.table(), stream)
    }

    fn blocking_flush(&mut self, stream: Resource<OutputStream>) -> StreamResult<()> {
        now(waiting::HostOutputStream::blocking_flush(self.table(), stream))
    }

    fn subscribe(&mut self, stream: Resource<OutputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        waiting::HostOutputStream::subscribe(self.table(), stream)
    }

    fn write_zeroes(&mut self, stream: Resource<OutputStream>, len: u64) -> StreamResult<()> {
        let written = waiting::HostOutputStream::write_zeroes(self.table(), stream, len);
        self.logged(written)
    }

    fn blocking_write_zeroes_and_flush(&mut self, stream: Resource<OutputStream>, len: u64) -> StreamResult<()> {
        let written = now(waiting::HostOutputStream::blocking_write_zeroes_and_flush(self.table(), stream, len));
        self.logged(written)
    }

    fn splice(&mut self, to: Resource<OutputStream>, from: Resource<InputStream>, len: u64) -> StreamResult<u64> {
        waiting::HostOutputStream::splice(self.table(), to, from, len)
    }

    fn blocking_splice(
        &mut self,
        to: Resource<OutputStream>,
        from: Resource<InputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        now(waiting::HostOutputStream::blocking_splice(self.table(), to, from, len))
    }

    fn drop(&mut self, stream: Resource<OutputStream>) -> wasmtime::Result<()> {
        self.table().delete(stream)?;
        Ok(())
    }
}

impl streams::HostInputStream for ReadyStreams<'_> {
    fn read(&mut self, stream: Resource<InputStream>, len: u64) -> StreamResult<Vec<u8>> {
        waiting::HostInputStream::read(self.table(), stream, len)
    }

    fn blocking_read(&mut self, stream: Resource<InputStream>, len: u64) -> StreamResult<Vec<u8>> {
        now(waiting::HostInputStream::blocking_read(self.table(), stream, len))
    }

    fn skip(&mut self, stream: Resource<InputStream>, len: u64) -> StreamResult<u64> {
        waiting::HostInputStream::skip(self.table(), stream, len)
    }

    fn blocking_skip(&mut self, stream: Resource<InputStream>, len: u64) -> StreamResult<u64> {
        now(waiting::HostInputStream::blocking_skip(self.table(), stream, len))
    }

    fn subscribe(&mut self, stream: Resource<InputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        waiting::HostInputStream::subscribe(self.table(), stream)
    }

    fn drop(&mut self, stream: Resource<InputStream>) -> wasmtime::Result<()> {
        self.table().delete(stream)?;
        Ok(())
    }
}

//! A call of a host function, and the guest's memory during it.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use wasmtime::Caller;

use crate::wasm::proxy_wasm::abi::{self, Status};
use crate::wasm::proxy_wasm::state::{Mode, State};

/// Why a host function does not answer OK.
pub enum Refusal {
    Status(Status),
    /// The guest ends: it trapped while it allocated, or must not call now.
    Trap(wasmtime::Error),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal::Status(status)
    }
}

/// What host functions give.
pub type Answer = Result<(), Refusal>;

/// A guest that calls.
pub struct Call<'a>(Caller<'a, State>);

impl<'a> Call<'a> {
    /// Runs a host function, and turns what it gives into a status.
    pub fn answer(
        caller: Caller<'a, State>,
        name: &'static str,
        function: impl FnOnce(&mut Call<'a>) -> Answer,
    ) -> wasmtime::Result<u32> {
        let mut call = Call(caller);
        let state = call.0.data_mut();
        state.cpu.host_call();
        if state.mode != Mode::Running && name != "proxy_log" {
            let when = if state.mode == Mode::Allocating { "while it allocates" } else { "while it initializes" };
            return Err(wasmtime::Error::msg(format!("{name} was called {when}, when only proxy_log may be")));
        }
        match function(&mut call) {
            Ok(()) => Ok(abi::OK),
            Err(Refusal::Status(status)) => Ok(status as u32),
            Err(Refusal::Trap(error)) => Err(error),
        }
    }

    pub fn state(&mut self) -> &mut State {
        self.0.data_mut()
    }

    /// The guest's memory beside the state of its VM.
    fn parts(&mut self) -> Result<(&mut [u8], &mut State), Status> {
        let memory = self.0.data().memory.ok_or(Status::InvalidMemoryAccess)?;
        Ok(memory.data_and_store_mut(&mut self.0))
    }

    /// A range of the guest's memory, and the state.
    ///
    /// # Errors
    /// When it is not all there.
    pub fn read(&mut self, at: u32, size: u32) -> Result<(&[u8], &mut State), Status> {
        let (memory, state) = self.parts()?;
        Ok((range(memory, at, size)?, state))
    }

    /// Two ranges.
    ///
    /// # Errors
    /// As [`Call::read`].
    pub fn read_two(&mut self, one: (u32, u32), two: (u32, u32)) -> Result<(&[u8], &[u8], &mut State), Status> {
        let (memory, state) = self.parts()?;
        Ok((range(memory, one.0, one.1)?, range(memory, two.0, two.1)?, state))
    }

    /// A copy of a range.
    ///
    /// # Errors
    /// As [`Call::read`].
    pub fn bytes(&mut self, at: u32, size: u32) -> Result<Bytes, Status> {
        Ok(Bytes::copy_from_slice(self.read(at, size)?.0))
    }

    /// A text; what is not UTF-8 in it is replaced.
    ///
    /// # Errors
    /// As [`Call::read`].
    pub fn text(&mut self, at: u32, size: u32) -> Result<String, Status> {
        Ok(String::from_utf8_lossy(self.read(at, size)?.0).into_owned())
    }

    /// # Errors
    /// When there is no such place.
    pub fn write_u32(&mut self, at: u32, value: u32) -> Result<(), Status> {
        self.write(at, &value.to_le_bytes())
    }

    /// # Errors
    /// When there is no such place.
    pub fn write_u64(&mut self, at: u32, value: u64) -> Result<(), Status> {
        self.write(at, &value.to_le_bytes())
    }

    /// Gives the guest a value: in memory that it allocates, of exactly this size, for it frees that. An empty one needs
    /// none.
    ///
    /// # Errors
    /// When the guest gives no memory or wrong addresses; its trap, if it traps meanwhile.
    pub fn give(&mut self, value: &[u8], to: u32, size: u32) -> Answer {
        let length = u32::try_from(value.len()).map_err(|_| Status::InvalidMemoryAccess)?;
        let at = if length == 0 { 0 } else { self.allocate(length)? };
        self.write(at, value)?;
        self.write_u32(to, at)?;
        self.write_u32(size, length)?;
        Ok(())
    }

    fn allocate(&mut self, size: u32) -> Result<u32, Refusal> {
        let allocate = self.0.data().allocate.clone().ok_or(Status::InvalidMemoryAccess)?;
        let before = std::mem::replace(&mut self.state().mode, Mode::Allocating);
        let at = allocate.call(&mut self.0, size);
        self.state().mode = before;
        match at.map_err(Refusal::Trap)? {
            0 => Err(Status::InvalidMemoryAccess.into()),
            at => Ok(at),
        }
    }

    fn write(&mut self, at: u32, value: &[u8]) -> Result<(), Status> {
        let (memory, _) = self.parts()?;
        let at = at as usize;
        let place = memory.get_mut(at..).and_then(|rest| rest.get_mut(..value.len()));
        place.ok_or(Status::InvalidMemoryAccess)?.copy_from_slice(value);
        Ok(())
    }
}

fn range(memory: &[u8], at: u32, size: u32) -> Result<&[u8], Status> {
    let rest = memory.get(at as usize..).ok_or(Status::InvalidMemoryAccess)?;
    rest.get(..size as usize).ok_or(Status::InvalidMemoryAccess)
}

/// # Errors
/// When it is none (RFC 9110, section 5.1).
pub fn header_name(name: &[u8]) -> Result<HeaderName, Status> {
    HeaderName::from_bytes(name).map_err(|_| Status::BadArgument)
}

/// # Errors
/// When it is none (RFC 9110, section 5.5).
pub fn header_value(value: &[u8]) -> Result<HeaderValue, Status> {
    HeaderValue::from_bytes(value).map_err(|_| Status::BadArgument)
}

/// For what the ABI has no word: the log says it.
pub fn failed(state: &State, function: &str, error: &dyn std::fmt::Display) -> Refusal {
    state.log(log::Level::Warn, &format!("{function}: {error}"));
    Status::InternalFailure.into()
}

//! WASI preview 1 as filters get it: clocks, random numbers, the environment that the configuration gives, and output as
//! log lines. There are no files and no sockets. What a guest gets wrong is an errno, never a trap.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wasmtime::{Caller, FuncType, Linker, Memory, Val, ValType};

/// What the data of a filter's store has to know.
pub trait Host {
    /// The memory that the guest exports; none while it is instantiated.
    fn memory(&self) -> Option<Memory>;
    /// Its environment variables.
    fn environment(&self) -> &[(String, String)];
    /// Takes what the guest writes to its standard output, at `Info`, and standard error, at `Error`: not always whole lines.
    fn output(&mut self, level: log::Level, text: &[u8]);
}

/// The names under which toolchains import WASI.
const MODULES: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];

/// Bytes that one call of `fd_write` takes at the most, and pieces that they are in. The guest writes the rest by another.
const MOST_WRITTEN: usize = 64 << 10;
const MOST_PIECES: u32 = 1024;
/// Bytes that one call of `random_get` gives at the most.
const MOST_RANDOM: u32 = 64 << 10;

/// The right to `fd_write`.
const RIGHT_TO_WRITE: u64 = 1 << 6;

/// The numbers that clocks have.
const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;

/// What a function answers. The values are of `errno` in preview 1.
type Errno = u32;
const SUCCESS: Errno = 0;
const BADF: Errno = 8;
const EXIST: Errno = 20;
const FAULT: Errno = 21;
const INVAL: Errno = 28;
const IO: Errno = 29;
const NOENT: Errno = 44;
const NOSYS: Errno = 52;
const NOTSUP: Errno = 58;

/// What monotonic clocks count from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Adds WASI to the linker.
///
/// # Errors
/// When one of its functions is there already.
pub fn add<T: Host + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    for module in MODULES {
        linker.func_wrap(module, "fd_write", |mut caller: Caller<'_, T>, fd, pieces, count, written| {
            answer(fd_write(&mut caller, fd, pieces, count, written))
        })?;
        // There is no place in it: as in Envoy, everything goes to the end.
        linker.func_wrap(module, "fd_pwrite", |mut caller: Caller<'_, T>, fd, pieces, count, _: u64, written| {
            answer(fd_write(&mut caller, fd, pieces, count, written))
        })?;
        linker.func_wrap(module, "fd_tell", |mut caller: Caller<'_, T>, fd, to| {
            answer(output(fd).and_then(|_| write(&mut caller, to, &0u64.to_le_bytes())))
        })?;
        linker.func_wrap(module, "fd_fdstat_get", |mut caller: Caller<'_, T>, fd, to| {
            answer(fd_fdstat_get(&mut caller, fd, to))
        })?;
        linker.func_wrap(module, "fd_seek", |mut caller: Caller<'_, T>, _: u32, _: u64, _: u32, to| {
            answer(write(&mut caller, to, &0u64.to_le_bytes()))
        })?;
        linker.func_wrap(module, "environ_sizes_get", |mut caller: Caller<'_, T>, count, size| {
            answer(environ_sizes_get(&mut caller, count, size))
        })?;
        linker.func_wrap(module, "environ_get", |mut caller: Caller<'_, T>, pointers, texts| {
            answer(environ_get(&mut caller, pointers, texts))
        })?;
        linker.func_wrap(module, "args_sizes_get", |mut caller: Caller<'_, T>, count, size| {
            answer([count, size].into_iter().try_for_each(|to| write_u32(&mut caller, to, 0)))
        })?;
        linker.func_wrap(module, "clock_time_get", |mut caller: Caller<'_, T>, clock, _: u64, to| {
            answer(now(clock).and_then(|now| write(&mut caller, to, &now.to_le_bytes())))
        })?;
        linker.func_wrap(module, "clock_res_get", |mut caller: Caller<'_, T>, clock, to| {
            answer(now(clock).and_then(|_| write(&mut caller, to, &1u64.to_le_bytes())))
        })?;
        linker.func_wrap(module, "random_get", |mut caller: Caller<'_, T>, to, size| {
            answer(random_get(&mut caller, to, size))
        })?;
        // No event is ever waited for: the scheduler of a guest asks for its timers again and again.
        linker.func_wrap(module, "poll_oneoff", |mut caller: Caller<'_, T>, _: u32, _: u32, _: u32, events| {
            answer(write_u32(&mut caller, events, 0))
        })?;
        linker.func_wrap(module, "proc_exit", |code: u32| -> wasmtime::Result<()> {
            Err(wasmtime::Error::msg(format!("the filter ended itself: it called proc_exit({code})")))
        })?;
        for (name, parameters, reply) in REPLIES {
            let reply = move |_: Caller<'_, T>, parameters: &[Val], results: &mut [Val]| {
                let fd = parameters.first().and_then(Val::i32).unwrap_or_default().cast_unsigned();
                results.fill(Val::I32(reply.to(fd).cast_signed()));
                Ok(())
            };
            linker.func_new(module, name, signature(linker, parameters), reply)?;
        }
    }
    Ok(())
}

/// What is answered without a look at the memory.
#[derive(Clone, Copy)]
enum Reply {
    Always(Errno),
    /// For standard output and error; others are not open.
    OfOutput(Errno),
}

use Reply::{Always, OfOutput};

/// Functions with nothing behind them; `i` is a parameter of 32 bits, `I` one of 64.
const REPLIES: &[(&str, &str, Reply)] = &[
    ("args_get", "ii", Always(SUCCESS)),
    ("sched_yield", "", Always(SUCCESS)),
    ("proc_raise", "i", Always(NOTSUP)),
    ("fd_advise", "iIIi", Always(SUCCESS)),
    ("fd_allocate", "iII", OfOutput(SUCCESS)),
    ("fd_close", "i", Always(SUCCESS)),
    ("fd_datasync", "i", OfOutput(SUCCESS)),
    ("fd_fdstat_set_flags", "ii", Always(NOSYS)),
    ("fd_fdstat_set_rights", "iII", OfOutput(SUCCESS)),
    ("fd_filestat_get", "ii", Always(BADF)),
    ("fd_filestat_set_size", "iI", OfOutput(SUCCESS)),
    ("fd_filestat_set_times", "iIIi", OfOutput(SUCCESS)),
    ("fd_pread", "iiiIi", Always(NOSYS)),
    // How a guest finds its directories: it asks for the first, and there is none.
    ("fd_prestat_get", "ii", Always(BADF)),
    ("fd_prestat_dir_name", "iii", Always(NOSYS)),
    ("fd_read", "iiii", Always(NOSYS)),
    ("fd_readdir", "iiiIi", Always(EXIST)),
    ("fd_renumber", "ii", OfOutput(NOTSUP)),
    ("fd_sync", "i", OfOutput(SUCCESS)),
    ("path_create_directory", "iii", Always(NOTSUP)),
    ("path_filestat_get", "iiiii", Always(NOTSUP)),
    ("path_filestat_set_times", "iiiiIIi", Always(NOTSUP)),
    ("path_link", "iiiiiii", Always(NOTSUP)),
    ("path_open", "iiiiiIIii", Always(NOENT)),
    ("path_readlink", "iiiiii", Always(NOTSUP)),
    ("path_remove_directory", "iii", Always(NOTSUP)),
    ("path_rename", "iiiiii", Always(NOTSUP)),
    ("path_symlink", "iiiii", Always(NOTSUP)),
    ("path_unlink_file", "iii", Always(NOTSUP)),
    ("sock_accept", "iii", Always(NOTSUP)),
    ("sock_recv", "iiiiii", Always(NOTSUP)),
    ("sock_send", "iiiii", Always(NOTSUP)),
    ("sock_shutdown", "ii", Always(NOTSUP)),
];

impl Reply {
    fn to(self, fd: u32) -> Errno {
        match self {
            Always(errno) => errno,
            OfOutput(errno) => output(fd).map_or(BADF, |_| errno),
        }
    }
}

fn signature<T: 'static>(linker: &Linker<T>, parameters: &str) -> FuncType {
    let parameters = parameters.chars().map(|kind| if kind == 'I' { ValType::I64 } else { ValType::I32 });
    FuncType::new(linker.engine(), parameters, [ValType::I32])
}

fn answer(result: Result<(), Errno>) -> Errno {
    result.err().unwrap_or(SUCCESS)
}

fn fd_write<T: Host>(caller: &mut Caller<'_, T>, fd: u32, pieces: u32, count: u32, written: u32) -> Result<(), Errno> {
    let level = output(fd)?;
    if count > MOST_PIECES {
        return Err(INVAL);
    }
    let (memory, host) = parts(caller)?;
    let mut rest = MOST_WRITTEN;
    let mut joined = Vec::new();
    for piece in range(memory, pieces, count * 8)?.as_chunks().0 {
        let [at, size] = numbers(piece);
        let text = range(memory, at, size)?;
        let text = &text[..text.len().min(rest)];
        rest -= text.len();
        // Most writes are of one piece.
        if count == 1 {
            host.output(level, text);
        } else {
            joined.extend_from_slice(text);
        }
    }
    if count > 1 {
        host.output(level, &joined);
    }
    write_u32(caller, written, (MOST_WRITTEN - rest) as u32)
}

/// Of 24 bytes: the type of the file, which stays unknown, its flags, what may be done with it and with what it opens.
fn fd_fdstat_get<T: Host>(caller: &mut Caller<'_, T>, fd: u32, to: u32) -> Result<(), Errno> {
    output(fd)?;
    let mut stat = [0; 24];
    stat[8..16].copy_from_slice(&RIGHT_TO_WRITE.to_le_bytes());
    write(caller, to, &stat)
}

fn environ_sizes_get<T: Host>(caller: &mut Caller<'_, T>, count: u32, size: u32) -> Result<(), Errno> {
    let environment = caller.data().environment();
    let bytes: usize = environment.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    let sizes = [(count, environment.len()), (size, bytes)];
    sizes.into_iter().try_for_each(|(to, number)| write_u32(caller, to, number as u32))
}

/// Writes `NAME=value` and a NUL for each variable, and where each begins.
fn environ_get<T: Host>(caller: &mut Caller<'_, T>, pointers: u32, texts: u32) -> Result<(), Errno> {
    let (memory, host) = parts(caller)?;
    let (mut pointer, mut text) = (pointers, texts);
    for (name, value) in host.environment() {
        put(memory, &mut pointer, &text.to_le_bytes())?;
        for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            put(memory, &mut text, part)?;
        }
    }
    Ok(())
}

fn random_get<T: Host>(caller: &mut Caller<'_, T>, to: u32, size: u32) -> Result<(), Errno> {
    if size > MOST_RANDOM {
        return Err(INVAL);
    }
    let (memory, _) = parts(caller)?;
    getrandom::fill(range_mut(memory, to, size as usize)?).map_err(|_| IO)
}

/// The time in nanoseconds.
fn now(clock: u32) -> Result<u64, Errno> {
    let time = match clock {
        REALTIME => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        // Never 0: the runtime of Go does not start then.
        MONOTONIC => START.elapsed() + Duration::from_nanos(1),
        _ => return Err(NOTSUP),
    };
    Ok(time.as_nanos() as u64)
}

/// The level of what is written there.
fn output(fd: u32) -> Result<log::Level, Errno> {
    match fd {
        1 => Ok(log::Level::Info),
        2 => Ok(log::Level::Error),
        _ => Err(BADF),
    }
}

/// The guest's memory, and the host's data beside it.
fn parts<'a, T: Host>(caller: &'a mut Caller<'_, T>) -> Result<(&'a mut [u8], &'a mut T), Errno> {
    let memory = match caller.data().memory() {
        Some(memory) => Some(memory),
        None => caller.get_export("memory").and_then(|export| export.into_memory()),
    };
    Ok(memory.ok_or(FAULT)?.data_and_store_mut(caller))
}

fn range(memory: &[u8], at: u32, size: u32) -> Result<&[u8], Errno> {
    memory.get(at as usize..).and_then(|rest| rest.get(..size as usize)).ok_or(FAULT)
}

fn range_mut(memory: &mut [u8], at: u32, size: usize) -> Result<&mut [u8], Errno> {
    memory.get_mut(at as usize..).and_then(|rest| rest.get_mut(..size)).ok_or(FAULT)
}

fn write<T: Host>(caller: &mut Caller<'_, T>, at: u32, bytes: &[u8]) -> Result<(), Errno> {
    let (memory, _) = parts(caller)?;
    range_mut(memory, at, bytes.len())?.copy_from_slice(bytes);
    Ok(())
}

fn write_u32<T: Host>(caller: &mut Caller<'_, T>, at: u32, value: u32) -> Result<(), Errno> {
    write(caller, at, &value.to_le_bytes())
}

/// Writes bytes, and moves on to behind them.
fn put(memory: &mut [u8], at: &mut u32, bytes: &[u8]) -> Result<(), Errno> {
    range_mut(memory, *at, bytes.len())?.copy_from_slice(bytes);
    *at = at.wrapping_add(bytes.len() as u32);
    Ok(())
}

fn numbers(piece: &[u8; 8]) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = *piece;
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests;

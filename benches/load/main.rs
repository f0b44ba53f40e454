//! CPU time of the proxy for one request: bare Pingora against Phasegate without plugins, with one and with six.
//! `docs/performance.md` says how it is measured and what came out; `make bench` runs it.
//!
//! Every process of a measurement is this binary in another role, but for Phasegate itself.

mod bare;
mod check;
mod client;
mod origin;
mod process;
mod report;
mod variant;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use self::process::{Cores, Process};
use self::report::Report;
use self::variant::Variant;

/// As in the proxy.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: load [--rounds N] [--seconds N] [--only NAME]…";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["origin", addr] => origin::run(addr.parse()?),
        ["bare", addr, upstream] => bare::run(addr, upstream.parse()?, false),
        ["bare-timeouts", addr, upstream] => bare::run(addr, upstream.parse()?, true),
        _ => measure(&Options::parse(&args)?),
    }
}

struct Options {
    rounds: usize,
    /// How long one variant is measured in one round.
    time: Duration,
    /// Names of variants; empty: all.
    only: Vec<String>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options { rounds: 5, time: Duration::from_secs(3), only: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                // What `cargo bench` says to every benchmark.
                "--bench" => {}
                "--rounds" => options.rounds = args.next().ok_or(USAGE)?.parse()?,
                "--seconds" => options.time = Duration::from_secs_f64(args.next().ok_or(USAGE)?.parse()?),
                "--only" => options.only.push(args.next().ok_or(USAGE)?.clone()),
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }

    fn selects(&self, variant: Variant) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == variant.name())
    }
}

/// Rounds in which every variant is measured once, each time in another order and with a new process.
fn measure(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let cores = Cores::split();
    let origin_addr = process::free_addr()?;
    let mut origin = Process::this("origin", &[&origin_addr.to_string()], cores.load())?;
    origin.listens_on(origin_addr)?;

    let variants: Vec<Variant> = Variant::ALL.into_iter().filter(|variant| options.selects(*variant)).collect();
    let mut report = Report::new(&variants);
    for round in 0..options.rounds {
        for turn in 0..variants.len() {
            let variant = variants[(round + turn) % variants.len()];
            let (mut proxy, addr) = start(variant, origin_addr, folder.path().into(), &cores)?;
            proxy.listens_on(addr)?;
            runtime.block_on(check::answers(variant, addr))?;
            let micros = runtime.block_on(client::cpu_per_request(addr, &proxy, options.time))?;
            eprintln!("round {} of {}: {:<22} {micros:.2} µs", round + 1, options.rounds, variant.name());
            report.add(variant, micros);
        }
    }
    print!("{report}");
    Ok(())
}

fn start(variant: Variant, origin: SocketAddr, folder: PathBuf, cores: &Cores) -> Result<(Process, SocketAddr)> {
    let addr = process::free_addr()?;
    let (listen, upstream) = (addr.to_string(), origin.to_string());
    let proxy = match variant {
        Variant::Bare => Process::this("bare", &[&listen, &upstream], cores.proxy())?,
        Variant::BareTimeouts => Process::this("bare-timeouts", &[&listen, &upstream], cores.proxy())?,
        Variant::Phasegate(scripts) => {
            let file = folder.join(format!("{}.toml", variant.name()));
            std::fs::write(&file, scripts.config(addr, origin)?)?;
            Process::phasegate(&file, cores.proxy())?
        }
    };
    Ok((proxy, addr))
}

//! CPU time of the proxy for one request: bare Pingora against Phasegate without plugins, with one and with six, and both
//! against Envoy with the same Proxy-Wasm filters; what a VM of a filter keeps in memory.
//! `docs/performance.md` says how it is measured and what came out; `make bench` runs it.
//!
//! Every process of a measurement is this binary in another role, but for Phasegate itself and Envoy.

mod bare;
mod check;
mod client;
mod config;
mod envoy;
mod origin;
mod process;
mod report;
mod slots;
mod train;
mod variant;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use self::client::Client;
use self::config::Filter;
use self::process::{Cores, Process};
use self::report::Report;
use self::slots::SlotMemory;
use self::variant::{Filters, Variant};

/// As in the proxy.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: load [--rounds N] [--turns N] [--only NAME]… | --train";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["origin", addr] => origin::run(addr.parse()?),
        ["bare", addr, upstream] => bare::run(addr, upstream.parse()?, false),
        ["bare-timeouts", addr, upstream] => bare::run(addr, upstream.parse()?, true),
        ["--train", ..] => train(),
        _ => measure(&Options::parse(&args)?),
    }
}

struct Options {
    /// Each with new processes.
    rounds: usize,
    /// How often every variant has its turn in a round.
    turns: usize,
    /// How long a turn is.
    time: Duration,
    /// Names of variants, or of the measurement of memory; empty: all.
    only: Vec<String>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options { rounds: 5, turns: 12, time: Duration::from_millis(300), only: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                // What `cargo bench` says to every benchmark.
                "--bench" => {}
                "--rounds" => options.rounds = args.next().ok_or(USAGE)?.parse()?,
                "--turns" => options.turns = args.next().ok_or(USAGE)?.parse()?,
                "--only" => options.only.push(args.next().ok_or(USAGE)?.clone()),
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }

    fn selects(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn measure(options: &Options) -> Result<()> {
    let (variants, without): (Vec<_>, Vec<_>) = Variant::ALL
        .into_iter()
        .filter(|variant| options.selects(variant.name()))
        .partition(|variant| !matches!(variant, Variant::Envoy(_)) || envoy::binary().is_some());
    let site = Site::start()?;
    if !variants.is_empty() {
        print!("{}", site.cpu(options, &variants)?);
    }
    if !without.is_empty() {
        println!("\nThere is no Envoy to compare with: `make envoy` installs it.");
    }
    if options.selects(slots::NAME) {
        println!("\n{}", SlotMemory::measure(&site)?);
    }
    Ok(())
}

/// A short load on all of Phasegate: what it takes does not count.
fn train() -> Result<()> {
    let site = Site::start()?;
    let own: Vec<_> = Variant::ALL.into_iter().filter(|variant| !matches!(variant, Variant::Envoy(_))).collect();
    site.cpu(&Options { rounds: 1, turns: 3, ..Options::parse(&[])? }, &own)?;
    train::run(&site)
}

/// What all proxies are measured with.
struct Site {
    runtime: Runtime,
    folder: TempDir,
    cores: Cores,
    origin: SocketAddr,
    _origin: Process,
}

impl Site {
    fn start() -> Result<Site> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let cores = Cores::split();
        let addr = process::free_addr()?;
        let mut origin = Process::this("origin", &[&addr.to_string()], cores.load())?;
        origin.listens_on(addr)?;
        Ok(Site { runtime, folder: tempfile::tempdir()?, cores, origin: addr, _origin: origin })
    }

    /// Rounds with new processes, in which the variants take short turns, each time in another order: what else the machine
    /// does changes slowly against that, and meets all of them alike.
    fn cpu(&self, options: &Options, variants: &[Variant]) -> Result<Report> {
        let mut report = Report::new(variants);
        for round in 1..=options.rounds {
            eprintln!("round {round} of {}", options.rounds);
            let mut running = Vec::new();
            for variant in variants {
                let (proxy, addr) = self.proxy(*variant)?;
                self.runtime.block_on(check::answers(*variant, addr))?;
                running.push((*variant, proxy, self.runtime.block_on(Client::connect(addr))?));
            }
            for _ in 0..options.turns {
                for (variant, proxy, client) in &mut running {
                    report.add(*variant, self.runtime.block_on(client.cpu_per_request(proxy, options.time))?);
                }
                running.rotate_left(1);
            }
        }
        Ok(report)
    }

    /// Starts one.
    fn proxy(&self, variant: Variant) -> Result<(Process, SocketAddr)> {
        let (addr, core) = (process::free_addr()?, self.cores.proxy());
        let (listen, upstream) = (addr.to_string(), self.origin.to_string());
        let mut proxy = match variant {
            Variant::Bare => Process::this("bare", &[&listen, &upstream], core)?,
            Variant::BareTimeouts => Process::this("bare-timeouts", &[&listen, &upstream], core)?,
            Variant::Phasegate(scripts) => {
                self.phasegate(variant.name(), &config::scripts(scripts, addr, self.origin)?)?
            }
            Variant::Filters(Filters { name, count }) => {
                self.phasegate(name, &config::filters(Filter::chain(count.number()), addr, self.origin)?)?
            }
            Variant::Envoy(Filters { name, count }) => {
                let file = self.write(&format!("{name}.json"), &envoy::config(count.number(), addr, self.origin)?)?;
                Process::envoy(&envoy::binary().ok_or("there is no Envoy")?, &file, core)?
            }
        };
        proxy.listens_on(addr)?;
        Ok((proxy, addr))
    }

    fn phasegate(&self, name: &str, config: &str) -> Result<Process> {
        Process::phasegate(&self.write(&format!("{name}.toml"), config)?, self.cores.proxy())
    }

    fn write(&self, name: &str, config: &str) -> Result<PathBuf> {
        let file = self.folder.path().join(name);
        std::fs::write(&file, config)?;
        Ok(file)
    }
}

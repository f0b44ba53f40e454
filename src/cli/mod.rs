//! The command line.

use std::io::{self, IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use crate::capability::Capabilities;
use crate::config::{self, Diagnostics};
use crate::observe::error_log::{self, ErrorLogGuard};
use crate::observe::metrics::Metrics;
use crate::reload::{Hangup, Inputs};
use crate::server::{self, Shutdown, Start};
use crate::snapshot::Snapshot;
use crate::tls::Certificates;
use crate::wasm::Host;

/// A reverse proxy on Pingora that is programmed with WebAssembly.
#[derive(Parser)]
#[command(name = "phasegate", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve, in the foreground, until SIGTERM or SIGINT
    Run {
        /// The configuration file
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Report all that is wrong with a configuration and its modules; opens no port
    Check {
        /// The configuration file
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Runs the program: 0 when all went well, 1 when not, 2 for wrong arguments.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { config } => run(&config),
        Command::Check { config } => check(&config),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(stderr(), "{}", message.trim_end());
            ExitCode::FAILURE
        }
    }
}

fn run(path: &Path) -> Result<(), String> {
    let (start, diagnostics, _log) = load(path)?;
    if let (Some(folder), Some(error)) = (&start.config.cache, start.host.cache_error()) {
        log::warn!("compiled modules are not kept for the next start in {}: {error}", folder.display());
    }
    server::run(start).map_err(|error| match error.diagnostic() {
        Some(diagnostic) => format!("{}{}", render(&diagnostics.alone(diagnostic)), summary(path, 1)),
        None => format!("error: {error}"),
    })
}

fn check(path: &Path) -> Result<(), String> {
    let (_start, _, _log) = load(path)?;
    // Who does not listen has the exit status.
    let _ = writeln!(stdout(), "{}: ok", path.display());
    Ok(())
}

/// Everything that can be known without opening a port. Warnings are shown, errors are the result.
fn load(path: &Path) -> Result<(Start, Diagnostics, ErrorLogGuard), String> {
    // First of all: who has just changed the configuration may send SIGHUP at any moment, and starting can take long.
    let cannot_listen = |error: io::Error| format!("error: cannot listen for signals: {error}");
    let hangup = Hangup::listen().map_err(cannot_listen)?;
    let shutdown = Shutdown::listen(hangup.runtime()).map_err(cannot_listen)?;
    let metrics = Arc::new(Metrics::new());
    let own = Inputs::of(path);
    let config::Loaded { config, mut diagnostics } = config::load(path);
    let inputs = own.with(&config.files);
    // Before anything of a plugin runs: filters log while they start, above all why they refuse to.
    let log = error_log::init(config.error_log, metrics.error_log_dropped()).map_err(|error| error.to_string())?;
    let capabilities = Arc::new(Capabilities::load(&config, &metrics, &mut diagnostics));
    let host = Host::new(capabilities.clone(), config.cache.as_deref(), &metrics)
        .map_err(|error| format!("error: WebAssembly cannot be run on this machine: {error:#}"))?;
    let certificates = Certificates::load(&config, &mut diagnostics);
    let announced = capabilities.clusters.announce(config.upstream_names());
    let snapshot = Snapshot::build(&config, &host, &metrics, None, &mut diagnostics);
    let rendered = render(&diagnostics);
    let Some((snapshot, services)) = snapshot else {
        return Err(format!("{rendered}{}", summary(path, diagnostics.error_count())));
    };
    let _ = write!(stderr(), "{rendered}");
    let start = Start {
        config,
        capabilities,
        announced,
        host,
        snapshot,
        services,
        certificates,
        metrics,
        inputs,
        hangup,
        shutdown,
    };
    Ok((start, diagnostics, log))
}

fn render(diagnostics: &Diagnostics) -> String {
    diagnostics.render(stderr().is_terminal())
}

fn summary(path: &Path, errors: usize) -> String {
    let plural = if errors == 1 { "" } else { "s" };
    format!("{}: {errors} error{plural}", path.display())
}

//! The code of filters: where it comes from, and where it is kept.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::{StatusCode, header};
use parking_lot::Mutex;

use crate::capability::Capabilities;
use crate::capability::callout::{self, CalloutError};
use crate::capability::net::Network;
use crate::config::{Code, Remote};
use crate::file;
use crate::observe::metrics::{Metrics, RemoteCodeMetrics};

/// Bytes of the largest code that is fetched.
const LARGEST: usize = 64 << 20;
/// The pause before the first retry; before each other one it is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a fetch that failed is not tried again.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Why there is no code.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CodeError {
    #[error("cannot be read: {0}")]
    Read(Arc<io::Error>),
    #[error("cannot be fetched from {url}: {reason}")]
    Fetch { url: String, reason: FetchError },
    #[error(
        "cannot be fetched from {url}: {reason} ({} s ago; it is not tried again within {} s)", .ago.as_secs(),
        REMEMBERED.as_secs()
    )]
    Remembered { url: String, reason: FetchError, ago: Duration },
}

impl CodeError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        let (CodeError::Fetch { reason, .. } | CodeError::Remembered { reason, .. }) = self else {
            return "check the path, which is relative to the configuration file, and its permissions";
        };
        match reason {
            FetchError::Redirect { .. } => "write the address that it leads to as `url`",
            FetchError::Digest { .. } => {
                "set `sha256` to what `sha256sum` prints for the file that was meant, or have that file served"
            }
            FetchError::TooLarge => "remote code can have 64 MiB: is it a filter?",
            FetchError::Timeout(_) => "raise `timeout_ms`, or look at the server",
            FetchError::Status(_) | FetchError::Exchange(_) => "check `url`, and whether the server can be reached",
        }
    }
}

/// Why a fetch came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0}")]
    Exchange(String),
    #[error("expected the whole of it within {} ms, found less", .0.as_millis())]
    Timeout(Duration),
    #[error("expected status 200, found {0}")]
    Status(StatusCode),
    #[error("expected status 200, found {status} to {location}, which is not followed")]
    Redirect { status: StatusCode, location: String },
    #[error("expected at most 64 MiB, found more")]
    TooLarge,
    #[error("expected the SHA-256 {}, found {} of {length} bytes", Hex(.expected), Hex(.found))]
    Digest { expected: [u8; 32], found: [u8; 32], length: usize },
}

impl FetchError {
    /// Whether the next attempt may well end otherwise.
    fn may_pass(&self) -> bool {
        match self {
            FetchError::Exchange(_) | FetchError::Timeout(_) => true,
            FetchError::Status(status) => {
                let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                status.is_server_error() || passing.contains(status)
            }
            FetchError::Redirect { .. } | FetchError::TooLarge | FetchError::Digest { .. } => false,
        }
    }
}

/// What has been read and fetched. Once a process.
pub struct CodeStore {
    capabilities: Arc<Capabilities>,
    /// `HASH.wasm` for each code that was fetched; none: nothing is kept.
    folder: Option<PathBuf>,
    metrics: RemoteCodeMetrics,
    first_pause: Duration,
    /// By the SHA-256. Who holds the lock of one of them is about to get it.
    fetched: Mutex<HashMap<[u8; 32], Arc<Mutex<Fetched>>>>,
}

#[derive(Default)]
struct Fetched {
    /// While it is in use.
    bytes: Option<Weak<[u8]>>,
    /// By address: another one is worth an attempt.
    failed: HashMap<String, Failed>,
}

struct Failed {
    at: Instant,
    reason: FetchError,
}

impl CodeStore {
    /// Keeps what it fetches in the folder `cache`, which need not be there yet.
    pub fn new(capabilities: Arc<Capabilities>, cache: Option<&Path>, metrics: &Metrics) -> CodeStore {
        CodeStore {
            capabilities,
            folder: cache.map(|cache| cache.join("code")),
            metrics: metrics.remote_code.clone(),
            first_pause: FIRST_PAUSE,
            fetched: Mutex::default(),
        }
    }

    /// The bytes of the code. Fetches it if need be, which can take as long as its attempts and the pauses between them;
    /// whoever asks for the same meanwhile waits for it. Not to be called on a thread of a runtime.
    ///
    /// # Errors
    /// When the file cannot be read, or the code can neither be found nor fetched.
    pub fn bytes(&self, code: &Code) -> Result<Arc<[u8]>, CodeError> {
        match code {
            Code::Local(path) => file::read(path).map(Arc::from).map_err(|error| CodeError::Read(Arc::new(error))),
            Code::Remote(remote) => {
                let entry = self.entry(remote);
                self.remote(remote, &mut entry.lock())
            }
        }
    }

    fn entry(&self, remote: &Remote) -> Arc<Mutex<Fetched>> {
        let mut fetched = self.fetched.lock();
        // Those that nobody uses or asks for.
        fetched.retain(|_, entry| Arc::strong_count(entry) > 1 || entry.lock().is_worth_keeping());
        fetched.entry(remote.sha256).or_default().clone()
    }

    fn remote(&self, remote: &Remote, entry: &mut Fetched) -> Result<Arc<[u8]>, CodeError> {
        if let Some(bytes) = entry.bytes().or_else(|| self.kept(remote)) {
            self.metrics.cache_hits.inc();
            entry.bytes = Some(Arc::downgrade(&bytes));
            return Ok(bytes);
        }
        if let Some(failed) = entry.failed.get(&remote.url).filter(|failed| failed.is_remembered()) {
            self.metrics.cache_negative_hits.inc();
            let (url, reason) = (remote.url.clone(), failed.reason.clone());
            return Err(CodeError::Remembered { url, reason, ago: failed.at.elapsed() });
        }
        self.metrics.cache_misses.inc();
        match self.fetch(remote) {
            Ok(bytes) => {
                self.metrics.fetch_successes.inc();
                self.keep(remote, &bytes);
                *entry = Fetched { bytes: Some(Arc::downgrade(&bytes)), failed: HashMap::new() };
                Ok(bytes)
            }
            Err(reason) => {
                self.metrics.fetch_failures.inc();
                let url = remote.url.clone();
                entry.failed.insert(url.clone(), Failed { at: Instant::now(), reason: reason.clone() });
                Err(CodeError::Fetch { url, reason })
            }
        }
    }

    fn fetch(&self, remote: &Remote) -> Result<Arc<[u8]>, FetchError> {
        let failed = |error: io::Error| FetchError::Exchange(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let result = runtime.block_on(self.attempts(remote));
        // A lookup that takes its time is not waited for.
        runtime.shutdown_background();
        result
    }

    async fn attempts(&self, remote: &Remote) -> Result<Arc<[u8]>, FetchError> {
        let mut pause = self.first_pause;
        let mut retries = remote.retries;
        loop {
            match attempt(&self.capabilities.network, remote).await {
                Err(error) if retries > 0 && error.may_pass() => {
                    log::warn!("{} is fetched again in {} s: {error}", remote.url, pause.as_secs());
                    tokio::time::sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                    retries -= 1;
                }
                result => return result,
            }
        }
    }

    /// What is on disk, if it is what it should be.
    fn kept(&self, remote: &Remote) -> Option<Arc<[u8]>> {
        let bytes = file::read(&self.file(remote)?).ok()?;
        check(remote, &bytes).ok()?;
        Some(bytes.into())
    }

    fn keep(&self, remote: &Remote, bytes: &[u8]) {
        let Some(file) = self.file(remote) else { return };
        if let Err(error) = write(&file, bytes) {
            log::warn!("{} is not kept for the next start in {}: {error}", remote.url, file.display());
        }
    }

    fn file(&self, remote: &Remote) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{}.wasm", Hex(&remote.sha256))))
    }
}

impl Fetched {
    fn bytes(&self) -> Option<Arc<[u8]>> {
        self.bytes.as_ref()?.upgrade()
    }

    fn is_worth_keeping(&self) -> bool {
        self.bytes().is_some() || self.failed.values().any(Failed::is_remembered)
    }
}

impl Failed {
    fn is_remembered(&self) -> bool {
        self.at.elapsed() < REMEMBERED
    }
}

async fn attempt(network: &Network, remote: &Remote) -> Result<Arc<[u8]>, FetchError> {
    let fetched = tokio::time::timeout(remote.timeout, callout::fetch(network, &remote.url, LARGEST)).await;
    let response = fetched.map_err(|_| FetchError::Timeout(remote.timeout))?.map_err(|error| match error {
        CalloutError::BodyTooLarge { .. } => FetchError::TooLarge,
        error => FetchError::Exchange(error.to_string()),
    })?;
    let status = response.status();
    if let Some(location) = response.headers().get(header::LOCATION).filter(|_| status.is_redirection()) {
        let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
        return Err(FetchError::Redirect { status, location });
    }
    if status != StatusCode::OK {
        return Err(FetchError::Status(status));
    }
    let bytes = response.into_body().unwrap_or_default();
    check(remote, &bytes)?;
    Ok(bytes.as_ref().into())
}

fn check(remote: &Remote, bytes: &[u8]) -> Result<(), FetchError> {
    let (expected, found) = (remote.sha256, file::digest(bytes));
    if expected == found { Ok(()) } else { Err(FetchError::Digest { expected, found, length: bytes.len() }) }
}

/// Writes a file that is there whole or not at all.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new("")))?;
    let part = file.with_extension(format!("{}.part", std::process::id()));
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, file));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

/// Bytes as hexadecimal digits.
struct Hex<'b>(&'b [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

//! Files that the configuration names, and itself.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use sha2::Digest as _;
use sha2::Sha256;

/// Bytes of the largest file that is read: any plugin is smaller.
const LARGEST: u64 = 256 << 20;

/// Opens a file, and nothing that would wait or never end: no pipe, no device, no directory.
///
/// # Errors
/// When there is none, or it may not be read.
pub fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: that by itself waits for the other end of a pipe.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    File::open(path)
}

/// Reads a file.
///
/// # Errors
/// As [`open`], and when it is larger than any such file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    bytes_of(open(path)?)
}

/// Reads a file, or a pipe to its end.
///
/// # Errors
/// When there is none, it may not be read, or it is larger than any such file.
pub fn read_stream(path: &Path) -> io::Result<Vec<u8>> {
    bytes_of(File::open(path)?)
}

fn bytes_of(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST { Err(io::Error::other("it is larger than 256 MiB")) } else { Ok(bytes) }
}

/// The SHA-256 of content, by which it is told from other content.
pub type Digest = [u8; 32];

pub fn digest(content: &[u8]) -> Digest {
    Sha256::digest(content).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large");
        File::create(&large).unwrap().set_len(LARGEST + 1).unwrap();
        for (path, error) in [
            (Path::new("/dev/zero"), "it is not a file"),
            (folder.path(), "it is not a file"),
            (&large, "it is larger than 256 MiB"),
        ] {
            assert_eq!(read(path).unwrap_err().to_string(), error, "{}", path.display());
        }
        File::create(&large).unwrap().set_len(3).unwrap();
        assert_eq!(read(&large).unwrap(), [0; 3]);
    }
}

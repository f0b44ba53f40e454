//! Files that the configuration names, and itself.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use rustls::pki_types::pem;

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

/// What is wrong with a PEM file, in words.
pub fn pem_problem(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("it is cut off: the line `-----END {}-----` is missing", String::from_utf8_lossy(end_marker))
        }
        pem::Error::IllegalSectionStart { line } => {
            format!("the line `{}` is not right", String::from_utf8_lossy(line).trim_end())
        }
        pem::Error::Base64Decode(_) => {
            "what stands between `BEGIN` and `END` is not right: it is not base64".to_owned()
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_of_pem_are_told_in_words() {
        use pem::{Error, PemObject};
        let problem = |text: &str| {
            let read: Result<Vec<_>, Error> =
                rustls::pki_types::CertificateDer::pem_slice_iter(text.as_bytes()).collect();
            pem_problem(&read.unwrap_err())
        };
        let cut = "it is cut off: the line `-----END CERTIFICATE-----` is missing";
        assert_eq!(problem("-----BEGIN CERTIFICATE-----\nAAAA\n"), cut);
        let no_start = "the line `-----BEGIN CERTIFICATE` is not right";
        assert_eq!(problem("-----BEGIN CERTIFICATE\nAAAA\n-----END CERTIFICATE-----\n"), no_start);
        let no_base64 = "what stands between `BEGIN` and `END` is not right: it is not base64";
        assert_eq!(problem("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), no_base64);
    }

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

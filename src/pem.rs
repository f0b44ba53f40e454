//! Certificates and keys in PEM files (RFC 7468).

use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::file;

/// All certificates of a file, in its order: at least one.
///
/// # Errors
/// In words: when it cannot be read, is no PEM, or has none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = file::read(path).map_err(|error| error.to_string())?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err("there is no certificate in it".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(problem(&error)),
    }
}

/// The first private key of a file.
///
/// # Errors
/// In words: as [`certificates`], and when it is encrypted.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = file::read(path).map_err(|error| error.to_string())?;
    let says = |what: &[u8]| text.windows(what.len()).any(|part| part == what);
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        _ if says(b"ENCRYPTED") => {
            format!("it is encrypted: write it without a password, as by `openssl pkey -in {}`", path.display())
        }
        pem::Error::NoItemsFound if says(b"-----BEGIN CERTIFICATE-----") => {
            "there is a certificate in it, and no private key".to_owned()
        }
        pem::Error::NoItemsFound => "there is no private key in it".to_owned(),
        error => problem(&error),
    })
}

fn problem(error: &pem::Error) -> String {
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
    fn problems_are_told_in_words() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, problem) in [
            ("", "there is no certificate in it"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "it is cut off: the line `-----END CERTIFICATE-----` is missing"),
            (
                "-----BEGIN CERTIFICATE\nAAAA\n-----END CERTIFICATE-----\n",
                "the line `-----BEGIN CERTIFICATE` is not right",
            ),
            (
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
                "what stands between `BEGIN` and `END` is not right: it is not base64",
            ),
        ] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(certificates(file.path()).unwrap_err(), problem, "{text}");
        }
        assert_eq!(certificates(Path::new("/dev/zero")).unwrap_err(), "it is not a file");
    }
}

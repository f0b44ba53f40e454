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

/// Never what stands in the file, which may be a key.
fn problem(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => match label(end_marker) {
            Some(label) => format!("it is cut off: the line `-----END {label}-----` is missing"),
            None => "the line with `BEGIN` has more than its label: are the line breaks lost?".to_owned(),
        },
        pem::Error::IllegalSectionStart { .. } => {
            "a line with `BEGIN` is not right: are the line breaks lost, or its hyphens?".to_owned()
        }
        pem::Error::Base64Decode(_) => {
            "what stands between `BEGIN` and `END` is not right: it is not base64".to_owned()
        }
        error => error.to_string(),
    }
}

/// What a section is called, if it is no more than that.
fn label(text: &[u8]) -> Option<&str> {
    let is_label = text.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b' ');
    std::str::from_utf8(text).ok().filter(|_| is_label)
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
                "a line with `BEGIN` is not right: are the line breaks lost, or its hyphens?",
            ),
            (
                "-----BEGIN CERTIFICATE-----AAAA-----END CERTIFICATE-----",
                "the line with `BEGIN` has more than its label: are the line breaks lost?",
            ),
            (
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
                "what stands between `BEGIN` and `END` is not right: it is not base64",
            ),
        ] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(certificates(file.path()).unwrap_err(), problem, "{text}");
        }
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let secret = key.lines().nth(1).unwrap();
        for text in
            [key.replace('\n', ""), key.replace('\n', " "), key.replace('\n', "\\n"), key.replace("-----\n", "\n")]
        {
            std::fs::write(file.path(), &text).unwrap();
            let problem = private_key(file.path()).unwrap_err();
            assert!(!problem.contains(&secret[..8]), "{text}: {problem}");
        }
        assert_eq!(certificates(Path::new("/dev/zero")).unwrap_err(), "it is not a file");
    }
}

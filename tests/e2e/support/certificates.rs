//! An authority, and the certificates that it issues.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

/// A certificate authority of its own. Its files are gone with it.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate with its key, as PEM files.
#[derive(Clone, Debug)]
pub struct CertFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer, folder: tempfile::tempdir().unwrap() }
    }

    /// Its own certificate, which a client is to trust.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A `[network]` that trusts it, and nobody else.
    pub fn network(&self) -> String {
        let path = self.folder.path().join("ca.pem");
        std::fs::write(&path, self.pem()).unwrap();
        format!("[network]\nca = '{}'\n", path.display())
    }

    /// A certificate for a name.
    pub fn issue(&self, name: &str) -> CertFiles {
        self.issue_with(name, CertificateParams::new(vec![name.to_owned()]).unwrap())
    }

    /// One that has been valid until this year.
    pub fn issue_until(&self, name: &str, year: i32) -> CertFiles {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        self.issue_with(name, params)
    }

    fn issue_with(&self, name: &str, params: CertificateParams) -> CertFiles {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |kind: &str, pem: String| {
            let path = self.folder.path().join(format!("{}.{kind}.pem", name.replace('*', "_")));
            std::fs::write(&path, pem).unwrap();
            path
        };
        CertFiles { cert: file("cert", certificate.pem()), key: file("key", key.serialize_pem()) }
    }
}

impl CertFiles {
    /// For a `listen` of the configuration.
    pub fn tls(&self) -> String {
        format!("{{ cert = '{}', key = '{}' }}", self.cert.display(), self.key.display())
    }
}

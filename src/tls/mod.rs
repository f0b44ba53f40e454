//! TLS by rustls: certificates are loaded when the configuration is checked, and chosen by the name that the client asks
//! for (SNI, RFC 6066, section 3).

mod certificate;

use std::any::Any;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::listeners::TlsAccept;
use pingora::listeners::tls::TlsSettings;
use pingora::protocols::tls::TlsRef;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::{Config, Diagnostic, Diagnostics, HostPattern, Router, Tls};
use crate::facts::{Certificate, Handshake};
use crate::pem;

/// The certificates of every address that speaks TLS.
#[derive(Default)]
pub struct Certificates {
    by_address: HashMap<SocketAddr, Arc<Resolver>>,
}

impl Certificates {
    /// Reads all certificates and keys; what is wrong with them is reported.
    pub fn load(config: &Config, diagnostics: &mut Diagnostics) -> Certificates {
        let mut keys = HashMap::<SocketAddr, Vec<(usize, Served)>>::new();
        for (index, server) in config.servers.iter().enumerate() {
            for listen in &server.listen {
                let Some(tls) = &listen.tls else { continue };
                let served = served(tls);
                if let Some(when) =
                    served.as_ref().ok().and_then(|served| certificate::when_not_now(served.key.cert.first()?))
                {
                    let message = format!("the certificate {} is not valid now, but {when}", tls.cert.display());
                    let help = "clients refuse it: put a new one into the file";
                    diagnostics.push(Diagnostic::warning(listen.span.clone(), message).help(help));
                }
                match served {
                    Ok(served) => keys.entry(listen.addr).or_default().push((index, served)),
                    Err(message) => diagnostics.push(
                        Diagnostic::error(listen.span.clone(), message)
                            .help("`cert` is a PEM file with the chain, the server's own certificate first; `key` a PEM file with its private key"),
                    ),
                }
            }
        }
        let by_name = |(addr, keys): (SocketAddr, Vec<(usize, Served)>)| {
            let names =
                |(index, _): &(usize, _)| -> (usize, &[HostPattern]) { (*index, &config.servers[*index].names) };
            let router = Router::new(keys.iter().map(names));
            let by_name = ByName { router, keys: keys.into_iter().collect() };
            (addr, Arc::new(Resolver(ArcSwap::from_pointee(by_name))))
        };
        Certificates { by_address: keys.into_iter().map(by_name).collect() }
    }

    /// Takes over the certificates of another configuration, for the listeners that stand.
    pub fn take_over(&self, other: &Certificates) {
        for (addr, resolver) in &self.by_address {
            if let Some(other) = other.by_address.get(addr) {
                resolver.0.store(other.0.load_full());
            }
        }
    }

    /// The settings of a listener on this address.
    pub fn settings(&self, addr: SocketAddr, h2: bool) -> TlsSettings {
        let resolver = self.by_address.get(&addr).cloned();
        let keep = Box::new(KeepHandshake(resolver.clone()));
        let mut settings = TlsSettings::with_callbacks(keep).expect("rustls settings are made without failing");
        if let Some(resolver) = resolver {
            settings.set_cert_resolver(resolver);
        }
        if h2 {
            settings.enable_h2();
        }
        settings
    }
}

/// The certificates of an address as they are now.
#[derive(Debug)]
struct Resolver(ArcSwap<ByName>);

/// The certificate of the server that a request for the same name would get.
#[derive(Debug)]
struct ByName {
    router: Router,
    keys: HashMap<usize, Served>,
}

/// A certificate, and what is read in it.
#[derive(Clone, Debug)]
struct Served {
    key: Arc<CertifiedKey>,
    certificate: Arc<Certificate>,
}

impl Resolver {
    fn served(&self, name: Option<&str>) -> Option<Served> {
        let ByName { router, keys } = &**self.0.load();
        let server = router.server(|| name.map(|name| name.to_ascii_lowercase().into()));
        keys.get(&server).cloned()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.served(hello.server_name()).map(|served| served.key)
    }
}

/// Keeps with the connection what filters and variables ask of it.
struct KeepHandshake(Option<Arc<Resolver>>);

#[async_trait]
impl TlsAccept for KeepHandshake {
    async fn handshake_complete_callback(&self, tls: &TlsRef) -> Option<Arc<dyn Any + Send + Sync>> {
        let server_name = tls.server_name();
        let served = self.0.as_ref().and_then(|resolver| resolver.served(server_name));
        let certificate = served.map(|served| served.certificate);
        Some(Arc::new(Handshake { server_name: server_name.map(str::to_owned), certificate }))
    }
}

fn served(tls: &Tls) -> Result<Served, String> {
    let (cert, key) = (tls.cert.display(), tls.key.display());
    let chain =
        pem::certificates(&tls.cert).map_err(|why| format!("`cert`: the certificate {cert} cannot be used: {why}"))?;
    let private = pem::private_key(&tls.key).map_err(|why| format!("`key`: the key {key} cannot be used: {why}"))?;
    let private = ring::sign::any_supported_type(&private).map_err(|_| {
        format!("`key`: the key {key} is none of RSA from 2048 bits, ECDSA with P-256 or P-384, and Ed25519")
    })?;
    let read = |(index, der): (usize, &CertificateDer<'_>)| {
        certificate::read(der)
            .ok_or_else(|| format!("`cert`: certificate {} of {cert} is not an X.509 certificate", index + 1))
    };
    let certificates = chain.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let own = certificates.into_iter().next().ok_or_else(|| format!("`cert`: there is no certificate in {cert}"))?;
    let certificate = Arc::new(own);
    let certified = CertifiedKey::new(chain, private);
    match certified.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err(format!("`key`: the key {key} does not belong to the certificate {cert}"))
        }
        Err(rustls::Error::InconsistentKeys(_)) | Ok(()) => Ok(Served { key: Arc::new(certified), certificate }),
        Err(_) => Err(format!("`cert`: the certificate {cert} is not an X.509 certificate")),
    }
}

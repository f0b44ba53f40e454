//! TLS as a client: whom to trust.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier};
use tokio::sync::OnceCell;

use super::NetError;
use crate::config::{Ca, Diagnostic, Diagnostics};
use crate::pem;

/// The settings of TLS, and of the TLS of QUIC. They are made when they are needed first.
pub struct Tls {
    /// None: the roots of the system.
    ca: Option<RootCertStore>,
    settings: OnceCell<Settings>,
    unverified: OnceLock<ClientConfig>,
}

struct Settings {
    tls: ClientConfig,
    /// With resumption of its own: tickets of the one are nothing to the other.
    quic: ClientConfig,
}

impl Tls {
    /// Reads the configured authorities; what is wrong with them is reported.
    pub fn load(ca: Option<&Ca>, diagnostics: &mut Diagnostics) -> Tls {
        let roots = ca.and_then(|ca| match authorities(ca) {
            Ok(roots) => Some(roots),
            Err(message) => {
                let help = "`ca` is a PEM file with the certificates of the authorities to trust";
                diagnostics.push(Diagnostic::error(ca.place.0.clone(), message).help(help));
                None
            }
        });
        Tls { ca: roots, settings: OnceCell::new(), unverified: OnceLock::new() }
    }

    /// For TLS over TCP, with these protocols to choose from (ALPN, RFC 7301).
    pub async fn settings(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, NetError> {
        Ok(with_alpn(&self.get().await?.tls, alpn))
    }

    /// For TLS over TCP with a server that may have any certificate.
    pub fn unverified_settings(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, NetError> {
        let config = match self.unverified.get() {
            Some(config) => config,
            None => {
                let config = builder()?.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate));
                self.unverified.get_or_init(|| config.with_no_client_auth())
            }
        };
        Ok(with_alpn(config, alpn))
    }

    /// For QUIC.
    pub async fn quic_settings(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, NetError> {
        Ok(with_alpn(&self.get().await?.quic, alpn))
    }

    async fn get(&self) -> Result<&Settings, NetError> {
        self.settings
            .get_or_try_init(|| async {
                let roots = match &self.ca {
                    Some(roots) => roots.clone(),
                    None => tokio::task::spawn_blocking(system_roots)
                        .await
                        .map_err(|error| NetError::Roots(error.to_string()))??,
                };
                Ok(Settings { tls: config(roots.clone())?, quic: config(roots)? })
            })
            .await
    }
}

fn config(roots: RootCertStore) -> Result<ClientConfig, NetError> {
    Ok(builder()?.with_root_certificates(roots).with_no_client_auth())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, NetError> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| NetError::Roots(error.to_string()))
}

fn with_alpn(config: &ClientConfig, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

fn authorities(ca: &Ca) -> Result<RootCertStore, String> {
    let path = ca.path.display();
    let certificates =
        pem::certificates(&ca.path).map_err(|why| format!("the certificates {path} cannot be used: {why}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| format!("a certificate in {path} is of no use: {error}"))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, NetError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(NetError::Roots(reasons.join("; ")));
    }
    Ok(roots)
}

/// Takes any certificate; whoever shows it must have its key.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

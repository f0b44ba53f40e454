//! What is said of a certificate.

use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::facts::Certificate;

/// None when it is no certificate of X.509.
pub fn read(der: &[u8]) -> Option<Certificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let first = |of: fn(&GeneralName<'_>) -> Option<String>| names.iter().find_map(of);
    Some(Certificate {
        subject: subject(certificate.subject()),
        dns: first(|name| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None }),
        uri: first(|name| if let GeneralName::URI(name) = name { Some((*name).to_owned()) } else { None }),
    })
}

/// When it is valid, if that is not now.
pub fn when_not_now(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    (!validity.is_valid()).then(|| format!("from {} to {}", validity.not_before, validity.not_after))
}

/// The last part first (RFC 2253, section 2).
fn subject(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    let kind = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned);
    format!("{kind}={}", escaped(attribute.as_str().unwrap_or_default()))
}

/// RFC 2253, section 2.4.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for (at, char) in value.char_indices() {
        let is_last = at + char.len_utf8() == value.len();
        if ",+\"\\<>;".contains(char) || (at == 0 && " #".contains(char)) || (is_last && char == ' ') {
            text.push('\\');
        }
        text.push(char);
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn the_subject_is_written_as_in_rfc_2253() {
        let mut name = DistinguishedName::new();
        name.push(DnType::CountryName, "CN");
        name.push(DnType::OrganizationName, "A, B + C; \"D\"");
        name.push(DnType::OrganizationalUnitName, "# of ");
        name.push(DnType::CommonName, "a.test");
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.subject_alt_names = vec![
            SanType::URI("spiffe://a/b".try_into().unwrap()),
            SanType::DnsName("a.test".try_into().unwrap()),
            SanType::DnsName("b.test".try_into().unwrap()),
        ];
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let Certificate { subject, dns, uri } = read(certificate.der()).unwrap();
        assert_eq!(subject, r#"CN=a.test,OU=\# of\ ,O=A\, B \+ C\; \"D\",C=CN"#);
        assert_eq!((dns.as_deref(), uri.as_deref()), (Some("a.test"), Some("spiffe://a/b")));
        assert_eq!(read(b"none"), None);
    }
}

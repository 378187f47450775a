//! Reads certificates: who a peer is whose certificate the TLS library has verified.

use sedge_protocol::time::UnixSeconds;
use sedge_protocol::topic::{Caller, CallerError};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// Longest serial in hexadecimal (RFC 5280: 20 bytes).
const SERIAL_DIGITS_MAX: usize = 40;

/// A certificate that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not X.509.
    #[error("it is no X.509 certificate")]
    Malformed,
    /// It names nobody, or twice.
    #[error("it does not carry exactly one common name")]
    CommonName,
    /// Its name is not one of ours.
    #[error(transparent)]
    Caller(#[from] CallerError),
}

/// A certificate's number: lower-case hexadecimal without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(String);

impl Serial {
    /// Of the number's bytes, highest first.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self::from_hex(&bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())
    }

    /// Of hexadecimal digits as other programs print them.
    pub fn from_hex(digits: &str) -> Self {
        let digits = digits.trim_start_matches('0');
        Self(digits.chars().take(SERIAL_DIGITS_MAX).map(|c| c.to_ascii_lowercase()).collect())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who is at the other end, by a verified certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The common name.
    pub caller: Caller,
    /// The certificate's number.
    pub serial: Serial,
}

impl Peer {
    /// Reads a certificate that was verified against our root.
    ///
    /// # Errors
    /// When it is malformed or its name is neither a device's nor a server's.
    pub fn from_certificate(der: &[u8]) -> Result<Self, PeerError> {
        let certificate = parse(der)?;
        let mut names = certificate.subject().iter_common_name();
        let (Some(name), None) = (names.next(), names.next()) else { return Err(PeerError::CommonName) };
        let name = name.as_str().map_err(|_| PeerError::CommonName)?;
        Ok(Self { caller: Caller::from_common_name(name)?, serial: Serial::from_bytes(certificate.raw_serial()) })
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PeerError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(PeerError::Malformed),
    }
}

/// First and last moment.
pub(super) fn validity(der: &[u8]) -> Result<(UnixSeconds, UnixSeconds), PeerError> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    Ok((UnixSeconds(validity.not_before.timestamp()), UnixSeconds(validity.not_after.timestamp())))
}

/// The key, as in the subject public key's bit string.
pub(super) fn public_key(der: &[u8]) -> Result<Vec<u8>, PeerError> {
    Ok(parse(der)?.public_key().subject_public_key.data.to_vec())
}

/// The alternative names of a server.
pub(super) fn names(der: &[u8]) -> Result<BTreeSet<String>, PeerError> {
    let certificate = parse(der)?;
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Ok(BTreeSet::new()) };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => Some(IpAddr::from(v4).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|v6| IpAddr::from(v6).to_string()),
        },
        _ => None,
    };
    Ok(extension.value.general_names.iter().filter_map(name).collect())
}

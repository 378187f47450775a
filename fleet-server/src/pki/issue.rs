//! What each kind of certificate says.

use super::peer::Serial;
use super::request::DeviceKey;
use super::{CLOCK_SKEW_S, LIFE_S, Pki, PkiError, ROOT_LIFE_S, SERVER_NAMES_MAX, damaged, file};
use crate::files;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName as TlsName};
use sedge_protocol::id::{Principal, ServerName};
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::topic::Caller;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// A certificate that was just signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Its number, random.
    pub serial: Serial,
    /// Its end.
    pub not_after: UnixSeconds,
}

/// Certificate and key of a new root, PEM.
pub(super) fn root(now: UnixSeconds) -> Result<(String, String), PkiError> {
    let name = "Sedge root";
    let mut params = named(name, now, now.plus(ROOT_LIFE_S))?.0;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(|source| sign_error(name, source))?;
    let root = params.self_signed(&key).map_err(|source| sign_error(name, source))?;
    Ok((root.pem(), key.serialize_pem()))
}

impl Pki {
    /// The certificate of a device: of the request only the public key is taken.
    ///
    /// # Errors
    /// When the library refuses to sign, or the system has no random bytes.
    pub fn issue_device(&self, key: &DeviceKey, device: &Principal, now: UnixSeconds) -> Result<Issued, PkiError> {
        self.issue_client(&Caller::Device(device.clone()), &key.0, now)
    }

    /// Certificate and key for a connection of the server itself.
    pub(super) fn issue_server_client(
        &self,
        name: &ServerName,
        now: UnixSeconds,
    ) -> Result<(Issued, KeyPair), PkiError> {
        let caller = Caller::Server(name.clone());
        let key = KeyPair::generate().map_err(|source| sign_error(&caller.to_string(), source))?;
        Ok((self.issue_client(&caller, &key, now)?, key))
    }

    fn issue_client(&self, caller: &Caller, key: &impl PublicKeyData, now: UnixSeconds) -> Result<Issued, PkiError> {
        let name = caller.to_string();
        let not_after = self.root_not_after.min(now.plus(LIFE_S));
        let (mut params, serial) = named(&name, now, not_after)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(key, &self.issuer).map_err(|source| sign_error(&name, source))?;
        Ok(Issued { certificate: certificate.der().clone(), serial, not_after })
    }

    /// Makes a new server certificate, with a new key, when there is none for these names or two thirds of its life
    /// are over. Returns whether it did.
    ///
    /// # Errors
    /// When a name is no host name or address, or the file cannot be read or written.
    pub fn renew_server_certificate(&self, names: &[String], now: UnixSeconds) -> Result<bool, PkiError> {
        if names.is_empty() || names.len() > SERVER_NAMES_MAX {
            return Err(PkiError::ServerNames(names.len()));
        }
        for name in names {
            TlsName::try_from(name.as_str()).map_err(|_| PkiError::ServerName(name.clone()))?;
        }
        let path = self.server_path();
        match std::fs::read(&path) {
            Ok(pem) => {
                // A damaged one is replaced: nothing is lost with it.
                let is_good = CertificateDer::from_pem_slice(&pem)
                    .is_ok_and(|certificate| is_current(&certificate, names, now).unwrap_or(false));
                if is_good {
                    return Ok(false);
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(file("read", &path, source)),
        }
        let pem = self.issue_server(names, now)?;
        files::write_private(&path, pem.as_bytes()).map_err(|source| file("write", &path, source))?;
        Ok(true)
    }

    fn issue_server(&self, names: &[String], now: UnixSeconds) -> Result<String, PkiError> {
        let first = names.first().map_or("", String::as_str);
        let (mut params, _) = named(first, now, self.root_not_after.min(now.plus(LIFE_S)))?;
        params.subject_alt_names =
            CertificateParams::new(names).map_err(|source| sign_error(first, source))?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(|source| sign_error(first, source))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|source| sign_error(first, source))?;
        Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
    }

    /// The server's certificate and its end.
    pub(super) fn server_not_after(&self, certificate: &CertificateDer<'_>) -> Result<UnixSeconds, PkiError> {
        Ok(super::peer::validity(certificate).map_err(|source| damaged(&self.server_path(), source))?.1)
    }
}

/// Whether a certificate carries exactly these names and less than two thirds of its life are over.
fn is_current(
    certificate: &CertificateDer<'_>,
    names: &[String],
    now: UnixSeconds,
) -> Result<bool, super::peer::PeerError> {
    let (not_before, not_after) = super::peer::validity(certificate)?;
    let wanted: BTreeSet<String> =
        names.iter().map(|name| name.parse::<IpAddr>().map_or_else(|_| name.clone(), |ip| ip.to_string())).collect();
    Ok(not_before <= now && now < renew_at(not_before, not_after) && super::peer::names(certificate)? == wanted)
}

/// Two thirds of a certificate's life.
pub(super) fn renew_at(not_before: UnixSeconds, not_after: UnixSeconds) -> UnixSeconds {
    not_before.plus(not_after.0.saturating_sub(not_before.0) / 3 * 2)
}

fn named(name: &str, now: UnixSeconds, not_after: UnixSeconds) -> Result<(CertificateParams, Serial), PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = date_time_ymd(1970, 1, 1);
    let since_epoch = |at: UnixSeconds| Duration::from_secs(u64::try_from(at.0).unwrap_or(0));
    params.not_before = epoch + since_epoch(now.plus(-CLOCK_SKEW_S));
    params.not_after = epoch + since_epoch(not_after);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    // 127 random bits; the first byte is neither zero nor negative, so that the number has one spelling.
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(PkiError::Random)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok((params, Serial::from_bytes(&serial)))
}

fn sign_error(name: &str, source: rcgen::Error) -> PkiError {
    PkiError::Sign { name: name.to_owned(), source }
}

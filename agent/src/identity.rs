//! Who this device is: a key that was made here and never leaves, and a certificate for it.
//!
//! `identity/key.der` is written once, before anybody is asked for a certificate. `identity/identity.cbor` holds the rest
//! in one file, so that certificate, authority, addresses and first roots are always of one enrolment. Both are readable
//! by their owner alone. If power dies during enrolment there is a key without an identity, and the next attempt uses
//! that key.

use crate::disk::Disk;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sedge_protocol::cbor::{self, Bytes, Limits};
use sedge_protocol::id::Principal;
use sedge_protocol::time::UnixSeconds;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILE_BYTES_MAX: usize = 2 << 20;

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("the identity in {} cannot be {action}", path.display())]
    Disk {
        /// What was to be done.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file is damaged.
    #[error("{} is damaged ({problem}); remove the directory and enrol this device again", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The device has no certificate yet.
    #[error("this device is not enrolled: {} does not exist; run `sedge-agent enrol` with a token", path.display())]
    NotEnrolled {
        /// The file that is missing.
        path: PathBuf,
    },
    /// The key could not be made or used.
    #[error("the device's key cannot be used")]
    Key(#[from] rcgen::Error),
}

/// The device's key.
pub struct DeviceKey(KeyPair);

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceKey")
    }
}

impl DeviceKey {
    /// A certificate signing request for `principal`, DER.
    ///
    /// # Errors
    /// When signing fails.
    pub fn request(&self, principal: &Principal) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, principal.to_string());
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// The public key as a certificate carries it (SubjectPublicKeyInfo, DER).
    pub fn public_key_info(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(&self.0)
    }

    /// The key for a TLS configuration.
    pub fn private_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }
}

/// All of the identity but the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The device, also the certificate's common name and the client id.
    pub principal: Principal,
    /// Address of the broker, `host:port`.
    pub broker: String,
    /// Address of the enrolment service, `host:port`; certificates are renewed there.
    pub server: String,
    /// The device's certificate, DER.
    pub certificate: Bytes,
    /// The server's certificate authority, DER.
    pub authority: Bytes,
    /// The publisher repository's first root.
    pub publisher_root: Bytes,
    /// The director repository's first root.
    pub director_root: Bytes,
    /// The server's time at enrolment.
    pub time: UnixSeconds,
}

impl Identity {
    /// From when to when the certificate is valid.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn validity(&self) -> Result<(UnixSeconds, UnixSeconds), String> {
        validity(&self.certificate)
    }

    /// When two thirds of the certificate's life have passed.
    pub fn renew_at(&self) -> Option<UnixSeconds> {
        let (from, to) = self.validity().ok()?;
        Some(from.plus(to.0.saturating_sub(from.0) / 3 * 2))
    }

    /// The certificate for a TLS configuration.
    pub fn certificate_der(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.certificate.0.clone())
    }

    /// The authority for a TLS configuration.
    pub fn authority_der(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.authority.0.clone())
    }
}

/// From when to when a certificate is valid.
pub(crate) fn validity(certificate: &[u8]) -> Result<(UnixSeconds, UnixSeconds), String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|e| e.to_string())?;
    let validity = parsed.validity();
    Ok((UnixSeconds(validity.not_before.timestamp()), UnixSeconds(validity.not_after.timestamp())))
}

/// Where the identity is kept.
#[derive(Debug, Clone)]
pub struct IdentityStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl IdentityStore {
    /// Below the state directory.
    pub fn new(disk: Arc<dyn Disk>, state_dir: &Path) -> Self {
        Self { disk, dir: state_dir.join("identity") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, IdentityError> {
        let path = self.path(name);
        self.disk.read(&path).map_err(|source| IdentityError::Disk { action: "read", path, source })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        let path = self.path(name);
        let written = self.disk.create_dir(&self.dir).and_then(|()| self.disk.replace(&path, bytes));
        written.map_err(|source| IdentityError::Disk { action: "written", path, source })
    }

    /// The device's key, made at the first call.
    ///
    /// # Errors
    /// [`IdentityError`] when it cannot be read, made or stored.
    pub fn key(&self) -> Result<DeviceKey, IdentityError> {
        if let Some(der) = self.read("key.der")? {
            let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_ECDSA_P256_SHA256);
            let path = self.path("key.der");
            return key.map(DeviceKey).map_err(|e| IdentityError::Damaged { path, problem: e.to_string() });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        self.write("key.der", &key.serialize_der())?;
        Ok(DeviceKey(key))
    }

    /// Whether the device has an identity.
    pub fn is_enrolled(&self) -> bool {
        matches!(self.read("identity.cbor"), Ok(Some(_)))
    }

    /// The identity.
    ///
    /// # Errors
    /// [`IdentityError::NotEnrolled`] before enrolment, others when it cannot be read.
    pub fn load(&self) -> Result<Identity, IdentityError> {
        let path = self.path("identity.cbor");
        let Some(bytes) = self.read("identity.cbor")? else { return Err(IdentityError::NotEnrolled { path }) };
        cbor::decode_strict(&bytes, Limits::bytes(FILE_BYTES_MAX))
            .map_err(|e| IdentityError::Damaged { path, problem: e.to_string() })
    }

    /// Takes the place of the identity before.
    ///
    /// # Errors
    /// [`IdentityError`] when it cannot be stored; the one before is then still there.
    pub fn store(&self, identity: &Identity) -> Result<(), IdentityError> {
        let path = self.path("identity.cbor");
        let bytes = cbor::encode(identity).map_err(|e| IdentityError::Damaged { path, problem: e.to_string() })?;
        self.write("identity.cbor", &bytes)
    }

    /// Removes key and identity.
    ///
    /// # Errors
    /// [`IdentityError`] when a file cannot be removed.
    pub fn forget(&self) -> Result<(), IdentityError> {
        for name in ["identity.cbor", "key.der"] {
            let path = self.path(name);
            self.disk.remove(&path).map_err(|source| IdentityError::Disk { action: "removed", path, source })?;
        }
        Ok(())
    }
}

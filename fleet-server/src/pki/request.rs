//! Certificate requests: bytes of a stranger, of which only the public key is believed, and only after it has signed the
//! request itself, which shows that the sender has the private key.

use rcgen::SubjectPublicKeyInfo;
use sedge_protocol::Sha256Digest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

/// Longest request; stops work on endless names and attributes.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Too long.
    #[error("the certificate request has {0} bytes; at most {CSR_BYTES_MAX} are read")]
    TooLong(usize),
    /// Not a request.
    #[error("the certificate request is not PKCS #10 in DER")]
    Malformed,
    /// Whoever sent it does not have the key.
    #[error("the certificate request is not signed by its own key")]
    Signature,
    /// A key that we do not certify.
    #[error("the certificate request's key is neither ECDSA P-256, ECDSA P-384 nor Ed25519")]
    Algorithm,
}

/// The public key of a device, taken from a request that it has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceKey(pub(super) SubjectPublicKeyInfo, Sha256Digest);

impl DeviceKey {
    /// Takes the key out of a request.
    ///
    /// # Errors
    /// When the request is too long, malformed, not signed by its own key, or of an algorithm that is not certified.
    pub fn from_request(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLong(der.len()));
        }
        // 1. One request and nothing behind it.
        let Ok(([], request)) = X509CertificationRequest::from_der(der) else { return Err(CsrError::Malformed) };
        // 2. An algorithm that brokers and devices verify cheaply.
        let spki = request.certification_request_info.subject_pki.raw;
        let key = SubjectPublicKeyInfo::from_der(spki).map_err(|_| CsrError::Algorithm)?;
        let algorithm = rcgen::PublicKeyData::algorithm(&key);
        let allowed = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        if !allowed.contains(&algorithm) {
            return Err(CsrError::Algorithm);
        }
        // 3. The sender has the private key.
        request.verify_signature().map_err(|_| CsrError::Signature)?;
        Ok(Self(key, Sha256Digest::of(spki)))
    }

    /// Digest of the subject public key information: the same key has the same.
    pub fn digest(&self) -> Sha256Digest {
        self.1
    }
}

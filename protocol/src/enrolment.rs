//! How a device becomes one of a fleet: one token, one request over HTTPS, once.
//!
//! The token is made by the server and carried to the device by a person or an image. It pins the server's certificate
//! authority and both first roots, so neither a name server nor a stolen fleet server can adopt a new device with keys of
//! its own. Its secret works once and for a short time; the server stores a hash. The device's private key never leaves
//! the device: what it sends is a certificate signing request.

use crate::Sha256Digest;
use crate::cbor::{self, Bytes, Limits};
use crate::id::{DeviceId, ProjectId};
use crate::time::UnixSeconds;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Where requests go, below the server's address.
pub const ENROL_PATH: &str = "/enrol/v1";
/// Where a device with a certificate gets the next one.
pub const RENEW_PATH: &str = "/enrol/v1/renew";
/// Longest token that is read.
pub const TOKEN_LENGTH_MAX: usize = 8 * 1024;
/// Longest request or answer that is read.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a token's secret.
pub const SECRET_BYTES: usize = 32;
const PREFIX: &str = "sedge1_";

/// A text that is no enrolment token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not an enrolment token: {0}; get a new one with `sedge device token`")]
pub struct TokenError(String);

/// What a device is given once. It prints as its server and project, never with its secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentToken {
    /// Address of the enrolment service, `host:port`.
    pub server: String,
    /// The project that the device will belong to.
    pub project: ProjectId,
    /// Whoever knows this may enrol one device.
    pub secret: Bytes,
    /// The server's certificate authority, DER.
    pub authority: Bytes,
    /// SHA-256 of the publisher repository's first root.
    pub publisher_root: Sha256Digest,
    /// SHA-256 of the director repository's first root.
    pub director_root: Sha256Digest,
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrolmentToken({} at {})", self.project, self.server)
    }
}

impl EnrolmentToken {
    /// The text that is handed over.
    ///
    /// # Errors
    /// When a part is too large for a token.
    pub fn to_text(&self) -> Result<String, TokenError> {
        let bytes = cbor::encode(self).map_err(|e| TokenError(e.to_string()))?;
        let text = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes));
        if text.len() > TOKEN_LENGTH_MAX {
            return Err(TokenError(format!("it would have {} characters", text.len())));
        }
        Ok(text)
    }
}

impl FromStr for EnrolmentToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > TOKEN_LENGTH_MAX {
            return Err(TokenError(format!("it has {} characters, at most {TOKEN_LENGTH_MAX} are read", text.len())));
        }
        let encoded =
            text.strip_prefix(PREFIX).ok_or_else(|| TokenError(format!("it does not begin with {PREFIX}")))?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError("it was cut or changed".into()))?;
        let token: Self = cbor::decode_strict(&bytes, Limits::bytes(TOKEN_LENGTH_MAX))
            .map_err(|e| TokenError(format!("it was cut or changed ({e})")))?;
        if token.secret.0.len() != SECRET_BYTES {
            return Err(TokenError(format!("its secret has {} bytes", token.secret.0.len())));
        }
        Ok(token)
    }
}

/// What the device asks for, as CBOR.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRequest {
    /// The token's secret.
    pub secret: Bytes,
    /// What the device wants to be called.
    pub device: DeviceId,
    /// Certificate signing request, DER. Its subject is ignored: the name is made of the token's project and `device`.
    pub csr: Bytes,
}

/// What the device gets, as CBOR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentAnswer {
    /// The device's certificate, DER; its common name is the device's principal.
    pub certificate: Bytes,
    /// Address of the broker, `host:port`.
    pub broker: String,
    /// The publisher repository's first root; its digest must be the token's.
    pub publisher_root: Bytes,
    /// The director repository's first root; its digest must be the token's.
    pub director_root: Bytes,
    /// The server's time, a first hint for a device that does not know it.
    pub time: UnixSeconds,
}

/// What a device with a certificate asks for, as CBOR, over mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalRequest {
    /// Certificate signing request, DER, of the same key or a new one.
    pub csr: Bytes,
}

/// The next certificate, as CBOR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalAnswer {
    /// The certificate, DER.
    pub certificate: Bytes,
}

/// Why a request was refused, as CBOR, with an HTTP status of 4xx or 5xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One stable word.
    pub code: String,
    /// For people.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> EnrolmentToken {
        EnrolmentToken {
            server: "fleet.example:8443".into(),
            project: "acme".parse().expect("a name"),
            secret: Bytes(vec![7; SECRET_BYTES]),
            authority: Bytes(vec![0x30; 400]),
            publisher_root: Sha256Digest::of(b"p"),
            director_root: Sha256Digest::of(b"d"),
        }
    }

    #[test]
    fn a_token_survives_its_text_and_hides_its_secret() {
        let text = token().to_text().expect("fits");
        assert_eq!(format!("  {text}\n").parse::<EnrolmentToken>(), Ok(token()));
        assert!(text.len() < 1200, "{} characters", text.len());
        assert!(!format!("{:?}", token()).contains('7'));
    }

    #[test]
    fn what_is_no_token_is_named() {
        let text = token().to_text().expect("fits");
        let short = EnrolmentToken { secret: Bytes(vec![7; 8]), ..token() }.to_text().expect("fits");
        for (text, expected) in [
            ("hello", "does not begin with sedge1_"),
            (&text[..text.len() - 8], "cut or changed"),
            (&text.replace("sedge1_", "sedge1_!"), "cut or changed"),
            (&short, "its secret has 8 bytes"),
            (&"x".repeat(9000), "at most 8192 are read"),
        ] {
            let e = text.parse::<EnrolmentToken>().expect_err(expected);
            assert!(e.to_string().contains(expected), "{e}");
        }
    }
}

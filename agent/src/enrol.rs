//! Enrolment: from a token to an identity, once; and the renewal of the certificate, again and again.
//!
//! What always holds: nothing is stored before everything in the answer has been checked against the token and against
//! this device's own key. The server may name the broker and sign certificates; it cannot give this device another
//! name, another key, or other first roots than the token pins.

use crate::clock::Clock;
use crate::http::{self, HttpError};
use crate::identity::{DeviceKey, Identity, IdentityError, IdentityStore};
use crate::tls::{self, TlsError};
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use sedge_protocol::cbor::{self, Bytes, Limits};
use sedge_protocol::enrolment::{
    BODY_BYTES_MAX, ENROL_PATH, EnrolmentAnswer, EnrolmentRequest, EnrolmentToken, RENEW_PATH, Refusal, RenewalAnswer,
    RenewalRequest,
};
use sedge_protocol::id::{DeviceId, Principal};
use sedge_protocol::tuf::TrustedSet;
use sedge_protocol::{Sha256Digest, text};

/// Why a device is not enrolled, or its certificate not renewed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// It has an identity already.
    #[error("this device is enrolled already as {0}; run `sedge-agent decommission` first")]
    AlreadyEnrolled(Principal),
    /// The device's own files.
    #[error("the device's identity")]
    Identity(#[from] IdentityError),
    /// TLS could not be set up.
    #[error("TLS towards the server")]
    Tls(#[from] TlsError),
    /// The exchange failed.
    #[error("asking the server")]
    Http(#[from] HttpError),
    /// The server said no.
    #[error("the server {server} refused ({status} {code}): {message}")]
    Refused {
        /// Who.
        server: String,
        /// HTTP status.
        status: u16,
        /// One stable word.
        code: String,
        /// For people.
        message: String,
    },
    /// The answer is not what was asked for.
    #[error("the answer of {server} is not accepted: {problem}; nothing was stored")]
    Answer {
        /// Whose.
        server: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Enrols this device with a token, and stores its identity.
///
/// # Errors
/// [`EnrolError`]; nothing but the key is then stored.
pub async fn enrol(
    store: &IdentityStore,
    token: &EnrolmentToken,
    device: &DeviceId,
    clock: &Clock,
) -> Result<Identity, EnrolError> {
    if store.is_enrolled() {
        return Err(EnrolError::AlreadyEnrolled(store.load()?.principal));
    }
    let principal = Principal { project: token.project.clone(), device: device.clone() };
    let key = store.key()?;
    let csr = Bytes(key.request(&principal)?);
    let request = EnrolmentRequest { secret: token.secret.clone(), device: device.clone(), csr };
    let tls = tls::client(CertificateDer::from(token.authority.0.clone()), None, clock)?;
    let answer: EnrolmentAnswer = ask(&token.server, ENROL_PATH, tls, &request).await?;
    let identity = Identity {
        principal,
        broker: answer.broker,
        server: token.server.clone(),
        certificate: answer.certificate,
        authority: token.authority.clone(),
        publisher_root: answer.publisher_root,
        director_root: answer.director_root,
        time: answer.time,
    };
    let refused = |problem| EnrolError::Answer { server: token.server.clone(), problem };
    check_roots(&identity, token).map_err(refused)?;
    http::host_port(&identity.broker).map_err(|e| refused(format!("the broker's address: {e}")))?;
    check_certificate(&identity, &identity.certificate, &key, clock).map_err(refused)?;
    store.store(&identity)?;
    Ok(identity)
}

/// Gets the next certificate for the same key, and stores it.
///
/// # Errors
/// [`EnrolError`]; the certificate before is then still there.
pub async fn renew(store: &IdentityStore, clock: &Clock) -> Result<Identity, EnrolError> {
    let (identity, key) = (store.load()?, store.key()?);
    let request = RenewalRequest { csr: Bytes(key.request(&identity.principal)?) };
    let device = Some((identity.certificate_der(), key.private_der()));
    let tls = tls::client(identity.authority_der(), device, clock)?;
    let RenewalAnswer { certificate } = ask(&identity.server, RENEW_PATH, tls, &request).await?;
    let refused = |problem| EnrolError::Answer { server: identity.server.clone(), problem };
    check_certificate(&identity, &certificate, &key, clock).map_err(refused)?;
    let renewed = Identity { certificate, ..identity };
    store.store(&renewed)?;
    Ok(renewed)
}

async fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
    server: &str,
    path: &str,
    tls: std::sync::Arc<rustls::ClientConfig>,
    request: &Q,
) -> Result<A, EnrolError> {
    let refused = |problem: String| EnrolError::Answer { server: server.to_owned(), problem };
    let body = cbor::encode(request).map_err(|e| refused(e.to_string()))?;
    let answer = http::post(server, path, tls, &body, BODY_BYTES_MAX).await?;
    if answer.status == 200 {
        return cbor::decode_strict(&answer.body, Limits::bytes(BODY_BYTES_MAX)).map_err(|e| refused(e.to_string()));
    }
    let refusal = cbor::decode_strict(&answer.body, Limits::bytes(BODY_BYTES_MAX));
    let Refusal { code, message } = refusal.unwrap_or_else(|_| Refusal {
        code: "unknown".to_owned(),
        message: "no reason was given; is the address that of the enrolment service?".to_owned(),
    });
    let (code, message) = (text::visible(&code, 64), text::one_line(&message));
    Err(EnrolError::Refused { server: server.to_owned(), status: answer.status, code, message })
}

fn check_roots(identity: &Identity, token: &EnrolmentToken) -> Result<(), String> {
    for (name, root, expected) in [
        ("publisher", &identity.publisher_root, token.publisher_root),
        ("director", &identity.director_root, token.director_root),
    ] {
        let found = Sha256Digest::of(root);
        if found != expected {
            return Err(format!("the {name}'s first root has digest {found}, and the token pins {expected}"));
        }
        TrustedSet::new(root).map_err(|e| format!("the {name}'s first root: {e}"))?;
    }
    Ok(())
}

/// Our key, our name, and signed by the authority for a client.
fn check_certificate(identity: &Identity, certificate: &[u8], key: &DeviceKey, clock: &Clock) -> Result<(), String> {
    let (rest, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| format!("the certificate cannot be read ({e})"))?;
    if !rest.is_empty() {
        return Err("bytes follow the certificate".to_owned());
    }
    if parsed.public_key().raw != key.public_key_info() {
        return Err("the certificate is for another key than this device's".to_owned());
    }
    let names: Vec<&str> = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok()).collect();
    let principal = identity.principal.to_string();
    if names != [principal.as_str()] {
        let found = text::visible(&names.join(", "), 140);
        return Err(format!("the certificate is for `{found}`, and this device is {principal}"));
    }
    let (from, to) = crate::identity::validity(certificate)?;
    let now = clock.now();
    if now >= to {
        return Err(format!("the certificate expired at {to}, and it is {now}; set this device's clock"));
    }
    // A clock that is behind must not stand in the way: of the date only the end counts.
    let at = tls::unix_time(now.max(from));
    let roots = tls::roots(identity.authority_der()).map_err(|e| e.to_string())?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots, tls::provider()).build().map_err(|e| e.to_string())?;
    verifier
        .verify_client_cert(&CertificateDer::from(certificate), &[], at)
        .map(drop)
        .map_err(|e| format!("the certificate is not one of the token's authority: {e}"))
}

#[cfg(test)]
mod tests;

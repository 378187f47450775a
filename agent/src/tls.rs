//! TLS towards the server: one authority and no other, ring and no other provider, and a clock that may be wrong.
//!
//! A device whose clock lost power stands in 1970, where no certificate is valid yet, and would never reach the server
//! that could tell it the time. So the time for TLS is the latest that is known to have passed; and where the clock is
//! behind that, a certificate that is *not valid yet* is looked at again as of its own first moment. One that has
//! expired is refused all the same, as is any other fault.

use crate::clock::Clock;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sedge_protocol::time::UnixSeconds;
use std::sync::Arc;
use std::time::Duration;

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authority's certificate cannot be used.
    #[error("the server's certificate authority is not a usable certificate; get a new token")]
    Authority(#[source] Error),
    /// Certificate and key of the device do not make a pair.
    #[error("the device's certificate and key cannot be used; enrol this device again")]
    Device(#[source] Error),
    /// The verifier cannot be made.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// The one provider of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A store of this one authority.
///
/// # Errors
/// [`TlsError::Authority`] when it is no certificate.
pub fn roots(authority: CertificateDer<'static>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority).map_err(TlsError::Authority)?;
    Ok(Arc::new(roots))
}

/// A configuration that trusts this authority alone, with a certificate of the device if it has one.
///
/// # Errors
/// [`TlsError`], naming which part is unusable.
pub fn client(
    authority: CertificateDer<'static>,
    device: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    clock: &Clock,
) -> Result<Arc<ClientConfig>, TlsError> {
    let setup = |e: String| TlsError::Setup(e);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority)?, provider())
        .build()
        .map_err(|e| setup(e.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| setup(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { verifier, clock: clock.clone() }));
    let mut config = match device {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).map_err(TlsError::Device)?,
        None => builder.with_no_client_auth(),
    };
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Verifier {
    verifier: Arc<WebPkiServerVerifier>,
    clock: Clock,
}

pub(crate) fn unix_time(time: UnixSeconds) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.0).unwrap_or(0)))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _system_clock: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |time: UnixSeconds| {
            let time = unix_time(time);
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, time)
        };
        match verify(self.clock.now()) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            )) if !self.clock.is_plausible() => {
                // The latest beginning in the chain is the first moment at which all of it is valid.
                let begin = |der: &[u8]| crate::identity::validity(der).map(|(from, _)| from).unwrap_or_default();
                let ends = std::iter::once(end_entity).chain(intermediates);
                verify(ends.map(|der| begin(der)).max().unwrap_or_default())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

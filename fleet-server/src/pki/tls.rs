//! The TLS settings that follow from the authority: TLS 1.3 and 1.2, the provider named each time because the broker
//! brings another one into the process.

use super::issue::renew_at;
use super::{CLOCK_SKEW_S, Pki, PkiError, damaged, file};
use crate::clock;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use sedge_protocol::id::ServerName;
use sedge_protocol::time::UnixSeconds;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Certificates or keys that the TLS library refuses.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authority's files.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A certificate authority that was given.
    #[error("cannot use the certificate authority")]
    Authority(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Settings.
    #[error("cannot set up TLS")]
    Settings(#[source] rustls::Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate.clone()).map_err(|e| TlsError::Authority(e.into()))?;
    }
    Ok(Arc::new(store))
}

/// The server's certificate, exchanged under connections that go on.
pub struct ServerCertificate(RwLock<Arc<CertifiedKey>>);

impl ServerCertificate {
    /// Reads the server's certificate.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn load(pki: &Pki) -> Result<Self, TlsError> {
        Ok(Self(RwLock::new(read(pki)?)))
    }

    /// Reads it again after a renewal.
    ///
    /// # Errors
    /// When the file is missing or damaged; the old one stays in use.
    pub fn reload(&self, pki: &Pki) -> Result<(), TlsError> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = read(pki)?;
        Ok(())
    }
}

impl ServerCertificate {
    /// What is served now.
    pub(crate) fn current(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate")
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn read(pki: &Pki) -> Result<Arc<CertifiedKey>, TlsError> {
    let path = pki.server_path();
    let pem = std::fs::read(&path).map_err(|source| file("read", &path, source))?;
    let certificate = CertificateDer::from_pem_slice(&pem).map_err(|e| damaged(&path, e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| damaged(&path, e.to_string()))?;
    tracing::info!(not_after = %pki.server_not_after(&certificate)?, "server certificate");
    certified(certificate, key)
}

fn certified(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Result<Arc<CertifiedKey>, TlsError> {
    let key = CertifiedKey::from_der(vec![certificate], key, &provider()).map_err(TlsError::Settings)?;
    Ok(Arc::new(key))
}

impl Pki {
    /// For the HTTPS listener: a client may show a certificate, and then it must be one of this authority.
    ///
    /// # Errors
    /// When the library refuses the root.
    pub fn https_server(&self, certificate: Arc<ServerCertificate>) -> Result<Arc<ServerConfig>, TlsError> {
        let roots = roots(std::slice::from_ref(self.root()))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .allow_unauthenticated()
            .build()
            .map_err(|e| TlsError::Authority(e.into()))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Settings)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// For connections of the server itself to a broker whose certificate is of `authorities`, or of this authority
    /// when none are given. The client certificate is `server:<name>`, made on first use and again at two thirds of its
    /// life, so one configuration serves a process of any age.
    ///
    /// # Errors
    /// When an authority is refused, or the certificate cannot be made.
    pub fn mqtt_client(
        self: &Arc<Self>,
        name: &ServerName,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let own = std::slice::from_ref(self.root());
        let roots = roots(if authorities.is_empty() { own } else { authorities })?;
        let identity = ServerIdentity { pki: self.clone(), name: name.clone(), current: Mutex::default() };
        // What cannot be made is better known now than at the first connection.
        identity.current(clock::now())?;
        Ok(Arc::new(
            ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(TlsError::Settings)?
                .with_root_certificates(roots)
                .with_client_cert_resolver(Arc::new(identity)),
        ))
    }
}

/// A certificate of the server as a client; its key never leaves the process.
struct ServerIdentity {
    pki: Arc<Pki>,
    name: ServerName,
    current: Mutex<Option<(Arc<CertifiedKey>, UnixSeconds)>>,
}

impl ServerIdentity {
    fn current(&self, now: UnixSeconds) -> Result<Arc<CertifiedKey>, TlsError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((key, renew_at)) = &*current
            && now < *renew_at
        {
            return Ok(key.clone());
        }
        let (issued, key) = self.pki.issue_server_client(&self.name, now)?;
        let key = certified(issued.certificate, PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
        *current = Some((key.clone(), renew_at(now.plus(-CLOCK_SKEW_S), issued.not_after)));
        Ok(key)
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerIdentity({})", self.name)
    }
}

impl ResolvesClientCert for ServerIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        match self.current(clock::now()) {
            Ok(key) => Some(key),
            Err(e) => {
                tracing::error!(error = &e as &dyn std::error::Error, name = %self.name, "no client certificate");
                None
            }
        }
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::LIFE_S;

    #[test]
    fn a_servers_own_certificate_is_exchanged_in_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let now = clock::now();
        let pki = Arc::new(Pki::open(&dir.path().join("pki"), now).expect("opens"));
        let name = "main".parse().expect("a name");
        let identity = ServerIdentity { pki, name, current: Mutex::default() };
        let at = |now: UnixSeconds| identity.current(now).expect("made").end_entity_cert().expect("one").to_vec();
        let first = at(now);
        assert_eq!(at(now.plus(LIFE_S / 2)), first);
        assert_ne!(at(now.plus(LIFE_S * 2 / 3)), first);
        let peer = crate::pki::Peer::from_certificate(&first).expect("readable");
        assert_eq!(peer.caller.to_string(), "server:main");
    }
}

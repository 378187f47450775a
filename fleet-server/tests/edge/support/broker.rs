//! A broker of its own with a certificate authority that signs any name.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ClientConfig;
use rustls::pki_types::PrivateKeyDer;
use sedge_fleet_server::broker::{Bounds, BrokerConfig, Denied, EmbeddedBroker};

use super::mini::{Conn, Opts, open};

pub struct Pki {
    pub dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
    roots: Arc<rustls::RootCertStore>,
}

fn params(name: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(name) = name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params
}

fn ring() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Pki {
    pub fn new() -> Self {
        let mut root = params(Some("Sedge test root"));
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let pki = Self { dir: tempfile::tempdir().unwrap(), ca, roots: Arc::new(roots) };
        std::fs::write(pki.path().join("ca.pem"), pki.ca.pem()).unwrap();
        pki.write_server_certificate();
        pki
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn write_server_certificate(&self) {
        let key = KeyPair::generate().unwrap();
        let mut server = params(Some("localhost"));
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        std::fs::write(self.path().join("server.pem"), server.signed_by(&key, &self.ca).unwrap().pem()).unwrap();
        std::fs::write(self.path().join("server.key"), key.serialize_pem()).unwrap();
    }

    /// A client of `issuer`'s root that trusts this server.
    pub fn client_of(&self, issuer: &Self, name: Option<&str>) -> Arc<ClientConfig> {
        let key = KeyPair::generate().unwrap();
        let mut client = params(name);
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = client.signed_by(&key, &issuer.ca).unwrap();
        let mut config = ClientConfig::builder_with_provider(ring())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    /// A certificate of this root, and its key.
    pub fn identity(&self, name: &str) -> super::https::Identity {
        let key = KeyPair::generate().unwrap();
        let mut client = params(Some(name));
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = client.signed_by(&key, &self.ca).unwrap().der().to_vec();
        super::https::Identity { certificate, key: key.serialize_der() }
    }

    pub fn client(&self, name: &str) -> Arc<ClientConfig> {
        self.client_of(self, Some(name))
    }

    pub fn without_certificate(&self) -> Arc<ClientConfig> {
        Arc::new(
            ClientConfig::builder_with_provider(ring())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(self.roots.clone())
                .with_no_client_auth(),
        )
    }
}

pub struct Site {
    pub pki: Pki,
    pub broker: EmbeddedBroker,
    pub denied: Arc<Mutex<Vec<Denied>>>,
}

impl Site {
    pub async fn new(bounds: Bounds) -> Self {
        let pki = Pki::new();
        let denied = Arc::new(Mutex::new(Vec::new()));
        let broker = EmbeddedBroker::start(config(&pki, 0, bounds, denied.clone())).await.unwrap();
        Self { pki, broker, denied }
    }

    pub fn addr(&self) -> String {
        self.broker.addr().to_string()
    }

    pub async fn connect(&self, name: &str) -> Conn {
        open(&self.addr(), self.pki.client(name), name).await
    }

    /// The reason code of CONNACK, or none when the connection closed first.
    pub async fn try_connect(&self, client: Arc<ClientConfig>, opts: &Opts<'_>) -> Option<u8> {
        let mut conn = Conn::tls(&self.addr(), client).await.ok()?;
        conn.mqtt(opts).await.ok().map(|(reason, _)| reason)
    }

    pub fn denials(&self) -> Vec<Denied> {
        self.denied.lock().unwrap().clone()
    }
}

pub fn config(pki: &Pki, port: u16, bounds: Bounds, denied: Arc<Mutex<Vec<Denied>>>) -> BrokerConfig {
    BrokerConfig {
        addr: ([127, 0, 0, 1], port).into(),
        certificate: pki.path().join("server.pem"),
        private_key: pki.path().join("server.key"),
        client_roots: pki.path().join("ca.pem"),
        admit: Arc::new(|_, _| true),
        audit: Arc::new(move |d| denied.lock().unwrap().push(d.clone())),
        bounds,
    }
}

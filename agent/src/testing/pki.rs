//! A certificate authority and an HTTPS server that answers once.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) der: CertificateDer<'static>,
    /// In which year its certificates begin.
    begin: i32,
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key")
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::from_year(2026)
    }

    pub(crate) fn from_year(begin: i32) -> Self {
        let key = key();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let der = params.self_signed(&key).expect("certificate").der().clone();
        Self { issuer: Issuer::new(params, key), der, begin }
    }

    /// Signs what the request asks for, under this name.
    pub(crate) fn sign(&self, csr: &[u8], name: &str) -> Vec<u8> {
        let request = CertificateSigningRequestDer::from(csr.to_vec());
        let mut request = CertificateSigningRequestParams::from_der(&request).expect("request");
        self.shape(&mut request.params, name);
        request.signed_by(&self.issuer).expect("certificate").der().to_vec()
    }

    fn shape(&self, params: &mut CertificateParams, name: &str) {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(self.begin, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    }

    /// A certificate for a key that is not the device's.
    pub(crate) fn sign_another_key(&self, name: &str) -> Vec<u8> {
        let mut params = CertificateParams::default();
        self.shape(&mut params, name);
        params.signed_by(&key(), &self.issuer).expect("certificate").der().to_vec()
    }

    fn server(&self) -> Arc<ServerConfig> {
        let key = key();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = rcgen::date_time_ymd(self.begin, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        let config = ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into());
        Arc::new(config.expect("configuration"))
    }

    /// Listens, answers one request with what `answer` makes of its body, and says where.
    pub(crate) async fn serve_once(
        &self,
        answer: impl FnOnce(&str, Vec<u8>) -> Vec<u8> + Send + 'static,
    ) -> (String, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = format!("localhost:{}", listener.local_addr().expect("address").port());
        let acceptor = TlsAcceptor::from(self.server());
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("connection");
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut request = Vec::new();
            let (head, length) = loop {
                if let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") {
                    let head = String::from_utf8_lossy(&request[..end]).into_owned();
                    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
                    break (head, end + 4 + length.unwrap_or(0));
                }
                assert!(stream.read_buf(&mut request).await.expect("request") > 0);
            };
            while request.len() < length {
                assert!(stream.read_buf(&mut request).await.expect("request") > 0);
            }
            let end = request.windows(4).position(|w| w == b"\r\n\r\n").expect("head") + 4;
            let answer = answer(&head, request.split_off(end));
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        });
        (address, task)
    }
}

/// An HTTP answer.
pub(crate) fn http(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

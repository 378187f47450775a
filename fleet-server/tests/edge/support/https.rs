//! A client that says exactly what it is told to.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A certificate and its key, PKCS #8.
#[derive(Clone)]
pub struct Identity {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// Trusts `authority` only.
pub fn tls(authority: &[u8], identity: Option<&Identity>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.to_vec())).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match identity {
        None => config.with_no_client_auth(),
        Some(Identity { certificate, key }) => {
            let chain = vec![CertificateDer::from(certificate.clone())];
            config.with_client_auth_cert(chain, PrivatePkcs8KeyDer::from(key.clone()).into()).unwrap()
        }
    })
}

pub async fn connect(addr: SocketAddr, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(addr).await?;
    Ok(tokio_rustls::TlsConnector::from(tls).connect(ServerName::try_from("localhost")?, tcp).await?)
}

/// One request on a connection of its own.
pub async fn ask(
    addr: SocketAddr,
    tls: Arc<ClientConfig>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let mut stream = connect(addr, tls).await?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    read(&mut stream).await
}

pub async fn read(stream: &mut TlsStream<TcpStream>) -> Result<Answer> {
    let mut bytes = Vec::new();
    // The other side may close without saying so.
    let ended = stream.read_to_end(&mut bytes).await;
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    let at = at.with_context(|| format!("no answer: {ended:?}, {} bytes", bytes.len()))?;
    let head = String::from_utf8(bytes[..at].to_vec())?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok(Answer { status, head, body: bytes[at + 4..].to_vec() })
}

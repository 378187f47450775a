//! The fleet server's HTTPS interface, as every other tool would use it: `/api/v1`, a bearer token, and the server's own
//! certificate authority, which is named and never guessed.

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// An upload of a large bundle over a slow line takes its time; an answer to it does not.
const TIMEOUT_CONNECT: Duration = Duration::from_secs(10);
const TIMEOUT_ANSWER: Duration = Duration::from_secs(60);

/// Which server, and who is asking.
#[derive(Args)]
pub(crate) struct ServerArguments {
    /// Address of the server, `https://host:port`.
    #[arg(long, value_name = "URL", env = "SEDGE_SERVER", default_value = "https://127.0.0.1:8443")]
    server: String,
    /// The server's certificate authority, PEM; `pki/root.pem` in its data directory.
    #[arg(long, value_name = "FILE", env = "SEDGE_SERVER_CA")]
    server_ca: PathBuf,
    /// File that holds an API token; `admin-token` in the data directory of a new server.
    #[arg(long, value_name = "FILE", env = "SEDGE_TOKEN_FILE")]
    token_file: PathBuf,
}

/// A server that answers.
pub(crate) struct Server {
    agent: Agent,
    base: String,
    authorization: String,
}

impl ServerArguments {
    pub(crate) fn connect(&self) -> Result<Server> {
        Server::new(&self.server, &self.server_ca, &self.token_file)
    }
}

impl Server {
    pub(crate) fn new(url: &str, authority: &Path, token: &Path) -> Result<Self> {
        if !url.starts_with("https://") {
            bail!("--server is `{url}`; it begins with https://");
        }
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
        let authority = Certificate::from_pem(&read(authority)?)
            .map_err(|e| anyhow!("{} is no PEM certificate: {e}", authority.display()))?
            .to_owned();
        let token = String::from_utf8(read(token)?).with_context(|| token.display().to_string())?;
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(vec![authority])))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .http_status_as_error(false)
            .timeout_connect(Some(TIMEOUT_CONNECT))
            .timeout_recv_response(Some(TIMEOUT_ANSWER))
            .build();
        let base = format!("{}/api/v1", url.trim_end_matches('/'));
        Ok(Self { agent: config.into(), base, authorization: format!("Bearer {}", token.trim()) })
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        let request = self.agent.get(self.url(path)).header("authorization", &self.authorization);
        self.answer(path, request.call())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.agent.post(self.url(path)).header("authorization", &self.authorization);
        self.answer(path, request.send_json(body))
    }

    pub(crate) fn post_bytes(&self, path: &str, body: &[u8]) -> Result<Value> {
        let request = self.agent.post(self.url(path)).header("authorization", &self.authorization);
        self.answer(path, request.send(body))
    }

    pub(crate) fn put(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.agent.put(self.url(path)).header("authorization", &self.authorization);
        self.answer(path, request.send_json(body))
    }

    pub(crate) fn put_bytes(&self, path: &str, body: &[u8]) -> Result<Value> {
        let request = self.agent.put(self.url(path)).header("authorization", &self.authorization);
        self.answer(path, request.send(body))
    }

    pub(crate) fn put_file(&self, path: &str, file: &Path) -> Result<Value> {
        let file = std::fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let request = self.agent.put(self.url(path)).header("authorization", &self.authorization);
        self.answer(path, request.send(&file))
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    /// The JSON of a good answer, or what the server says is wrong (RFC 9457).
    fn answer(&self, path: &str, result: Result<Response<Body>, ureq::Error>) -> Result<Value> {
        let mut response = result.map_err(|e| anyhow!("{} does not answer: {e}", self.url(path)))?;
        let status = response.status();
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.with_context(|| format!("the answer of {} breaks off", self.url(path)))?;
        let value: Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(_) if text.trim().is_empty() => Value::Null,
            Err(_) => bail!("{} answers {status} with something that is not JSON", self.url(path)),
        };
        if status.is_success() {
            return Ok(value);
        }
        let parts = ["title", "detail", "hint"].into_iter().filter_map(|key| value[key].as_str());
        let parts: Vec<&str> = parts.filter(|p| !p.is_empty()).map(|p| p.trim_end_matches('.')).collect();
        match parts.is_empty() {
            true => bail!("{} answers {status}", self.url(path)),
            false => bail!("{}", sedge_protocol::text::visible(&parts.join(": "), 1000)),
        }
    }
}

//! A whole server in a directory of its own, with a fleet part that only has roots.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use anyhow::Result;
use async_trait::async_trait;
use axum::Router;
use axum::routing::get;
use sedge_fleet_server::config::{Broker, Config, EmbeddedBroker};
use sedge_fleet_server::console::{ConsoleData, LiveData, StoredData};
use sedge_fleet_server::field::Field;
use sedge_fleet_server::server::{self, Running};
use sedge_fleet_server::service::{AnyError, FirstRoots, FleetService, Site};
use sedge_protocol::cbor::{self, Bytes, Limits};
use sedge_protocol::enrolment::{
    BODY_BYTES_MAX, ENROL_PATH, EnrolmentAnswer, EnrolmentRequest, EnrolmentToken, RENEW_PATH, Refusal, RenewalAnswer,
    RenewalRequest,
};
use sedge_protocol::id::{Principal, ProjectId};
use serde_json::json;

use super::https::{Answer, Identity, ask, tls};
use super::live_shown::Live;

/// Everything that any server of this process has logged.
pub static LOG: LazyLock<Arc<Mutex<Vec<u8>>>> = LazyLock::new(Arc::default);

struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn capture_log() {
    let subscriber = tracing_subscriber::fmt().with_env_filter("trace").with_ansi(false).with_writer(|| LogWriter);
    // The first server of the process wins.
    let _ = subscriber.try_init();
}

#[derive(Default)]
pub struct StubFleet {
    pub site: OnceLock<Site>,
    pub events: Mutex<Vec<String>>,
    pub console: OnceLock<Arc<dyn ConsoleData>>,
    /// A fleet to show as the database and its heartbeats tell it.
    pub live: Option<Live>,
}

#[async_trait]
impl FleetService for StubFleet {
    async fn started(&self, site: Site) -> Result<Router, AnyError> {
        if let Some(live) = &self.live {
            let pool = site.store.pool().clone();
            let field = Arc::new(Field::start(pool.clone(), live.telemetry.subscribe()).await?);
            live.settle(&pool).await;
            let data = LiveData::new(StoredData::open(site.store.clone()).await?, field, live.clone());
            let _ = self.console.set(Arc::new(data));
        }
        let _ = self.site.set(site);
        Ok(Router::new().route("/projects/{project}/probe", get(async || "fleet")))
    }

    fn console(&self) -> Option<Arc<dyn ConsoleData>> {
        self.console.get().cloned()
    }

    async fn device_enrolled(&self, device: &Principal) {
        self.events.lock().unwrap().push(format!("{device} came"));
    }

    async fn device_decommissioned(&self, device: &Principal) {
        self.events.lock().unwrap().push(format!("{device} went"));
    }

    async fn stopping(&self) {
        self.events.lock().unwrap().push("stopping".into());
    }

    async fn first_roots(&self, project: &ProjectId) -> Result<Option<FirstRoots>, AnyError> {
        let rootless = project.as_str() == "rootless";
        Ok((!rootless).then(|| FirstRoots { publisher: b"publisher".to_vec(), director: b"director".to_vec() }))
    }
}

pub struct Server {
    pub dir: tempfile::TempDir,
    pub running: Running,
    pub fleet: Arc<StubFleet>,
    pub admin: String,
}

pub fn config(data: &Path) -> Config {
    let mut config = Config { data: data.to_owned(), ..Config::default() };
    config.http.listen.set_port(0);
    config.http.head_timeout_s = 1;
    config.enrolment.requests_per_minute_max = 6000;
    let mut broker = EmbeddedBroker::default();
    broker.listen.set_port(0);
    config.broker = Broker::Embedded(broker);
    config
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        capture_log();
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir.path().join("data"));
        change(&mut config);
        Self::start_in(dir, config).await
    }

    /// With a console that shows this.
    pub async fn start_showing(console: Arc<dyn ConsoleData>) -> Self {
        capture_log();
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("data"));
        Self::start_fleet(dir, config, StubFleet { console: OnceLock::from(console), ..StubFleet::default() }).await
    }

    /// With the console of a fleet that is steered.
    pub async fn start_live(live: Live) -> Self {
        capture_log();
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("data"));
        Self::start_fleet(dir, config, StubFleet { live: Some(live), ..StubFleet::default() }).await
    }

    pub async fn start_in(dir: tempfile::TempDir, config: Config) -> Self {
        Self::start_fleet(dir, config, StubFleet::default()).await
    }

    async fn start_fleet(dir: tempfile::TempDir, config: Config, fleet: StubFleet) -> Self {
        let fleet = Arc::new(fleet);
        let admin_file = config.data.join(server::ADMIN_TOKEN_FILE);
        let running = server::start(config, fleet.clone()).await.unwrap();
        let admin = std::fs::read_to_string(admin_file).unwrap().trim().to_owned();
        Self { dir, running, fleet, admin }
    }

    pub fn tls(&self, identity: Option<&Identity>) -> Arc<rustls::ClientConfig> {
        tls(&self.running.authority, identity)
    }

    pub fn server_tls(&self, name: &str) -> Arc<rustls::ClientConfig> {
        self.fleet.site.get().unwrap().mqtt_tls(&name.parse().unwrap()).unwrap()
    }

    pub fn broker(&self) -> String {
        self.running.broker_addr.unwrap().to_string()
    }

    pub async fn api(&self, token: &str, method: &str, path: &str, body: serde_json::Value) -> Answer {
        let bearer = format!("Bearer {token}");
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        ask(self.running.http_addr, self.tls(None), method, path, &headers, &body).await.unwrap()
    }

    pub async fn grant(&self, body: serde_json::Value) -> EnrolmentToken {
        let answer = self.api(&self.admin, "POST", "/api/v1/projects/default/enrolment-tokens", body).await;
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()["token"].as_str().unwrap().parse().unwrap()
    }

    pub async fn post(&self, path: &str, identity: Option<&Identity>, body: &[u8]) -> Result<Answer> {
        let headers = [("Content-Type", "application/cbor")];
        ask(self.running.http_addr, self.tls(identity), "POST", path, &headers, body).await
    }

    /// What a device does: a key, a request, an answer.
    pub async fn try_enrol(
        &self,
        token: &EnrolmentToken,
        device: &str,
        key: &rcgen::KeyPair,
    ) -> Result<EnrolmentAnswer, (u16, Refusal)> {
        let request =
            EnrolmentRequest { secret: token.secret.clone(), device: device.parse().unwrap(), csr: Bytes(csr(key)) };
        decode(self.post(ENROL_PATH, None, &cbor::encode(&request).unwrap()).await.unwrap())
    }

    pub async fn enrol(&self, device: &str) -> Identity {
        let token = self.grant(json!({})).await;
        let key = rcgen::KeyPair::generate().unwrap();
        let answer = self.try_enrol(&token, device, &key).await.unwrap();
        Identity { certificate: answer.certificate.0, key: key.serialize_der() }
    }

    pub async fn try_renew(
        &self,
        identity: Option<&Identity>,
        key: &rcgen::KeyPair,
    ) -> Result<RenewalAnswer, (u16, Refusal)> {
        let request = RenewalRequest { csr: Bytes(csr(key)) };
        decode(self.post(RENEW_PATH, identity, &cbor::encode(&request).unwrap()).await.unwrap())
    }

    pub async fn decommission(&self, device: &str) -> Answer {
        let path = format!("/api/v1/projects/default/devices/{device}/decommission");
        self.api(&self.admin, "POST", &path, serde_json::Value::Null).await
    }
}

pub fn csr(key: &rcgen::KeyPair) -> Vec<u8> {
    let params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.serialize_request(key).unwrap().der().to_vec()
}

pub fn decode<T: serde::de::DeserializeOwned>(answer: Answer) -> Result<T, (u16, Refusal)> {
    let limits = Limits::bytes(BODY_BYTES_MAX);
    match answer.status {
        200 => Ok(cbor::decode_strict(&answer.body, limits).unwrap()),
        status => Err((status, cbor::decode_strict(&answer.body, limits).unwrap())),
    }
}

//! Puts the parts together and takes them apart again.
//!
//! Started in the order of need: lock, authority, database, broker, fleet, and requests last; stopped the other way round.
//! Killed at any moment, the next start finds a whole authority and a whole database.

mod broker;
mod first;
mod run;
mod upkeep;

use crate::broker::BrokerError;
use crate::clock;
use crate::config::{self, Broker, Config, ConfigError};
use crate::console::{self, Console, ConsoleData, Login, LoginError, LoginLink, StoredData};
use crate::deny::DenyList;
use crate::enrol::Enroller;
use crate::files;
use crate::http::{self, Edge, HttpServer, RateLimiter};
use crate::pki::{Pki, PkiError, ServerCertificate, TlsError};
use crate::service::{AnyError, BrokerAddress, FleetService, Site};
use crate::store::{EdgeStore, Scope, Store, StoreError};
use broker::BrokerLink;
pub use first::{ADMIN_TOKEN_FILE, LOGIN_LINK_FILE};
pub use run::run_until_stopped;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;
use tokio::sync::watch;
use upkeep::Upkeep;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory.
    #[error("cannot use the data directory {}", path.display())]
    Data {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another server.
    #[error("another server uses the data directory {}; stop it, or give another with --data", .0.display())]
    Busy(PathBuf),
    /// The certificate authority.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The external broker's authority.
    #[error("cannot read the certificate authority {} (`broker.external.ca`): {problem}", path.display())]
    BrokerAuthority {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The HTTPS address.
    #[error("cannot listen on {addr} (`http.listen`)")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
    /// The first login link.
    #[error("cannot make the first login link")]
    Login(#[from] LoginError),
    /// The fleet part.
    #[error("cannot start the fleet part")]
    Fleet(#[source] AnyError),
    /// What ends the server.
    #[error("cannot wait for {name}")]
    Signal {
        /// Name of the signal.
        name: &'static str,
        /// The cause.
        source: std::io::Error,
    },
}

/// A running server. Dropped without [`Running::shutdown`] it stops without waiting.
pub struct Running {
    /// Where HTTPS listens.
    pub http_addr: SocketAddr,
    /// Where the embedded broker listens; none with an external one.
    pub broker_addr: Option<SocketAddr>,
    /// What devices connect to, `host:port`.
    pub broker: String,
    /// The certificate authority, DER; what clients of this server trust.
    pub authority: Vec<u8>,
    ready: Arc<AtomicBool>,
    closing: watch::Sender<bool>,
    login: Arc<Login>,
    http: HttpServer,
    fleet: Arc<dyn FleetService>,
    link: Arc<BrokerLink>,
    upkeep: Upkeep,
    store: Store,
    _lock: File,
}

/// Starts everything.
///
/// # Errors
/// When a part cannot start; those before it are stopped.
pub async fn start(config: Config, fleet: Arc<dyn FleetService>) -> Result<Running, StartError> {
    config.check()?;
    let data = config.data.clone();
    let lock = lock(&data)?;
    // 1. Who we are.
    let names = config.server_names();
    let pki = Arc::new(Pki::open(&data.join("pki"), clock::now())?);
    pki.renew_server_certificate(&names, clock::now())?;
    let certificate = Arc::new(ServerCertificate::load(&pki)?);
    // 2. What we know.
    let store = Store::open(&data.join("sedge.db")).await?;
    let edge_store: Arc<dyn EdgeStore> = Arc::new(store.clone());
    let is_first = first::start(&*edge_store, &data).await?;
    edge_store.prune(clock::now()).await?;
    let deny = Arc::new(DenyList::new(edge_store.denied(clock::now()).await?));
    // 3. Where devices connect. The other listener is bound first, since devices are told of both.
    let addr = config.http.listen;
    let listener = TcpListener::bind(addr).await.map_err(|source| StartError::Listen { addr, source })?;
    let http_addr = listener.local_addr().map_err(|source| StartError::Listen { addr, source })?;
    let mut upkeep = Upkeep::default();
    let (link, address, broker) = match &config.broker {
        Broker::Embedded(settings) => {
            let audit = upkeep.audit(edge_store.clone());
            let link = BrokerLink::embedded(settings, &pki, deny.clone(), audit).await?;
            let listen = link.addr().unwrap_or(settings.listen);
            // From in here, an address that stands for all is reached by loopback.
            let host = if listen.ip().is_unspecified() { "localhost".to_owned() } else { listen.ip().to_string() };
            let address = BrokerAddress { host, port: listen.port(), authorities: Vec::new() };
            (link, address, config.public_address(settings.public.as_ref(), listen))
        }
        Broker::External(settings) => {
            let authorities = settings.ca.as_deref().map_or(Ok(Vec::new()), authorities)?;
            let address = BrokerAddress { host: settings.host.clone(), port: settings.port, authorities };
            (BrokerLink::external(), address, config::address(&settings.host, settings.port))
        }
    };
    let link = Arc::new(link);
    let broker_addr = link.addr();
    // 4. What steers fleets.
    let site = Site { data: data.clone(), store: store.clone(), pki: pki.clone(), broker: address };
    let routes = fleet.started(site).await.map_err(StartError::Fleet)?;
    // 5. Requests.
    let ready = Arc::new(AtomicBool::new(true));
    let server = config.public_address(config.http.public.as_ref(), http_addr);
    let login = Arc::new(Login::new(store.clone(), server.clone()));
    if is_first {
        first::login(&login, &data).await?;
    }
    let shown: Arc<dyn ConsoleData> = match fleet.console() {
        Some(shown) => shown,
        None => Arc::new(StoredData::open(store.clone()).await?),
    };
    let (closing, closed) = watch::channel(false);
    let console = console::routes(Console::new(shown, login.clone(), edge_store.clone(), closed));
    let edge = Edge {
        enroller: Arc::new(Enroller {
            store: edge_store.clone(),
            pki: pki.clone(),
            deny,
            link: link.clone(),
            fleet: fleet.clone(),
            server,
            broker: broker.clone(),
        }),
        limiter: Arc::new(RateLimiter::new(config.enrolment.requests_per_minute_max)),
        token_lifetime_s: config.enrolment.token_lifetime_s.into(),
        login: login.clone(),
        ready: ready.clone(),
    };
    let authority = pki.root().to_vec();
    let tls = pki.https_server(certificate.clone())?;
    let http = HttpServer::start(listener, tls, http::router(edge, routes, console), config.http_bounds());
    upkeep.renew(pki, names, certificate, link.clone(), edge_store);
    tracing::info!(https = %http_addr, %broker, "serving");
    Ok(Running {
        http_addr,
        broker_addr,
        broker,
        authority,
        ready,
        closing,
        login,
        http,
        fleet,
        link,
        upkeep,
        store,
        _lock: lock,
    })
}

impl Running {
    /// Makes a link that opens the console once. `name` says in the audit who it is for.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn login_link(&self, name: &str, scope: Scope) -> Result<LoginLink, LoginError> {
        self.login.issue_link(name, scope, clock::now()).await
    }

    /// Stops everything; requests that run may end, for some seconds.
    pub async fn shutdown(self) {
        self.ready.store(false, Ordering::Release);
        let _ = self.closing.send(true);
        self.http.stop().await;
        self.fleet.stopping().await;
        self.upkeep.stop();
        self.link.stop().await;
        self.store.close().await;
        tracing::info!("stopped");
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("http", &self.http_addr).field("broker", &self.broker).finish_non_exhaustive()
    }
}

/// Makes the data directory and keeps other servers out: what is denied is also held in memory.
fn lock(data: &Path) -> Result<File, StartError> {
    let error = |source| StartError::Data { path: data.to_owned(), source };
    files::private_directory(data).map_err(error)?;
    if files::is_open_to_others(data).map_err(error)? {
        tracing::warn!(directory = %data.display(), "others can look into the data directory; run `chmod go= ` on it");
    }
    let file = File::create(data.join("lock")).map_err(error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Busy(data.to_owned())),
        Err(TryLockError::Error(e)) => Err(error(e)),
    }
}

fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let error = |problem: String| StartError::BrokerAuthority { path: path.to_owned(), problem };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| error(e.to_string()))?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(|e| error(e.to_string()))?;
    if certificates.is_empty() {
        return Err(error("it holds no certificate".into()));
    }
    Ok(certificates)
}

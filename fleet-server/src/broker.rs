//! The MQTT broker inside the server: mutual TLS, rights from the certificate's name, bounds.
//!
//! It knows nothing of devices, rollouts or the database; the rest of the server speaks to it as an
//! MQTT client, so that Mosquitto can stand in its place. It keeps nothing on disk: after a restart
//! the server publishes retained state again and devices reconnect with `session_present = 0`.
//!
//! rmqtt spawns tasks that nothing joins, so the broker owns a runtime; `stop` ends all of them.

mod backlog;
mod bounds;
mod gate;
mod retained;
mod rights;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rmqtt::codec::types::QoS;
use rmqtt::context::ServerContext;
use rmqtt::hook::Type;
use rmqtt::net::{Builder, Listener};
use rmqtt::router::DefaultRouter;
use rmqtt::server::MqttServer;
use sedge_protocol::id::NAME_LENGTH_MAX;
use sedge_protocol::topic::Caller;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

pub use bounds::Bounds;
pub use gate::Denied;
pub use rights::{Action, allows};

/// Whether a certificate, by its name and its serial in lower-case hexadecimal without leading zeros, is still good.
pub type Admit = dyn Fn(&Caller, &str) -> bool + Send + Sync;
/// Receives one refusal.
pub type Audit = dyn Fn(&Denied) + Send + Sync;

/// What `start` needs.
#[derive(Clone)]
pub struct BrokerConfig {
    /// Port 0 takes a free one; see [`EmbeddedBroker::addr`].
    pub addr: SocketAddr,
    /// PEM, the server's chain, leaf first.
    pub certificate: PathBuf,
    /// PEM, PKCS #8.
    pub private_key: PathBuf,
    /// PEM; a client certificate must chain to one of these.
    pub client_roots: PathBuf,
    /// Called at CONNECT: it must not block. Everything else is the table of topics, see [`allows`].
    pub admit: Arc<Admit>,
    /// Called once per refusal, on the packet path: it must not block and should rate-limit.
    pub audit: Arc<Audit>,
    /// See [`Bounds`].
    pub bounds: Bounds,
}

/// Why the broker does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The runtime could not be built.
    #[error("cannot start the broker's threads")]
    Threads(#[source] std::io::Error),
    /// The address, or one of the PEM files.
    #[error("cannot listen on {addr} with the certificate {certificate}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// With which chain.
        certificate: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A running broker; dropping it ends it too, without waiting.
pub struct EmbeddedBroker {
    config: BrokerConfig,
    addr: SocketAddr,
    context: ServerContext,
    backlog: Arc<backlog::Backlog>,
    /// None only after a failed renewal.
    accept: Option<JoinHandle<()>>,
    /// The present listener's identifier in rmqtt.
    listeners: u16,
    /// Taken by `stop` and `drop`.
    runtime: Option<Runtime>,
}

impl EmbeddedBroker {
    /// Listens and serves until `stop`.
    ///
    /// # Errors
    /// When the address is taken or a PEM file is unreadable or inconsistent.
    pub async fn start(config: BrokerConfig) -> Result<Self, BrokerError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.bounds.worker_threads)
            .thread_name("broker")
            .enable_all()
            .build()
            .map_err(BrokerError::Threads)?;
        let guard = Owned(Some(runtime));
        let runtime = guard.get();
        let bounds = Arc::new(config.bounds.clone());
        let backlog = Arc::new(backlog::Backlog::new(bounds.clone()));
        let context = runtime
            .spawn(context(config.clone(), bounds, backlog.clone()))
            .await
            .map_err(|e| BrokerError::Threads(std::io::Error::other(e)))?;
        let listener = listen(runtime, &config, config.addr)?;
        let addr = listener.local_addr().map_err(|source| listen_error(&config, config.addr, source))?;
        let accept = Some(serve(runtime, &context, listener, 1));
        let runtime = guard.release();
        Ok(Self { config, addr, context, backlog, accept, listeners: 1, runtime: Some(runtime) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Messages not forwarded to a client that did not keep up, since start.
    pub fn shed_messages(&self) -> u64 {
        self.backlog.shed()
    }

    /// Reads the PEM files again and listens with them; connections stay. New ones are refused by
    /// the system for the moment between. With unusable files the old certificate stays in use.
    ///
    /// # Errors
    /// As `start`. Only if the address was taken in that moment does nothing listen any more;
    /// calling again is the remedy.
    pub async fn renew_certificate(&mut self) -> Result<(), BrokerError> {
        let runtime = self.runtime.as_ref().expect("present until stop");
        let probe = SocketAddr::new(self.addr.ip(), 0);
        drop(listen(runtime, &self.config, probe)?);
        if let Some(accept) = self.accept.take() {
            accept.abort();
            let _ = accept.await;
        }
        let listener = listen(runtime, &self.config, self.addr)?;
        self.context.listen_cfgs.remove(&self.listeners);
        self.listeners = self.listeners.checked_add(1).unwrap_or(1);
        self.accept = Some(serve(runtime, &self.context, listener, self.listeners));
        Ok(())
    }

    /// Ends every session of `name`, kept ones too: its certificate was revoked. Returns how many.
    /// `admit` must refuse the name or serial first, or it comes back.
    pub async fn disconnect(&self, name: &str) -> usize {
        let (context, name) = (self.context.clone(), name.to_owned());
        let runtime = self.runtime.as_ref().expect("present until stop");
        let ended = runtime.spawn(async move {
            let mut sessions = Vec::new();
            for entry in context.extends.shared().await.iter() {
                if entry.session().is_some_and(|s| s.id.username.as_deref() == Some(name.as_str())) {
                    sessions.push(entry.id());
                }
            }
            for id in &sessions {
                let mut entry = context.extends.shared().await.entry(id.clone());
                let _ = entry.kick(true, true, true).await;
            }
            sessions.len()
        });
        ended.await.unwrap_or(0)
    }

    /// Closes the socket and every connection. Wills are not published.
    pub async fn stop(mut self) {
        drop(self.accept.take());
        if let Some(runtime) = self.runtime.take() {
            let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(3)));
            let _ = ended.await;
        }
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A runtime must not be dropped inside another one, which an early return would do.
struct Owned(Option<Runtime>);

impl Owned {
    fn get(&self) -> &Runtime {
        self.0.as_ref().expect("present until release")
    }
    fn release(mut self) -> Runtime {
        self.0.take().expect("present until release")
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn context(config: BrokerConfig, bounds: Arc<Bounds>, backlog: Arc<backlog::Backlog>) -> ServerContext {
    let context = ServerContext::new()
        // It refuses connections by the machine's load, ours or not.
        .busy_check_enable(false)
        .mqtt_max_sessions(isize::try_from(bounds.sessions).unwrap_or(isize::MAX))
        .build()
        .await;
    let router = DefaultRouter::new(Some(context.clone()));
    *context.extends.router_mut().await = Box::new(backlog::BoundedRouter { inner: router, backlog: backlog.clone() });
    *context.extends.retain_mut().await = Box::new(retained::Retained::new(bounds.retained_messages));
    *context.extends.fitter_mgr_mut().await = Box::new(bounds::PerPrincipal(bounds));
    let register = context.extends.hook_mgr().register();
    for hook in [
        Type::ClientAuthenticate,
        Type::MessagePublishCheckAcl,
        Type::ClientSubscribeCheckAcl,
        Type::ClientConnected,
        Type::SessionTerminated,
        Type::MessageDelivered,
        Type::MessageDropped,
    ] {
        let gate = gate::Gate { admit: config.admit.clone(), audit: config.audit.clone(), backlog: backlog.clone() };
        register.add(hook, Box::new(gate)).await;
    }
    // Handlers are added disabled; without this call everything is allowed.
    register.start().await;
    context
}

fn listen(runtime: &Runtime, config: &BrokerConfig, addr: SocketAddr) -> Result<Listener, BrokerError> {
    let bounds = &config.bounds;
    let pem = |path: &PathBuf| Some(path.to_string_lossy().into_owned());
    let _entered = runtime.enter();
    Builder::new()
        .name("sedge")
        .laddr(addr)
        .reuseaddr(Some(true))
        .backlog(4096)
        .nodelay(true)
        .max_connections(bounds.sessions)
        .max_packet_size(bounds.packet_bytes)
        .max_inflight(bounds.in_flight)
        .max_mqueue_len(bounds.device_queue_messages)
        .max_subscriptions(bounds.subscriptions_per_client)
        .max_topic_levels(bounds.topic_levels)
        .max_topic_aliases(0)
        // A name is two parts and a colon; a further connection adds a slash and a part.
        .max_clientid_len(3 * NAME_LENGTH_MAX + 2)
        .max_qos_allowed(QoS::AtLeastOnce)
        .session_expiry_interval(bounds.session_expiry)
        .max_session_expiry_interval(bounds.session_expiry)
        // Zero is "never" for delivery; rmqtt's default would drop each message after five minutes.
        .message_expiry_interval(Duration::ZERO)
        .handshake_timeout(bounds.handshake_timeout)
        .send_timeout(bounds.write_timeout)
        .allow_zero_keepalive(false)
        .max_keepalive(1200)
        .allow_anonymous(false)
        .tls_cert(pem(&config.certificate))
        .tls_key(pem(&config.private_key))
        .tls_client_ca_certs(pem(&config.client_roots))
        .tls_cross_certificate(true)
        .cert_cn_as_username(true)
        .collect_cert_info(true)
        .bind()
        .and_then(Listener::tls)
        .map_err(|source| listen_error(config, addr, source))
}

fn listen_error(config: &BrokerConfig, addr: SocketAddr, source: rmqtt::Error) -> BrokerError {
    BrokerError::Listen { addr, certificate: config.certificate.clone(), source: source.into() }
}

fn serve(runtime: &Runtime, context: &ServerContext, listener: Listener, id: u16) -> JoinHandle<()> {
    let server = MqttServer::new(context.clone()).listener_by_id(listener, id).build();
    runtime.spawn(async move {
        // `run`, not `start`: the latter ends the process on error.
        let _ = server.run().await;
    })
}

//! The listener: accepts, limits, shakes hands, and hands requests on with who they come from.

use crate::pki::Peer;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// How long running requests may go on when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What stops floods and slow senders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpBounds {
    /// Connections at once; more wait in the system's queue.
    pub connections: u32,
    /// Connections of one address; more are closed.
    pub connections_per_address: u32,
    /// The TLS handshake.
    pub handshake_timeout: Duration,
    /// A request's head, and the wait for the next one.
    pub head_timeout: Duration,
}

/// Where a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The other end's socket.
    pub addr: SocketAddr,
    /// Who it is, if it showed a certificate of ours.
    pub peer: Option<Peer>,
}

/// A running listener.
pub(crate) struct HttpServer {
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl HttpServer {
    pub(crate) fn start(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, bounds: HttpBounds) -> Self {
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(tls), router, bounds, stopped));
        Self { stop, accepting }
    }

    /// Takes no more requests and waits for those that run.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.accepting.await;
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    router: Router,
    bounds: HttpBounds,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(bounds.connections as usize));
    let addresses = Addresses::default();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let accepted = tokio::select! {
            _ = stopped.changed() => break,
            accepted = accepted => accepted,
        };
        let Some((place, accepted)) = accepted else { break };
        match accepted {
            Ok((tcp, addr)) => {
                let Some(counted) = addresses.enter(addr.ip(), bounds.connections_per_address) else { continue };
                let (tls, router, stopped) = (tls.clone(), router.clone(), stopped.clone());
                tokio::spawn(async move {
                    converse(tcp, addr, tls, router, bounds, stopped).await;
                    drop((place, counted));
                });
            }
            Err(e) => {
                // Out of descriptors, usually; trying at once again would only burn the processor.
                tracing::warn!(error = &e as &dyn std::error::Error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, places.acquire_many(bounds.connections)).await;
}

async fn converse(
    tcp: TcpStream,
    addr: SocketAddr,
    tls: TlsAcceptor,
    router: Router,
    bounds: HttpBounds,
    mut stopped: watch::Receiver<bool>,
) {
    let _ = tcp.set_nodelay(true);
    let stream = match tokio::time::timeout(bounds.handshake_timeout, tls.accept(tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return tracing::debug!(address = %addr, "TLS handshake failed: {e}"),
        Err(_) => return tracing::debug!(address = %addr, "TLS handshake took too long"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = certificate.and_then(|certificate| {
        Peer::from_certificate(certificate)
            .inspect_err(|e| tracing::warn!(address = %addr, "certificate of ours is not usable: {e}"))
            .ok()
    });
    let from = Connection { addr, peer };
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(from.clone());
        // A router is always ready.
        router.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(address = %addr, "connection ended: {e}");
    }
}

/// Connections by address.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, u32>>>);

impl Addresses {
    fn enter(&self, addr: IpAddr, max: u32) -> Option<Counted> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(addr).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Counted { addresses: self.clone(), addr })
    }
}

/// One connection; not counted any more when dropped.
struct Counted {
    addresses: Addresses,
    addr: IpAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.addr) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.addr);
            }
        }
    }
}

//! Samples from a broker of the site: a connection of its own, which shares nothing with the line to the fleet server.
//!
//! Samples that nobody takes in time are dropped, the newest first, and counted; a broker that goes away is tried again.

use rumqttc::TlsConfiguration;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};
use rustls::ClientConfig;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// Largest packet that is taken.
const PACKET_BYTES_MAX: u32 = 4 << 20;
/// Samples that may wait.
const SAMPLES_MAX: usize = 8;
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Where samples are published.
#[derive(Debug, Clone)]
pub struct SiteBroker {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// TLS, for a broker that is not on this machine.
    pub tls: Option<Arc<ClientConfig>>,
    /// Name and password, where it asks for them.
    pub login: Option<SiteLogin>,
    /// Client id, one for each connection.
    pub client_id: String,
    /// What to subscribe.
    pub filter: String,
}

/// Who the broker is to take this device for.
#[derive(Clone)]
pub struct SiteLogin {
    /// Name.
    pub name: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for SiteLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteLogin({})", self.name)
    }
}

/// A site's broker that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the broker {0} is not on this machine, so it needs TLS; set it up, or use a broker on the loopback address")]
pub struct NeedsTls(String);

/// Samples as they arrive. Dropping it ends the connection.
#[derive(Debug)]
pub struct SiteSamples {
    samples: mpsc::Receiver<(String, Vec<u8>)>,
    dropped: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Drop for SiteSamples {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SiteSamples {
    /// The next topic and payload.
    pub async fn next(&mut self) -> Option<(String, Vec<u8>)> {
        self.samples.recv().await
    }

    /// Samples that nobody took in time.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Begins to connect and to collect samples.
///
/// # Errors
/// [`NeedsTls`] for a broker elsewhere without TLS.
pub fn collect(broker: SiteBroker) -> Result<SiteSamples, NeedsTls> {
    let loopback = broker.host == "localhost"
        || broker.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if broker.tls.is_none() && !loopback {
        return Err(NeedsTls(sedge_protocol::text::visible(&broker.host, 120)));
    }
    let (to, samples) = mpsc::channel(SAMPLES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let task = tokio::spawn(run(broker, to, dropped.clone())).abort_handle();
    Ok(SiteSamples { samples, dropped, task })
}

async fn run(broker: SiteBroker, to: mpsc::Sender<(String, Vec<u8>)>, dropped: Arc<AtomicU64>) {
    let mut pause_s = 1;
    loop {
        // A client of its own for each connection: nothing that it keeps outlives the connection.
        let (broker, to, dropped) = (broker.clone(), to.clone(), dropped.clone());
        let ended = tokio::spawn(connection(broker, to, dropped)).await;
        let was_up = ended.unwrap_or(false);
        pause_s = if was_up { 1 } else { (pause_s * 2).min(60) };
        sleep(Duration::from_secs(pause_s)).await;
    }
}

/// Polls one connection to its end; says whether it ever was up.
async fn connection(broker: SiteBroker, to: mpsc::Sender<(String, Vec<u8>)>, dropped: Arc<AtomicU64>) -> bool {
    let mut options = MqttOptions::new(&broker.client_id, &broker.host, broker.port);
    if let Some(tls) = &broker.tls {
        options.set_transport(rumqttc::Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    if let Some(SiteLogin { name, password }) = &broker.login {
        options.set_credentials(name, password);
    }
    options.set_keep_alive(KEEP_ALIVE);
    options.set_clean_start(true);
    options.set_max_packet_size(Some(PACKET_BYTES_MAX));
    options.set_outgoing_inflight_upper_limit(4);
    let (client, mut eventloop) = AsyncClient::new(options, 4);
    let mut was_up = false;
    while !to.is_closed() {
        match timeout(3 * KEEP_ALIVE, eventloop.poll()).await {
            Ok(Ok(Event::Incoming(Incoming::ConnAck(_)))) => {
                was_up = true;
                info!(host = broker.host, filter = broker.filter, "connected to the site's broker");
                if client.try_subscribe(&broker.filter, QoS::AtMostOnce).is_err() {
                    return was_up;
                }
            }
            Ok(Ok(Event::Incoming(Incoming::Publish(publish)))) => {
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                if to.try_send((topic, publish.payload.into())).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(Ok(_)) => {}
            Ok(Err(e)) => {
                warn!(host = broker.host, error = %e, "the site's broker is gone");
                return was_up;
            }
            Err(_) => return was_up,
        }
    }
    was_up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::broker::{Broker, Packet};

    #[tokio::test]
    async fn samples_arrive_large_ones_too_and_after_a_break() {
        let broker = Broker::new().await;
        let site = SiteBroker {
            host: "127.0.0.1".to_owned(),
            port: broker.port,
            tls: None,
            login: None,
            client_id: "cam".to_owned(),
            filter: "line/+/image".to_owned(),
        };
        let mut samples = collect(site.clone()).expect("on this machine");
        for size in [10, 300_000] {
            let mut peer = broker.up(false).await;
            let Some(Packet::Subscribe { filters, .. }) = peer.next().await else { panic!("no subscription") };
            assert_eq!(filters, ["line/+/image"]);
            peer.send("line/3/image", &vec![7; size], 0).await;
            let (topic, payload) = samples.next().await.expect("a sample");
            assert_eq!((topic.as_str(), payload.len()), ("line/3/image", size));
        }
        assert!(collect(SiteBroker { host: "192.0.2.1".to_owned(), ..site }).is_err());
    }
}

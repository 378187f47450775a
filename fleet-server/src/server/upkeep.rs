//! What goes on beside requests: the audit of what the broker refused, renewal of the server's certificate, forgetting.

use super::broker::BrokerLink;
use crate::broker::Denied;
use crate::clock;
use crate::pki::{Pki, ServerCertificate};
use crate::store::{AuditEntry, EdgeStore};
use sedge_protocol::time::UnixSeconds;
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Refusals that wait to be written; the rest of a flood is dropped.
const DENIALS_WAITING_MAX: usize = 256;
/// The same client's refusals are written once in this time.
const DENIAL_STEP: Duration = Duration::from_secs(10);
/// Clients that are told apart.
const DENIED_CLIENTS_MAX: usize = 1_000;
const RENEWAL_STEP: Duration = Duration::from_secs(3600);

/// Tasks that end with the server.
#[derive(Default)]
pub(super) struct Upkeep(Vec<JoinHandle<()>>);

impl Upkeep {
    /// Where the broker's refusals go.
    pub(super) fn audit(&mut self, store: Arc<dyn EdgeStore>) -> mpsc::Sender<Denied> {
        let (sender, receiver) = mpsc::channel(DENIALS_WAITING_MAX);
        self.0.push(tokio::spawn(write_denials(store, receiver)));
        sender
    }

    /// Renews the server's certificate in time and forgets what has expired.
    pub(super) fn renew(
        &mut self,
        pki: Arc<Pki>,
        names: Vec<String>,
        certificate: Arc<ServerCertificate>,
        link: Arc<BrokerLink>,
        store: Arc<dyn EdgeStore>,
    ) {
        self.0.push(tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEWAL_STEP).await;
                if let Err(e) = renew(&pki, &names, &certificate, &link, clock::now()).await {
                    tracing::error!(error = &*e, "the server's certificate is not renewed; trying again in an hour");
                }
                if let Err(e) = store.prune(clock::now()).await {
                    tracing::error!(error = &e as &dyn Error, "what has expired is not forgotten");
                }
            }
        }));
    }

    pub(super) fn stop(&self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn renew(
    pki: &Pki,
    names: &[String],
    certificate: &ServerCertificate,
    link: &BrokerLink,
    now: UnixSeconds,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    if pki.renew_server_certificate(names, now)? {
        certificate.reload(pki)?;
        link.renew_certificate().await?;
        tracing::info!("the server's certificate is renewed");
    }
    Ok(())
}

async fn write_denials(store: Arc<dyn EdgeStore>, mut denials: mpsc::Receiver<Denied>) {
    let mut written: HashMap<String, Instant> = HashMap::new();
    while let Some(denied) = denials.recv().await {
        let now = Instant::now();
        if written.len() >= DENIED_CLIENTS_MAX {
            written.retain(|_, at| now.duration_since(*at) < DENIAL_STEP);
            if written.len() >= DENIED_CLIENTS_MAX {
                continue;
            }
        }
        if written.get(&denied.name).is_some_and(|at| now.duration_since(*at) < DENIAL_STEP) {
            continue;
        }
        let (name, action) = (denied.name.clone(), format!("{:?}", denied.action).to_lowercase());
        tracing::warn!(%name, %action, topic = ?denied.topic, address = ?denied.remote_addr, "the broker refused");
        let entry = AuditEntry {
            at: clock::now(),
            actor: if name.is_empty() { "nobody".into() } else { name.clone() },
            action: format!("was refused to {action}"),
            subject: denied.topic,
        };
        written.insert(name, now);
        if let Err(e) = store.audit(&entry).await {
            tracing::error!(error = &e as &dyn Error, "a refusal is not in the audit");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EmbeddedBroker;
    use crate::deny::DenyList;
    use crate::pki::LIFE_S;
    use rustls::pki_types::ServerName;

    #[tokio::test]
    async fn a_renewed_certificate_is_served_by_both_listeners() {
        let dir = tempfile::tempdir().expect("a directory");
        // Clients look at the clock too, so the first certificate is made in the past and the second one now.
        let (now, then) = (clock::now(), clock::now().plus(-LIFE_S * 2 / 3));
        let pki = Arc::new(Pki::open(&dir.path().join("pki"), then).expect("opens"));
        let names = vec!["localhost".to_owned()];
        pki.renew_server_certificate(&names, then).expect("made");
        let certificate = ServerCertificate::load(&pki).expect("loads");
        let mut settings = EmbeddedBroker::default();
        settings.listen.set_port(0);
        let (denied, _receiver) = mpsc::channel(1);
        let link = BrokerLink::embedded(&settings, &pki, Arc::new(DenyList::default()), denied).await.expect("starts");
        let addr = link.addr().expect("embedded");
        let client = pki.mqtt_client(&"main".parse().expect("a name"), &[]).expect("made");
        let served = async || {
            let tcp = tokio::net::TcpStream::connect(addr).await.expect("connects");
            let name = ServerName::try_from("localhost").expect("a name");
            let tls = tokio_rustls::TlsConnector::from(client.clone()).connect(name, tcp).await.expect("trusted");
            tls.get_ref().1.peer_certificates().expect("one")[0].to_vec()
        };
        let before = served().await;
        assert_eq!(certificate.current().end_entity_cert().expect("one").to_vec(), before);
        renew(&pki, &names, &certificate, &link, then.plus(LIFE_S / 2)).await.expect("nothing to do");
        assert_eq!(served().await, before);
        renew(&pki, &names, &certificate, &link, now).await.expect("renewed");
        let after = served().await;
        assert_ne!(after, before);
        assert_eq!(certificate.current().end_entity_cert().expect("one").to_vec(), after);
        link.stop().await;
    }
}

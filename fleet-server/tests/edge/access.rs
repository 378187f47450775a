//! Whom a certificate lets reach what, on every broker. The suite looks at what arrives, since brokers differ in what they
//! say: Mosquitto grants any subscription and withholds the messages.

use std::sync::Arc;

use rustls::ClientConfig;
use sedge_fleet_server::config::{Broker, ExternalBroker};
use sedge_protocol::topic::{Tenancy, server_filters};

use crate::support::broker::Pki as Stranger;
use crate::support::https::Identity;
use crate::support::mini::{Conn, NOT_AUTHORIZED, Opts, fresh, next, open, soon};
use crate::support::mosquitto::{Mosquitto, free_port, is_missing};
use crate::support::server::Server;

const A: &str = "default:a";
const B: &str = "default:b";
const BUNDLE: &str = "sedge/1/b/default:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A broker, and a server that it belongs to.
struct Place {
    server: Server,
    addr: String,
    a: Arc<ClientConfig>,
    b: Arc<ClientConfig>,
    _mosquitto: Option<Mosquitto>,
}

impl Place {
    async fn embedded() -> Self {
        Self::with(Server::start().await, None).await
    }

    async fn mosquitto(tenancy: Tenancy) -> Option<Self> {
        if is_missing() {
            return None;
        }
        let port = free_port();
        let external = ExternalBroker { host: "localhost".into(), port, ca: None };
        let server = Server::start_with(|config| config.broker = Broker::External(external)).await;
        let pki = server.dir.path().join("data/pki");
        let mosquitto = Mosquitto::start(server.dir.path(), port, &pki, tenancy).await;
        Some(Self::with(server, Some(mosquitto)).await)
    }

    async fn with(server: Server, mosquitto: Option<Mosquitto>) -> Self {
        let (a, b) = (server.enrol("a").await, server.enrol("b").await);
        // As the fleet part and the devices are told.
        let broker = &server.fleet.site.get().unwrap().broker;
        let addr = format!("{}:{}", broker.host.replace("localhost", "127.0.0.1"), broker.port);
        assert_eq!(server.running.broker, format!("localhost:{}", broker.port));
        Self { addr, a: server.tls(Some(&a)), b: server.tls(Some(&b)), server, _mosquitto: mosquitto }
    }

    async fn server(&self) -> Conn {
        let mut server = open(&self.addr, self.server.server_tls("main"), "server:main").await;
        for filter in server_filters() {
            assert!(server.sub(&filter, 1).await.unwrap() < 0x80, "{filter}");
        }
        server
    }
}

async fn suite(place: &Place) {
    what_the_table_gives_arrives(place).await;
    nobody_reads_for_another(place).await;
    nobody_writes_for_another(place).await;
    a_will_is_held_to_the_same(place).await;
    only_certificates_of_the_authority_come_in(place).await;
}

async fn what_the_table_gives_arrives(place: &Place) {
    let mut server = place.server().await;
    let mut a = open(&place.addr, place.a.clone(), A).await;
    assert!(a.sub(&format!("sedge/1/d/{A}/in/#"), 1).await.unwrap() < 0x80);
    for level in ["s", "t/cpu", "e", "r", "q", "want"] {
        let topic = format!("sedge/1/d/{A}/{level}");
        assert!(a.publish1(&topic, level.as_bytes(), level == "s").await.unwrap() < 0x80, "{topic}");
        assert_eq!(next(&mut server).await.unwrap(), (topic, level.as_bytes().to_vec()));
    }
    for level in ["in/s", "in/c", "in/q", "in/ack", "in/chunk", "in/meta"] {
        let topic = format!("sedge/1/d/{A}/{level}");
        assert!(server.publish1(&topic, level.as_bytes(), level == "in/s").await.unwrap() < 0x80, "{topic}");
        assert_eq!(next(&mut a).await.unwrap(), (topic, level.as_bytes().to_vec()));
    }
    // Retained state waits for who comes later.
    let mut again = open(&place.addr, place.a.clone(), A).await;
    again.sub(&format!("sedge/1/d/{A}/in/s"), 1).await.unwrap();
    assert_eq!(next(&mut again).await.unwrap().1, b"in/s");
}

async fn nobody_reads_for_another(place: &Place) {
    let mut server = place.server().await;
    while soon(&mut server).await.is_some() {}
    let topic = format!("sedge/1/d/{B}/in/s");
    assert!(server.publish1(&topic, b"retained for b", true).await.unwrap() < 0x80);
    let mut a = open(&place.addr, place.a.clone(), A).await;
    for filter in [
        "#".to_owned(),
        "+/#".into(),
        "sedge/#".into(),
        "sedge/1/#".into(),
        "sedge/1/d/#".into(),
        "sedge/1/d/+/in/#".into(),
        "sedge/1/d/+/+".into(),
        format!("sedge/1/d/{B}/#"),
        format!("sedge/1/d/{B}/in/#"),
        format!("sedge/1/d/{B}/in/s"),
        format!("sedge/1/d/{B}/s"),
        format!("$share/g/sedge/1/d/{B}/in/#"),
        format!("$share/{A}/#"),
        "$SYS/#".into(),
    ] {
        // Refused, or granted and of no use.
        a.sub(&filter, 1).await.unwrap_or_else(|e| panic!("{filter}: {e}"));
    }
    let mut b = open(&place.addr, place.b.clone(), B).await;
    b.sub(&format!("sedge/1/d/{B}/in/#"), 1).await.unwrap();
    assert_eq!(next(&mut b).await.unwrap().1, b"retained for b");
    for level in ["s", "t/cpu", "e", "r", "q", "want"] {
        assert!(b.publish1(&format!("sedge/1/d/{B}/{level}"), b"of b", false).await.unwrap() < 0x80);
    }
    for level in ["in/c", "in/q", "in/ack", "in/chunk", "in/meta"] {
        assert!(server.publish1(&format!("sedge/1/d/{B}/{level}"), b"for b", false).await.unwrap() < 0x80);
        assert_eq!(next(&mut b).await.unwrap().1, b"for b", "{level}");
    }
    while let Some((topic, payload)) = soon(&mut a).await {
        assert!(topic.starts_with(&format!("sedge/1/d/{A}/in/")), "a has read {topic}: {payload:?}");
    }
}

async fn nobody_writes_for_another(place: &Place) {
    let mut server = place.server().await;
    while soon(&mut server).await.is_some() {}
    let mut b = open(&place.addr, place.b.clone(), B).await;
    b.sub(&format!("sedge/1/d/{B}/in/#"), 1).await.unwrap();
    while soon(&mut b).await.is_some() {}
    let mut a = open(&place.addr, place.a.clone(), A).await;
    a.sub(&format!("sedge/1/d/{A}/in/#"), 1).await.unwrap();
    while soon(&mut a).await.is_some() {}
    let others = ["s", "t/cpu", "e", "r", "q", "want", "in/s", "in/c", "in/q", "in/ack", "in/chunk", "in/meta"];
    let own = ["in/s", "in/c", "in/q", "in/ack", "in/chunk", "in/meta"];
    let topics = others.map(|level| format!("sedge/1/d/{B}/{level}")).into_iter();
    let topics = topics.chain(own.map(|level| format!("sedge/1/d/{A}/{level}")));
    let topics =
        topics.chain([format!("{BUNDLE}/m"), format!("{BUNDLE}/c/0"), "elsewhere".into(), "sedge/1/d/x".into()]);
    for topic in topics {
        assert_eq!(a.publish1(&topic, b"evil", false).await.unwrap(), NOT_AUTHORIZED, "{topic}");
        assert_eq!(a.publish1(&topic, b"evil", true).await.unwrap(), NOT_AUTHORIZED, "{topic}");
    }
    for (name, conn) in [("server", &mut server), ("b", &mut b), ("a", &mut a)] {
        if let Some((topic, payload)) = soon(conn).await {
            panic!("{name} got {topic}: {payload:?}");
        }
    }
    // Nor was anything kept: `s` of b is what b retained, if anything.
    let mut late = place.server().await;
    while let Some((topic, payload)) = soon(&mut late).await {
        assert_ne!(payload, b"evil", "{topic}");
    }
}

async fn a_will_is_held_to_the_same(place: &Place) {
    let mut server = place.server().await;
    while soon(&mut server).await.is_some() {}
    let topic = format!("sedge/1/d/{B}/s");
    let opts = Opts { will: Some((&topic, b"b is gone", true)), ..fresh(A) };
    let mut a = Conn::tls(&place.addr, place.a.clone()).await.unwrap();
    let _ = a.mqtt(&opts).await;
    drop(a);
    assert_eq!(soon(&mut server).await, None);
    let own = format!("sedge/1/d/{A}/s");
    let opts = Opts { will: Some((&own, b"a is gone", true)), ..fresh(A) };
    let mut a = Conn::tls(&place.addr, place.a.clone()).await.unwrap();
    assert_eq!(a.mqtt(&opts).await.unwrap().0, 0);
    drop(a);
    assert_eq!(next(&mut server).await.unwrap(), (own, b"a is gone".to_vec()));
}

async fn only_certificates_of_the_authority_come_in(place: &Place) {
    let stranger: Identity = Stranger::new().identity(A);
    for tls in [place.server.tls(None), place.server.tls(Some(&stranger))] {
        let reached = async {
            let mut conn = Conn::tls(&place.addr, tls).await?;
            let claims = Opts { username: Some(A), ..fresh(A) };
            conn.mqtt(&claims).await
        };
        assert!(reached.await.is_err());
    }
}

#[tokio::test]
async fn on_the_embedded_broker() {
    let place = Place::embedded().await;
    suite(&place).await;
    // Beyond what Mosquitto can do: client ids, and what may be retained.
    for id in [B, "default:b/bulk", "server:main", ""] {
        let mut conn = Conn::tls(&place.addr, place.a.clone()).await.unwrap();
        assert_eq!(conn.mqtt(&fresh(id)).await.unwrap().0, NOT_AUTHORIZED, "{id}");
    }
    let mut a = open(&place.addr, place.a.clone(), "default:a/bulk").await;
    assert_eq!(a.publish1(&format!("sedge/1/d/{A}/e"), b"x", true).await.unwrap(), NOT_AUTHORIZED);
    // Bundles of the own project, spelled out.
    assert!(a.sub(&format!("{BUNDLE}/m"), 1).await.unwrap() < 0x80);
    let mut server = place.server().await;
    assert!(server.publish1(&format!("{BUNDLE}/m"), b"announced", true).await.unwrap() < 0x80);
    assert_eq!(next(&mut a).await.unwrap().1, b"announced");
    let rival = BUNDLE.replace("default", "rival");
    assert!(a.sub(&format!("{rival}/m"), 1).await.unwrap() >= 0x80);
    // What was refused is in the audit.
    let audit = place.server.api(&place.server.admin, "GET", "/api/v1/audit", serde_json::Value::Null).await.json();
    let entries = audit["entries"].as_array().unwrap();
    assert!(entries.iter().any(|e| e["actor"] == A && e["action"].as_str().unwrap().starts_with("was refused to")));
}

#[tokio::test]
async fn on_mosquitto_with_one_project() {
    let Some(place) = Place::mosquitto(Tenancy::OneProject).await else { return };
    suite(&place).await;
    let mut a = open(&place.addr, place.a.clone(), A).await;
    a.sub(&format!("{BUNDLE}/m"), 1).await.unwrap();
    let mut server = place.server().await;
    assert!(server.publish1(&format!("{BUNDLE}/m"), b"announced", true).await.unwrap() < 0x80);
    assert_eq!(next(&mut a).await.unwrap().1, b"announced");
}

#[tokio::test]
async fn on_mosquitto_with_several_projects() {
    let Some(place) = Place::mosquitto(Tenancy::Several).await else { return };
    suite(&place).await;
    let mut a = open(&place.addr, place.a.clone(), A).await;
    a.sub(&format!("{BUNDLE}/m"), 1).await.unwrap();
    let mut server = place.server().await;
    assert!(server.publish1(&format!("{BUNDLE}/m"), b"announced", true).await.unwrap() < 0x80);
    assert_eq!(soon(&mut a).await, None, "bundles are not granted");
}

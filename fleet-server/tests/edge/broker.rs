//! The embedded broker alone: a real broker, real sockets, real certificates.

use std::time::Duration;

use sedge_fleet_server::broker::{Action, Bounds, EmbeddedBroker};
use sedge_protocol::limits::PACKET_BYTES_MAX;

use crate::support::broker::{Pki, Site, config};
use crate::support::mini::{self, Conn, NOT_AUTHORIZED, Opts, fresh, next, open, puback, publish, soon};

#[tokio::test]
async fn only_a_certificate_of_our_root_with_a_name_connects() {
    let site = Site::new(Bounds::default()).await;
    let stranger = Pki::new();
    assert_eq!(site.try_connect(site.pki.without_certificate(), &fresh("p:a")).await, None);
    assert_eq!(site.try_connect(site.pki.client_of(&stranger, Some("p:a")), &fresh("p:a")).await, None);
    let nameless = site.pki.client_of(&site.pki, None);
    let claims = Opts { username: Some("server:main"), ..fresh("server:main") };
    assert_eq!(site.try_connect(nameless, &claims).await, Some(NOT_AUTHORIZED));
    assert!(site.denials().iter().any(|d| d.name.is_empty() && d.topic == "server:main"));
    assert_eq!(site.try_connect(site.pki.client("p/x:+"), &fresh("p/x:+")).await, Some(NOT_AUTHORIZED));
    assert_eq!(site.try_connect(site.pki.client("p:a"), &fresh("p:a")).await, Some(0));
}

#[tokio::test]
async fn a_device_cannot_reach_another_and_every_attempt_is_audited() {
    let site = Site::new(Bounds::default()).await;
    let mut server = site.connect("server:main").await;
    for filter in sedge_protocol::topic::server_filters() {
        assert!(server.sub(&filter, 1).await.unwrap() < 0x80, "{filter}");
    }
    assert!(server.sub("sedge/1/#", 1).await.unwrap() >= 0x80, "more than the table gives");
    let mut a = site.connect("p:a").await;
    let denied = ["sedge/1/d/p:b/s", "sedge/1/d/p:a/in/c", "sedge/1/b/p:x/m", "elsewhere"];
    for topic in denied {
        assert_eq!(a.publish1(topic, b"evil", false).await.unwrap(), NOT_AUTHORIZED, "{topic}");
    }
    assert_eq!(a.publish1("sedge/1/d/p:a/t/cpu", b"evil", true).await.unwrap(), NOT_AUTHORIZED);
    let filters = ["sedge/1/d/p:b/in/#", "sedge/1/d/+/in/#", "sedge/1/b/+/m", "#", "$share/g/sedge/1/d/p:b/in/#"];
    for filter in filters {
        assert!(a.sub(filter, 1).await.unwrap() >= 0x80, "{filter}");
    }
    a.send(&publish("sedge/1/d/p:b/e", b"evil", 0, false, 0)).await.unwrap();
    assert!(a.publish1("sedge/1/d/p:a/e", b"good", false).await.unwrap() < 0x80);
    assert_eq!(next(&mut server).await.unwrap().1, b"good");
    assert!(soon(&mut server).await.is_none());

    let denials = site.denials();
    assert!(denials.iter().any(|d| d.name == "server:main" && d.topic == "sedge/1/#"));
    let denials: Vec<_> = denials.into_iter().filter(|d| d.name != "server:main").collect();
    assert!(denials.iter().all(|d| d.name == "p:a" && d.client_id == "p:a" && d.remote_addr.is_some()));
    for topic in denied.iter().chain(&["sedge/1/d/p:b/e"]) {
        assert!(denials.iter().any(|d| d.action == Action::Publish && d.topic == *topic), "{topic}");
    }
    assert!(denials.iter().any(|d| d.action == Action::Retain && d.topic == "sedge/1/d/p:a/t/cpu"));
    assert!(denials.iter().any(|d| d.action == Action::Subscribe && d.topic == "sedge/1/d/p:b/in/#"));
}

#[tokio::test]
async fn a_foreign_client_id_or_will_is_refused_and_the_owner_keeps_the_session() {
    let site = Site::new(Bounds::default()).await;
    let kept = Opts { id: "p:b", expiry: 600, keep_alive: 60, ..Opts::default() };
    let mut b = Conn::open(&site.addr(), site.pki.client("p:b"), &kept).await.unwrap();
    assert!(b.sub("sedge/1/d/p:b/in/#", 1).await.unwrap() < 0x80);
    for id in ["p:b", "p:b/bulk", "p:ab", "p:a.bulk", "p:a/", "server:main", ""] {
        assert_eq!(site.try_connect(site.pki.client("p:a"), &fresh(id)).await, Some(NOT_AUTHORIZED), "{id:?}");
    }
    let will = Opts { will: Some(("sedge/1/d/p:b/s", b"evil", true)), ..fresh("p:a") };
    assert_eq!(site.try_connect(site.pki.client("p:a"), &will).await, Some(NOT_AUTHORIZED));
    let mut server = site.connect("server:main").await;
    server.publish1("sedge/1/d/p:b/in/c", b"still here", false).await.unwrap();
    assert_eq!(next(&mut b).await.unwrap().1, b"still here");
    drop(b);
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.publish1("sedge/1/d/p:b/in/c", b"while away", false).await.unwrap();
    let mut b = Conn::tls(&site.addr(), site.pki.client("p:b")).await.unwrap();
    assert_eq!(b.mqtt(&kept).await.unwrap(), (0, true));
    assert_eq!(next(&mut b).await.unwrap().1, b"while away");
}

#[tokio::test]
async fn a_restart_forgets_and_the_server_rebuilds() {
    const DEVICES: usize = 2000;
    let site = Site::new(Bounds::default()).await;
    let rebuild = async |addr: &str| {
        let mut server = open(addr, site.pki.client("server:main"), "server:main").await;
        for device in 0..DEVICES {
            let topic = format!("sedge/1/d/p:d{device}/s");
            assert!(server.publish1(&topic, b"status", true).await.unwrap() < 0x80);
        }
        let mut reader = open(addr, site.pki.client("server:reader"), "server:reader").await;
        reader.sub("sedge/1/d/+/s", 1).await.unwrap();
        let mut topics = std::collections::HashSet::new();
        while topics.len() < DEVICES {
            topics.insert(next(&mut reader).await.expect("a retained message").0);
        }
    };
    rebuild(&site.addr()).await;
    let addr = site.broker.addr();
    site.broker.stop().await;
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    let again = config(&site.pki, addr.port(), Bounds::default(), site.denied.clone());
    let broker = EmbeddedBroker::start(again).await.unwrap();
    let mut reader = open(&addr.to_string(), site.pki.client("server:empty"), "server:empty").await;
    reader.sub("sedge/1/d/+/s", 1).await.unwrap();
    assert!(soon(&mut reader).await.is_none());
    rebuild(&addr.to_string()).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_reader_that_stops_costs_bounded_memory_and_nobody_elses_time() {
    let site = Site::new(Bounds { write_timeout: Duration::from_secs(60), ..Bounds::default() }).await;
    let mut stuck = site.connect("p:stuck").await;
    stuck.sub("sedge/1/d/p:stuck/in/#", 0).await.unwrap();
    let mut fine = site.connect("p:fine").await;
    fine.sub("sedge/1/d/p:fine/in/#", 1).await.unwrap();
    let mut server = site.connect("server:main").await;
    for _ in 0..20_000 {
        server.send(&publish("sedge/1/d/p:stuck/in/c", &[0; 4096], 0, false, 0)).await.unwrap();
    }
    server.publish1("sedge/1/d/p:fine/in/c", b"prompt", false).await.unwrap();
    assert_eq!(next(&mut fine).await.unwrap().1, b"prompt");
    // The kernel's buffers and the bounds hold a few thousand; the rest was not kept.
    assert!(site.broker.shed_messages() > 5_000, "{}", site.broker.shed_messages());
}

#[tokio::test]
async fn a_reader_that_keeps_up_loses_nothing_to_the_backlog_count() {
    let site = Site::new(Bounds { device_queue_messages: 64, backlog_messages: 0, ..Bounds::default() }).await;
    let mut device = site.connect("p:a").await;
    // rmqtt delivers once for overlapping filters, with the QoS of whichever it meets first.
    device.sub("sedge/1/d/p:a/in/#", 1).await.unwrap();
    device.sub("sedge/1/d/p:a/in/c", 0).await.unwrap();
    let mut server = site.connect("server:main").await;
    for n in 0..1000u32 {
        server.publish1("sedge/1/d/p:a/in/c", &n.to_be_bytes(), false).await.unwrap();
        assert_eq!(next(&mut device).await.unwrap().1, n.to_be_bytes());
    }
    assert_eq!(site.broker.shed_messages(), 0);
}

#[tokio::test]
async fn bounds_of_packet_and_retained_store_hold() {
    let site = Site::new(Bounds { retained_messages: 3, ..Bounds::default() }).await;
    let mut server = site.connect("server:main").await;
    for n in 0..5 {
        assert!(server.publish1(&format!("sedge/1/d/p:{n}/s"), b"x", true).await.unwrap() < 0x80);
    }
    assert!(server.publish1("sedge/1/d/p:0/s", b"", true).await.unwrap() < 0x80);
    assert!(server.publish1("sedge/1/d/p:9/s", b"x", true).await.unwrap() < 0x80);
    let mut reader = site.connect("server:reader").await;
    reader.sub("sedge/1/d/+/s", 1).await.unwrap();
    let mut topics = Vec::new();
    while let Some((topic, _)) = soon(&mut reader).await {
        topics.push(topic);
    }
    topics.sort();
    assert_eq!(topics, ["sedge/1/d/p:1/s", "sedge/1/d/p:2/s", "sedge/1/d/p:9/s"]);
    let _ = server.send(&publish("sedge/1/d/p:0/in/c", &[0; PACKET_BYTES_MAX + 1024], 1, false, 3)).await;
    assert!(server.recv_within(2000).await.is_err(), "closed");
}

#[tokio::test]
async fn malformed_packets_close_their_own_connection_only() {
    let site = Site::new(Bounds::default()).await;
    let mut witness = site.connect("server:witness").await;
    let hello = mini::connect(&fresh("p:a"));
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..300 {
        let mut bytes = hello.clone();
        bytes.extend(publish("sedge/1/d/p:a/e", b"hello", 1, true, 5));
        bytes.extend(puback(9));
        for _ in 0..3 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = seed as usize % bytes.len();
            bytes[at] = (seed >> 32) as u8;
        }
        let mut conn = Conn::tls(&site.addr(), site.pki.client("p:a")).await.unwrap();
        let _ = conn.send(&bytes).await;
        let _ = conn.recv_within(2).await;
    }
    assert!(witness.publish1("sedge/1/d/p:a/in/c", b"x", false).await.unwrap() < 0x80);
}

#[tokio::test]
async fn a_revoked_device_is_disconnected_and_a_new_certificate_is_served() {
    let mut site = Site::new(Bounds::default()).await;
    let mut a = site.connect("p:a").await;
    let mut b = site.connect("p:b").await;
    assert_eq!(site.broker.disconnect("p:a").await, 1);
    while let Ok(Some(_)) = a.recv_within(2000).await {}
    assert!(a.publish1("sedge/1/d/p:a/e", b"x", false).await.is_err());

    let served = |conn: &Conn| conn.s.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    site.pki.write_server_certificate();
    site.broker.renew_certificate().await.unwrap();
    let c = site.connect("p:c").await;
    assert_ne!(served(&b), served(&c));
    assert!(b.publish1("sedge/1/d/p:b/e", b"x", false).await.unwrap() < 0x80, "old connections stay");
    std::fs::write(site.pki.path().join("server.key"), "rubbish").unwrap();
    assert!(site.broker.renew_certificate().await.is_err());
    assert_eq!(served(&c), served(&site.connect("p:e").await), "the old one stays in use");
    site.pki.write_server_certificate();
    site.broker.renew_certificate().await.unwrap();
    site.connect("p:d").await;
}

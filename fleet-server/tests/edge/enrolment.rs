//! Devices come, stay and go, over real TLS.

use std::time::{Duration, Instant};

use rcgen::KeyPair;
use sedge_fleet_server::pki::Peer;
use sedge_protocol::Sha256Digest;
use sedge_protocol::cbor::{self, Bytes};
use sedge_protocol::enrolment::{BODY_BYTES_MAX, ENROL_PATH, EnrolmentAnswer, EnrolmentRequest, RENEW_PATH};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::broker::Pki as Stranger;
use crate::support::https::{self, Identity};
use crate::support::mini::{Conn, NOT_AUTHORIZED, fresh};
use crate::support::server::{LOG, Server, csr, decode};

fn code<T: std::fmt::Debug>(result: Result<T, (u16, sedge_protocol::enrolment::Refusal)>) -> (u16, String) {
    let (status, refusal) = result.expect_err("refused");
    assert!(refusal.message.contains("; "), "says what to do: {}", refusal.message);
    (status, refusal.code)
}

#[tokio::test]
async fn a_device_enrols_connects_and_renews() {
    let server = Server::start().await;
    let token = server.grant(json!({})).await;
    assert_eq!(token.authority.0, server.running.authority);
    assert_eq!(token.server, format!("localhost:{}", server.running.http_addr.port()));
    let key = KeyPair::generate().unwrap();
    let answer = server.try_enrol(&token, "cam-1", &key).await.unwrap();
    assert_eq!(Sha256Digest::of(&answer.publisher_root.0), token.publisher_root);
    assert_eq!(Sha256Digest::of(&answer.director_root.0), token.director_root);
    assert_eq!(answer.broker, server.running.broker);
    let peer = Peer::from_certificate(&answer.certificate.0).unwrap();
    assert_eq!(peer.caller.to_string(), "default:cam-1");
    let identity = Identity { certificate: answer.certificate.0, key: key.serialize_der() };
    let connected = async |identity: &Identity| {
        let mut conn = Conn::tls(&server.broker(), server.tls(Some(identity))).await.unwrap();
        conn.mqtt(&fresh("default:cam-1")).await.unwrap().0
    };
    assert_eq!(connected(&identity).await, 0);

    let next = KeyPair::generate().unwrap();
    let renewed = server.try_renew(Some(&identity), &next).await.unwrap();
    let next = Identity { certificate: renewed.certificate.0, key: next.serialize_der() };
    assert_eq!(connected(&next).await, 0);
    assert_eq!(connected(&identity).await, 0, "the answer may have been lost");
    let shown = server.api(&server.admin, "GET", "/api/v1/projects/default/devices/cam-1", json!(null)).await.json();
    let serial = Peer::from_certificate(&next.certificate).unwrap().serial;
    assert_eq!(shown["certificate"]["serial"], serial.as_str());
    server.running.shutdown().await;
}

#[tokio::test]
async fn a_token_works_once_and_a_lost_answer_comes_again() {
    let server = Server::start().await;
    let token = server.grant(json!({})).await;
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let first = server.try_enrol(&token, "cam-1", &key).await.unwrap();
    assert_eq!(server.try_enrol(&token, "cam-1", &key).await.unwrap().certificate, first.certificate);
    assert_eq!(code(server.try_enrol(&token, "cam-1", &other).await), (403, "token-used".into()));
    assert_eq!(code(server.try_enrol(&token, "cam-2", &key).await), (403, "token-used".into()));
    let second = server.grant(json!({})).await;
    assert_eq!(code(server.try_enrol(&second, "cam-1", &other).await), (409, "device-exists".into()));
    let named = server.grant(json!({ "device": "cam-1" })).await;
    assert_eq!(code(server.try_enrol(&named, "cam-2", &other).await), (403, "token-for-other-device".into()));
    let replaced = server.try_enrol(&named, "cam-1", &other).await.unwrap();
    let old = Identity { certificate: first.certificate.0, key: key.serialize_der() };
    assert_eq!(code(server.try_renew(Some(&old), &key).await), (403, "decommissioned".into()));
    let new = Identity { certificate: replaced.certificate.0, key: other.serialize_der() };
    server.try_renew(Some(&new), &other).await.unwrap();
    let mut forged = second.clone();
    forged.secret = Bytes(vec![9; 32]);
    assert_eq!(code(server.try_enrol(&forged, "cam-3", &key).await), (403, "token-unknown".into()));
}

#[tokio::test]
async fn an_expired_token_enrols_nobody() {
    let server = Server::start().await;
    let token = server.grant(json!({ "lifetime_s": 1 })).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let key = KeyPair::generate().unwrap();
    assert_eq!(code(server.try_enrol(&token, "cam-1", &key).await), (403, "token-expired".into()));
    let devices = server.api(&server.admin, "GET", "/api/v1/projects/default/devices", json!(null)).await.json();
    assert_eq!(devices["devices"], json!([]));
}

#[tokio::test]
async fn of_two_devices_with_one_token_exactly_one_wins() {
    let server = Server::start().await;
    for round in 0..5 {
        let token = server.grant(json!({})).await;
        let (a, b) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (name_a, name_b) = (format!("a{round}"), format!("b{round}"));
        let results = tokio::join!(server.try_enrol(&token, &name_a, &a), server.try_enrol(&token, &name_b, &b));
        match results {
            (Ok(_), lost) | (lost, Ok(_)) => assert_eq!(code(lost), (403, "token-used".into())),
            both => panic!("{both:?}"),
        }
    }
    let devices = server.api(&server.admin, "GET", "/api/v1/projects/default/devices", json!(null)).await.json();
    assert_eq!(devices["devices"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn requests_that_are_none_are_refused_and_use_nothing_up() {
    let server = Server::start().await;
    let token = server.grant(json!({})).await;
    let key = KeyPair::generate().unwrap();
    let request = |csr: Vec<u8>| {
        let secret = token.secret.clone();
        cbor::encode(&EnrolmentRequest { secret, device: "cam-1".parse().unwrap(), csr: Bytes(csr) }).unwrap()
    };
    let mut forged = csr(&key);
    let public = key.public_key_raw();
    let at = forged.windows(public.len()).position(|w| w == public).unwrap();
    forged[at..at + public.len()].copy_from_slice(KeyPair::generate().unwrap().public_key_raw());
    let good = request(csr(&key));
    for (body, status, expected) in [
        (request(forged), 400, "csr-invalid"),
        (request(b"hello".to_vec()), 400, "csr-invalid"),
        (request(vec![0; 100_000]), 400, "csr-invalid"),
        (b"not CBOR".to_vec(), 400, "malformed"),
        (good[..good.len() - 1].to_vec(), 400, "malformed"),
        ([good.clone(), vec![0]].concat(), 400, "malformed"),
        (Vec::new(), 400, "malformed"),
        (vec![0; BODY_BYTES_MAX + 1], 413, "too-large"),
    ] {
        let answer = server.post(ENROL_PATH, None, &body).await.unwrap();
        assert_eq!(code(decode::<EnrolmentAnswer>(answer)), (status, expected.into()));
    }
    let answer = https::ask(server.running.http_addr, server.tls(None), "GET", ENROL_PATH, &[], b"").await.unwrap();
    assert_eq!((answer.status, answer.json()["instance"].as_str()), (405, Some(ENROL_PATH)));
    let answer = server.post(ENROL_PATH, None, &good).await.unwrap();
    decode::<EnrolmentAnswer>(answer).unwrap();
}

#[tokio::test]
async fn renewal_needs_a_devices_certificate() {
    let server = Server::start().await;
    let key = KeyPair::generate().unwrap();
    assert_eq!(code(server.try_renew(None, &key).await), (401, "certificate-missing".into()));
    // The server's own certificate is none of a device.
    let body = cbor::encode(&sedge_protocol::enrolment::RenewalRequest { csr: Bytes(csr(&key)) }).unwrap();
    let own = server.server_tls("main");
    let answer = https::ask(server.running.http_addr, own, "POST", RENEW_PATH, &[], &body).await.unwrap();
    assert_eq!(code(decode::<EnrolmentAnswer>(answer)), (401, "certificate-missing".into()));
    // One of another authority does not get past the handshake.
    let stranger = Stranger::new();
    let identity = stranger.identity("default:cam-1");
    assert!(server.post(RENEW_PATH, Some(&identity), &body).await.is_err());
}

#[tokio::test]
async fn a_decommissioned_device_is_out_for_good() {
    let server = Server::start().await;
    let identity = server.enrol("cam-1").await;
    let mut conn = Conn::open(&server.broker(), server.tls(Some(&identity)), &fresh("default:cam-1")).await.unwrap();
    let other = server.enrol("cam-2").await;
    assert_eq!(server.decommission("ghost").await.status, 404);
    let answer = server.decommission("cam-1").await;
    assert_eq!(answer.status, 200);
    assert!(answer.json()["decommissioned_at"].is_string());
    while let Ok(Some(_)) = conn.recv_within(3000).await {}
    assert!(conn.recv_within(1000).await.is_err(), "its connection is ended");
    let reason = async |identity: &Identity, name: &str| {
        let mut conn = Conn::tls(&server.broker(), server.tls(Some(identity))).await.unwrap();
        conn.mqtt(&fresh(name)).await.unwrap().0
    };
    assert_eq!(reason(&identity, "default:cam-1").await, NOT_AUTHORIZED);
    assert_eq!(reason(&other, "default:cam-2").await, 0);
    let key = KeyPair::generate().unwrap();
    assert_eq!(code(server.try_renew(Some(&identity), &key).await), (403, "decommissioned".into()));
    server.try_renew(Some(&other), &key).await.unwrap();

    // A restart does not forget it.
    let config = crate::support::server::config(&server.dir.path().join("data"));
    let Server { dir, running, fleet, .. } = server;
    running.shutdown().await;
    let events = fleet.events.lock().unwrap().clone();
    assert_eq!(events, ["default:cam-1 came", "default:cam-2 came", "default:cam-1 went", "stopping"]);
    let server = Server::start_in(dir, config).await;
    assert_eq!(code(server.try_renew(Some(&identity), &key).await), (403, "decommissioned".into()));
    let mut conn = Conn::tls(&server.broker(), server.tls(Some(&identity))).await.unwrap();
    assert_eq!(conn.mqtt(&fresh("default:cam-1")).await.unwrap().0, NOT_AUTHORIZED);
}

#[tokio::test]
async fn one_address_asks_so_often_and_no_more() {
    let server = Server::start_with(|config| config.enrolment.requests_per_minute_max = 3).await;
    for _ in 0..3 {
        assert_eq!(server.post(ENROL_PATH, None, b"x").await.unwrap().status, 400);
    }
    let answer = server.post(ENROL_PATH, None, b"x").await.unwrap();
    assert!(answer.head.to_lowercase().contains("retry-after: "), "{}", answer.head);
    assert_eq!(code(decode::<EnrolmentAnswer>(answer)), (429, "too-many".into()));
}

#[tokio::test]
async fn slow_and_mute_connections_are_closed() {
    let server = Server::start().await;
    let addr = server.running.http_addr;
    let started = Instant::now();
    let mut mute = TcpStream::connect(addr).await.unwrap();
    let mut idle = https::connect(addr, server.tls(None)).await.unwrap();
    let mut slow = https::connect(addr, server.tls(None)).await.unwrap();
    slow.write_all(b"POST /enrol/v1 HTTP/1.1\r\nHost: ").await.unwrap();
    let drip = async {
        // One byte now and then does not help.
        while slow.write_all(b"x").await.is_ok() && slow.flush().await.is_ok() {
            let mut byte = [0];
            let wait = Duration::from_millis(200);
            if let Ok(Ok(0) | Err(_)) = tokio::time::timeout(wait, slow.read(&mut byte)).await {
                break;
            }
        }
    };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let all = async { tokio::join!(drip, mute.read_to_end(&mut a), idle.read_to_end(&mut b)) };
    let _ = tokio::time::timeout(Duration::from_secs(6), all).await.expect("closed");
    assert!(started.elapsed() > Duration::from_millis(900));
    // A head that is too long is answered.
    let long = "x".repeat(100_000);
    let answer = https::ask(addr, server.tls(None), "GET", "/livez", &[("X", &long)], b"").await;
    assert!(answer.as_ref().is_err() || answer.as_ref().is_ok_and(|a| a.status == 431), "{answer:?}");
    let answer = https::ask(addr, server.tls(None), "GET", "/readyz", &[], b"").await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let server = Server::start().await;
    let mut stream = https::connect(server.running.http_addr, server.tls(None)).await.unwrap();
    let head = b"POST /enrol/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\nhalf";
    stream.write_all(head).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(20), https::read(&mut stream)).await.expect("in time");
    assert_eq!(code(decode::<EnrolmentAnswer>(answer.unwrap())), (408, "too-slow".into()));
}

#[tokio::test]
async fn one_address_has_so_many_connections() {
    let server = Server::start_with(|config| {
        config.http.connections_per_address_max = 2;
        config.http.head_timeout_s = 30;
    })
    .await;
    let addr = server.running.http_addr;
    let first = https::connect(addr, server.tls(None)).await.unwrap();
    let _second = https::connect(addr, server.tls(None)).await.unwrap();
    assert!(https::connect(addr, server.tls(None)).await.is_err());
    drop(first);
    tokio::time::sleep(Duration::from_millis(200)).await;
    https::connect(addr, server.tls(None)).await.unwrap();
}

#[tokio::test]
async fn secrets_are_in_no_log() {
    let server = Server::start().await;
    let token = server.grant(json!({})).await;
    let text = token.to_text().unwrap();
    let key = KeyPair::generate().unwrap();
    server.try_enrol(&token, "quiet", &key).await.unwrap();
    let _ = server.try_enrol(&token, "quiet-2", &key).await;
    server.decommission("quiet").await;
    let path = "/api/v1/api-tokens";
    let made = server.api(&server.admin, "POST", path, json!({ "name": "ci", "scope": "read" })).await.json();
    let api_token = made["token"].as_str().unwrap().to_owned();
    server.api(&api_token, "GET", "/api/v1/projects", json!(null)).await;
    server.api(&api_token[..20], "GET", "/api/v1/projects", json!(null)).await;
    let admin = server.admin.clone();
    server.running.shutdown().await;
    let log = String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned();
    for expected in ["device enrolled device=default:quiet", "token-used", "wrote the first API token", "admin-token"] {
        assert!(log.contains(expected), "the log is captured: {expected}");
    }
    let secret = &token.secret.0;
    let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    let decimal = format!("{secret:?}");
    let (text, api_token, admin) = (&text[text.len() - 40..], &api_token[9..], &admin[9..]);
    for (what, hidden) in
        [("token", text), ("API token", api_token), ("admin token", admin), ("hex", &hex), ("bytes", &decimal)]
    {
        assert!(!log.contains(hidden), "the log holds the {what}");
    }
    assert!(!log.contains("PRIVATE KEY"));
}

//! Against a real TLS server: one good enrolment, and each way in which a server could misuse it.

use super::*;
use crate::disk::FileSystem;
use crate::error::chain;
use crate::testing::pki::{Authority, http};
use sedge_protocol::signature::SecretKey;
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::Role;
use sedge_protocol::tuf::sign::{RootBuilder, sign};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use tempfile::TempDir;

fn root(seed: u8) -> Vec<u8> {
    let key = SecretKey::from_seed([seed; 32]);
    let mut root = RootBuilder::first(UnixSeconds(4_000_000_000));
    for role in [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets] {
        root = root.trust(&role, &key.public());
    }
    sign(&root.build().expect("root"), &[&key]).expect("signed")
}

fn token(server: &str, authority: &Authority) -> EnrolmentToken {
    EnrolmentToken {
        server: server.to_owned(),
        project: "acme".parse().expect("name"),
        secret: Bytes(vec![7; 32]),
        authority: Bytes(authority.der.to_vec()),
        publisher_root: Sha256Digest::of(&root(1)),
        director_root: Sha256Digest::of(&root(2)),
    }
}

fn answer(certificate: Vec<u8>) -> EnrolmentAnswer {
    EnrolmentAnswer {
        certificate: Bytes(certificate),
        broker: "localhost:8883".to_owned(),
        publisher_root: Bytes(root(1)),
        director_root: Bytes(root(2)),
        time: UnixSeconds(1_795_000_000),
    }
}

struct Device {
    dir: TempDir,
    store: IdentityStore,
    clock: Clock,
}

impl Device {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let store = IdentityStore::new(Arc::new(FileSystem), dir.path());
        Self { dir, store, clock: Clock::default() }
    }

    async fn enrol(&self, token: &EnrolmentToken) -> Result<Identity, EnrolError> {
        enrol(&self.store, token, &"cam-7".parse().expect("name"), &self.clock).await
    }
}

/// Enrols with a server that answers in this way.
async fn with(
    device: &Device,
    answer: impl FnOnce(&Authority, EnrolmentRequest) -> Vec<u8> + Send + 'static,
) -> Result<Identity, EnrolError> {
    with_authority(device, Authority::new(), answer).await
}

async fn with_authority(
    device: &Device,
    authority: Authority,
    answer: impl FnOnce(&Authority, EnrolmentRequest) -> Vec<u8> + Send + 'static,
) -> Result<Identity, EnrolError> {
    let authority = Arc::new(authority);
    let signer = authority.clone();
    let (server, task) = authority
        .serve_once(move |head, body| {
            assert!(head.starts_with("POST /enrol/v1 HTTP/1.1\r\n"), "{head}");
            let request: EnrolmentRequest = cbor::decode_strict(&body, Limits::default()).expect("request");
            assert_eq!((request.secret.len(), request.device.as_str()), (32, "cam-7"));
            answer(&signer, request)
        })
        .await;
    let result = device.enrol(&token(&server, &authority)).await;
    task.await.expect("server");
    result
}

fn ok(answer: &EnrolmentAnswer) -> Vec<u8> {
    http("200 OK", &cbor::encode(answer).expect("CBOR"))
}

#[tokio::test]
async fn a_token_becomes_an_identity_and_the_key_stays() {
    let device = Device::new();
    let identity = with(&device, |ca, request| ok(&answer(ca.sign(&request.csr, "acme:cam-7")))).await.expect("enrols");
    assert_eq!((identity.principal.to_string().as_str(), identity.broker.as_str()), ("acme:cam-7", "localhost:8883"));
    assert_eq!(device.store.load().expect("stored"), identity);
    let key = device.dir.path().join("identity/key.der");
    assert_eq!(std::fs::metadata(&key).expect("key").permissions().mode() & 0o777, 0o600);
    let middle = identity.renew_at().expect("a date");
    assert!(identity.validity().is_ok_and(|(from, to)| from < middle && middle < to));
    let again = device.enrol(&token("localhost:1", &Authority::new())).await.expect_err("enrolled already");
    assert!(again.to_string().contains("enrolled already as acme:cam-7"), "{again}");
}

#[tokio::test]
async fn a_clock_in_1970_enrols() {
    let device = Device { clock: Clock::fast(1, UnixSeconds(100)), ..Device::new() };
    // Its certificates begin later than anything that this device could know to have passed.
    let answer = |ca: &Authority, request: EnrolmentRequest| ok(&answer(ca.sign(&request.csr, "acme:cam-7")));
    with_authority(&device, Authority::from_year(2028), answer).await.expect("enrols");
    let device = Device::new();
    let e = with_authority(&device, Authority::from_year(2028), answer).await.expect_err("this clock is fine");
    assert!(chain(&e).contains("not valid yet"), "{}", chain(&e));
}

type Make = fn(&Authority, EnrolmentRequest) -> Vec<u8>;

#[tokio::test]
async fn what_a_server_must_not_answer_is_named_and_not_stored() {
    let cases: &[(&str, Make)] = &[
        ("the publisher's first root has digest", |ca, r| {
            ok(&EnrolmentAnswer { publisher_root: Bytes(root(9)), ..answer(ca.sign(&r.csr, "acme:cam-7")) })
        }),
        ("the director's first root has digest", |ca, r| {
            ok(&EnrolmentAnswer { director_root: Bytes(root(9)), ..answer(ca.sign(&r.csr, "acme:cam-7")) })
        }),
        ("for another key than this device's", |ca, _| ok(&answer(ca.sign_another_key("acme:cam-7")))),
        ("is for `acme:cam-8`, and this device is acme:cam-7", |ca, r| ok(&answer(ca.sign(&r.csr, "acme:cam-8")))),
        ("not one of the token's authority", |_, r| ok(&answer(Authority::new().sign(&r.csr, "acme:cam-7")))),
        ("cannot be read", |_, _| ok(&answer(vec![0x30; 40]))),
        ("`nowhere` is no address", |ca, r| {
            ok(&EnrolmentAnswer { broker: "nowhere".to_owned(), ..answer(ca.sign(&r.csr, "acme:cam-7")) })
        }),
        ("broke before the answer was complete", |ca, r| {
            let mut cut = ok(&answer(ca.sign(&r.csr, "acme:cam-7")));
            cut.truncate(cut.len() - 10);
            cut
        }),
        ("longer than 262144 bytes", |_, _| http("200 OK", &vec![0; BODY_BYTES_MAX + 1])),
        ("refused (403 token-used): ask for another", |_, _| {
            let refusal = Refusal { code: "token-used".into(), message: "ask for\nanother".into() };
            http("403 Forbidden", &cbor::encode(&refusal).expect("CBOR"))
        }),
        ("refused (404 unknown)", |_, _| http("404 Not Found", b"<html>")),
        ("is not accepted: CBOR", |_, _| http("200 OK", b"\xff")),
    ];
    for (expected, make) in cases {
        let device = Device::new();
        let e = with(&device, make).await.expect_err(expected);
        assert!(chain(&e).contains(expected), "{}", chain(&e));
        assert!(!device.store.is_enrolled(), "{expected}");
    }
}

#[tokio::test]
async fn another_authority_is_not_talked_to() {
    let device = Device::new();
    let (server, _task) = Authority::new().serve_once(|_, _| panic!("it was talked to")).await;
    let e = device.enrol(&token(&server, &Authority::new())).await.expect_err("another authority");
    assert!(chain(&e).contains("could not prove to be the server"), "{}", chain(&e));
}

#[tokio::test]
async fn a_certificate_is_renewed_for_the_same_key_and_name() {
    let authority = Arc::new(Authority::new());
    let signer = authority.clone();
    let (server, task) = authority
        .serve_once(move |_, body| {
            let request: EnrolmentRequest = cbor::decode_strict(&body, Limits::default()).expect("request");
            ok(&answer(signer.sign(&request.csr, "acme:cam-7")))
        })
        .await;
    let device = Device::new();
    let first = device.enrol(&token(&server, &authority)).await.expect("enrols");
    task.await.expect("server");
    for (name, renewed) in [("acme:cam-8", false), ("acme:cam-7", true)] {
        let signer = authority.clone();
        let (server, task) = authority
            .serve_once(move |head, body| {
                assert!(head.starts_with("POST /enrol/v1/renew "), "{head}");
                let request: RenewalRequest = cbor::decode_strict(&body, Limits::default()).expect("request");
                let answer = RenewalAnswer { certificate: Bytes(signer.sign(&request.csr, name)) };
                http("200 OK", &cbor::encode(&answer).expect("CBOR"))
            })
            .await;
        device.store.store(&Identity { server, ..first.clone() }).expect("stored");
        assert_eq!(renew(&device.store, &device.clock).await.is_ok(), renewed);
        task.await.expect("server");
        let kept = device.store.load().expect("stored").certificate;
        assert_eq!(kept != first.certificate, renewed);
    }
}

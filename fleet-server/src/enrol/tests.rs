use super::refused::codes_table;
use super::*;
use crate::clock;
use crate::service::{AnyError, Site};
use crate::store::Store;
use async_trait::async_trait;
use std::path::Path;

/// Roots for every project, and no connections to end.
struct Stub;

#[async_trait]
impl FleetService for Stub {
    async fn started(&self, _: Site) -> Result<axum::Router, AnyError> {
        Ok(axum::Router::new())
    }

    async fn first_roots(&self, _: &ProjectId) -> Result<Option<FirstRoots>, AnyError> {
        Ok(Some(FirstRoots { publisher: b"p".to_vec(), director: b"d".to_vec() }))
    }
}

#[async_trait]
impl DeviceLink for Stub {
    async fn disconnect(&self, _: &Principal) {}
}

async fn enroller() -> (tempfile::TempDir, Enroller) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("sedge.db")).await.expect("opens");
    let pki = Arc::new(Pki::open(&dir.path().join("pki"), clock::now()).expect("opens"));
    let enroller = Enroller {
        store: Arc::new(store),
        pki,
        deny: Arc::default(),
        link: Arc::new(Stub),
        fleet: Arc::new(Stub),
        server: "localhost:8443".into(),
        broker: "localhost:8883".into(),
    };
    (dir, enroller)
}

/// Requests with bytes changed, cut and doubled: refused for what they are, or taken, but never the server's fault.
#[tokio::test]
async fn no_request_makes_the_server_fail() {
    let (_dir, enroller) = enroller().await;
    let project: ProjectId = "acme".parse().expect("a name");
    let now = clock::now();
    enroller.store.create_project(&project, now).await.expect("works");
    let key = rcgen::KeyPair::generate().expect("a key");
    let csr = rcgen::CertificateParams::default().serialize_request(&key).expect("a request").der().to_vec();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 16).unwrap_or_default()
    };
    let mut token = enroller.grant(&project, None, now.plus(900), now).await.expect("granted");
    let mut taken = 0;
    for n in 0..3000 {
        let device = format!("cam-{n}").parse().expect("a name");
        let request = EnrolmentRequest { secret: token.secret.clone(), device, csr: Bytes(csr.clone()) };
        let mut bytes = cbor::encode(&request).expect("encodes");
        for _ in 0..random() % 4 {
            let at = random() % bytes.len();
            match random() % 4 {
                0 => bytes.truncate(at.max(1)),
                1 => bytes.extend_from_within(at..),
                _ => bytes[at] = random() as u8,
            }
        }
        match enroller.enrol(&bytes, now).await {
            Ok(_) => {
                taken += 1;
                token = enroller.grant(&project, None, now.plus(900), now).await.expect("granted");
            }
            Err(refused) => assert!(refused.status() < 500, "{n}: {refused}"),
        }
    }
    assert!((100..2900).contains(&taken), "{taken} of 3000 were taken");
}

/// `docs/protocol/enrolment.md` shows the words; `SEDGE_WRITE_DOCS=1` writes them.
#[test]
fn the_words_are_those_of_the_document() {
    const BEGIN: &str = "<!-- codes: written by a test -->\n";
    const END: &str = "<!-- end of codes -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol/enrolment.md");
    let text = std::fs::read_to_string(&path).expect("the document");
    let (before, rest) = text.split_once(BEGIN).expect("a beginning");
    let (shown, after) = rest.split_once(END).expect("an end");
    if std::env::var_os("SEDGE_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", codes_table())).expect("written");
        return;
    }
    assert_eq!(shown, codes_table(), "run the test with SEDGE_WRITE_DOCS=1");
}

#[test]
fn every_refusal_says_what_to_do() {
    for line in codes_table().lines().skip(2) {
        let message = line.split('|').nth(4).expect("a message");
        assert!(message.contains("; "), "{message}");
    }
}

#[test]
fn no_project_is_called_like_the_servers() {
    assert_eq!(refuse_reserved(&"server".parse().expect("a name")), Err(Refused::ProjectReserved));
    assert_eq!(refuse_reserved(&"servers".parse().expect("a name")), Ok(()));
}

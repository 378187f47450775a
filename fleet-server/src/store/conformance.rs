//! What every [`EdgeStore`] does, whatever is behind it.

use super::*;
use crate::pki::{Issued, Serial};
use rustls::pki_types::CertificateDer;
use sedge_protocol::Sha256Digest;
use sedge_protocol::id::{Principal, ProjectId};
use sedge_protocol::time::UnixSeconds;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const DAY_S: i64 = 86_400;

macro_rules! suite {
    ($make:expr; $($test:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $test() {
            let (_guard, store) = $make.await;
            super::$test(&store).await;
        })*
    };
}

mod sqlite {
    use super::super::Store;

    async fn make() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("sedge.db")).await.expect("opens");
        (dir, store)
    }

    suite! { make();
        projects_are_listed_in_pages,
        a_token_enrols_one_device_once,
        of_many_at_once_one_enrols,
        a_lost_answer_is_given_again,
        tokens_end,
        a_taken_name_needs_a_token_for_it,
        a_renewed_device_keeps_both_certificates_until_it_is_decommissioned,
        api_tokens_are_bounded_in_time_and_name,
        the_audit_is_short_and_visible,
        what_expired_is_forgotten,
    }

    #[tokio::test]
    async fn it_is_opened_again_and_a_newer_one_is_not_touched() {
        let (dir, store) = make().await;
        let project = "acme".parse().expect("a name");
        assert!(super::EdgeStore::create_project(&store, &project, super::NOW).await.expect("works"));
        store.close().await;
        let path = dir.path().join("sedge.db");
        let store = Store::open(&path).await.expect("opens");
        assert_eq!(super::EdgeStore::projects(&store, None, 9).await.expect("works"), [project]);
        let pragma = async |name: &'static str| {
            let row = sqlx::query(name).fetch_one(store.pool()).await.expect("works");
            sqlx::Row::try_get_unchecked::<String, _>(&row, 0).expect("a value")
        };
        assert_eq!(pragma("SELECT journal_mode FROM pragma_journal_mode").await, "wal");
        assert_eq!(pragma("SELECT CAST(foreign_keys AS TEXT) FROM pragma_foreign_keys").await, "1");
        assert_eq!(pragma("SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous").await, "1");
        let row = sqlx::query("SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous");
        let row = row.fetch_one(&store.synced).await.expect("works");
        assert_eq!(sqlx::Row::try_get_unchecked::<String, _>(&row, 0).expect("a value"), "2");
        sqlx::query(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'future', TRUE, x'00', 0)",
        )
        .execute(store.pool())
        .await
        .expect("works");
        store.close().await;
        let e = Store::open(&path).await.expect_err("newer");
        assert!(e.to_string().contains("newer version"), "{e}");
    }
}

fn project() -> ProjectId {
    "acme".parse().expect("a name")
}

fn principal(device: &str) -> Principal {
    Principal { project: project(), device: device.parse().expect("a name") }
}

fn enrolment(token: &str, device: &str, key: &str) -> Enrolment {
    let serial = Sha256Digest::of(format!("{token}{device}{key}").as_bytes());
    Enrolment {
        token: Sha256Digest::of(token.as_bytes()),
        device: principal(device),
        key: Sha256Digest::of(key.as_bytes()),
        serial: Serial::from_bytes(&serial.as_bytes()[..16]),
        not_after: NOW.plus(90 * DAY_S),
        certificate: key.as_bytes().to_vec(),
    }
}

async fn add_token(store: &impl EdgeStore, secret: &str, device: Option<&str>) {
    store.create_project(&project(), NOW).await.expect("works");
    let token = NewEnrolmentToken {
        hash: Sha256Digest::of(secret.as_bytes()),
        project: project(),
        device: device.map(|d| d.parse().expect("a name")),
        expires_at: NOW.plus(900),
    };
    assert!(store.add_enrolment_token(&token, NOW).await.expect("works"));
}

fn enrolled(replaced: Vec<Serial>) -> EnrolmentOutcome {
    EnrolmentOutcome::Enrolled { replaced }
}

fn refused(refusal: EnrolmentRefusal) -> EnrolmentOutcome {
    EnrolmentOutcome::Refused(refusal)
}

async fn projects_are_listed_in_pages(store: &impl EdgeStore) {
    for name in ["b", "a", "c"] {
        assert!(store.create_project(&name.parse().expect("a name"), NOW).await.expect("works"));
    }
    assert!(!store.create_project(&"a".parse().expect("a name"), NOW).await.expect("works"));
    let first = store.projects(None, 2).await.expect("works");
    assert_eq!(first.iter().map(ProjectId::as_str).collect::<Vec<_>>(), ["a", "b"]);
    let rest = store.projects(first.last(), 2).await.expect("works");
    assert_eq!(rest.iter().map(ProjectId::as_str).collect::<Vec<_>>(), ["c"]);
    let token = NewEnrolmentToken {
        hash: Sha256Digest::of(b"x"),
        project: "nowhere".parse().expect("a name"),
        device: None,
        expires_at: NOW.plus(9),
    };
    assert!(!store.add_enrolment_token(&token, NOW).await.expect("works"), "no such project");
}

async fn a_token_enrols_one_device_once(store: &impl EdgeStore) {
    add_token(store, "t", None).await;
    assert_eq!(store.token_project(&Sha256Digest::of(b"t")).await.expect("works"), Some(project()));
    assert_eq!(store.token_project(&Sha256Digest::of(b"?")).await.expect("works"), None);
    let enrol = async |e: &Enrolment| store.enrol(e, NOW).await.expect("works");
    assert_eq!(enrol(&enrolment("?", "cam-1", "k")).await, refused(EnrolmentRefusal::TokenUnknown));
    let mut elsewhere = enrolment("t", "cam-1", "k");
    elsewhere.device.project = "rival".parse().expect("a name");
    assert_eq!(enrol(&elsewhere).await, refused(EnrolmentRefusal::TokenUnknown));
    let first = enrolment("t", "cam-1", "k");
    assert_eq!(enrol(&first).await, enrolled(vec![]));
    assert_eq!(enrol(&enrolment("t", "cam-2", "k2")).await, refused(EnrolmentRefusal::TokenUsed));
    assert_eq!(enrol(&enrolment("t", "cam-1", "k2")).await, refused(EnrolmentRefusal::TokenUsed));
    let device = store.device(&principal("cam-1")).await.expect("works").expect("there");
    assert_eq!((device.serial, device.enrolled_at, device.not_after), (first.serial, NOW, first.not_after));
    assert_eq!(store.device(&principal("cam-2")).await.expect("works"), None);
    store.devices_seen(&[principal("cam-1"), principal("ghost")], NOW.plus(5)).await.expect("works");
    store.devices_seen(&[principal("cam-1")], NOW.plus(3)).await.expect("works");
    let listed = store.devices(&project(), None, 10).await.expect("works");
    assert_eq!(listed.iter().map(|d| d.last_seen).collect::<Vec<_>>(), [Some(NOW.plus(5))]);
    assert_eq!(store.devices(&project(), Some(&principal("cam-1").device), 10).await.expect("works"), []);
}

async fn of_many_at_once_one_enrols(store: &impl EdgeStore) {
    add_token(store, "t", None).await;
    let mut outcomes = Vec::new();
    let requests: Vec<_> = (0..8).map(|n| enrolment("t", &format!("cam-{n}"), &format!("k{n}"))).collect();
    let mut running: Vec<_> = requests.iter().map(|e| Box::pin(store.enrol(e, NOW))).collect();
    // Polled in turn, so that all are under way at once.
    std::future::poll_fn(|cx| {
        running.retain_mut(|one| match one.as_mut().poll(cx) {
            std::task::Poll::Ready(outcome) => {
                outcomes.push(outcome.expect("works"));
                false
            }
            std::task::Poll::Pending => true,
        });
        if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    assert_eq!(outcomes.iter().filter(|o| **o == enrolled(vec![])).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|o| **o == refused(EnrolmentRefusal::TokenUsed)).count(), 7);
    assert_eq!(store.devices(&project(), None, 10).await.expect("works").len(), 1);
}

async fn a_lost_answer_is_given_again(store: &impl EdgeStore) {
    add_token(store, "t", None).await;
    assert_eq!(store.enrol(&enrolment("t", "cam-1", "k"), NOW).await.expect("works"), enrolled(vec![]));
    let mut again = enrolment("t", "cam-1", "k");
    again.serial = Serial::from_hex("77");
    again.certificate = b"another".to_vec();
    let outcome = store.enrol(&again, NOW.plus(899)).await.expect("works");
    assert_eq!(outcome, EnrolmentOutcome::Again { certificate: b"k".to_vec() });
    let late = store.enrol(&again, NOW.plus(900)).await.expect("works");
    assert_eq!(late, refused(EnrolmentRefusal::TokenExpired));
    store.decommission(&principal("cam-1"), NOW).await.expect("works");
    let outcome = store.enrol(&again, NOW).await.expect("works");
    assert_eq!(outcome, refused(EnrolmentRefusal::Decommissioned));
}

async fn tokens_end(store: &impl EdgeStore) {
    add_token(store, "t", None).await;
    let outcome = store.enrol(&enrolment("t", "cam-1", "k"), NOW.plus(900)).await.expect("works");
    assert_eq!(outcome, refused(EnrolmentRefusal::TokenExpired));
    assert_eq!(store.device(&principal("cam-1")).await.expect("works"), None);
}

async fn a_taken_name_needs_a_token_for_it(store: &impl EdgeStore) {
    add_token(store, "t1", None).await;
    add_token(store, "t2", None).await;
    add_token(store, "t3", Some("cam-1")).await;
    let first = enrolment("t1", "cam-1", "k");
    let enrol = async |e: &Enrolment| store.enrol(e, NOW).await.expect("works");
    assert_eq!(enrol(&first).await, enrolled(vec![]));
    assert_eq!(enrol(&enrolment("t2", "cam-1", "k2")).await, refused(EnrolmentRefusal::DeviceExists));
    assert_eq!(enrol(&enrolment("t3", "cam-2", "k2")).await, refused(EnrolmentRefusal::TokenForOtherDevice));
    let second = enrolment("t3", "cam-1", "k2");
    assert_eq!(enrol(&second).await, enrolled(vec![first.serial.clone()]));
    assert_eq!(store.denied(NOW).await.expect("works"), Denied { devices: vec![], serials: vec![first.serial] });
    // The token that was refused is not used up.
    assert_eq!(enrol(&enrolment("t2", "cam-2", "k2")).await, enrolled(vec![]));
}

async fn a_renewed_device_keeps_both_certificates_until_it_is_decommissioned(store: &impl EdgeStore) {
    add_token(store, "t", None).await;
    let first = enrolment("t", "cam-1", "k");
    store.enrol(&first, NOW).await.expect("works");
    let issued = |serial: &str| Issued {
        certificate: CertificateDer::from(vec![1]),
        serial: Serial::from_hex(serial),
        not_after: NOW.plus(150 * DAY_S),
    };
    let renew = async |device: &str, shown: &Serial, serial: &str| {
        store.renew(&principal(device), shown, &issued(serial), NOW.plus(60 * DAY_S)).await.expect("works")
    };
    assert_eq!(renew("cam-1", &first.serial, "a1").await, RenewalOutcome::Renewed);
    assert_eq!(renew("cam-1", &first.serial, "a2").await, RenewalOutcome::Renewed, "the answer was lost");
    assert_eq!(renew("cam-9", &first.serial, "a3").await, RenewalOutcome::DeviceUnknown);
    assert_eq!(store.device(&principal("cam-1")).await.expect("works").expect("there").serial.as_str(), "a2");
    assert_eq!(store.denied(NOW).await.expect("works"), Denied::default());
    let mut denied = store.decommission(&principal("cam-1"), NOW).await.expect("works").expect("there");
    denied.sort();
    let mut expected = vec![first.serial.clone(), Serial::from_hex("a1"), Serial::from_hex("a2")];
    expected.sort();
    assert_eq!(denied, expected);
    assert_eq!(store.denied(NOW).await.expect("works").devices, [principal("cam-1")]);
    assert_eq!(renew("cam-1", &first.serial, "a4").await, RenewalOutcome::Decommissioned);
    assert_eq!(store.decommission(&principal("cam-9"), NOW).await.expect("works"), None);
    assert!(store.decommission(&principal("cam-1"), NOW.plus(9)).await.expect("works").is_some());
    let ended = store.device(&principal("cam-1")).await.expect("works").expect("there").decommissioned_at;
    assert_eq!(ended, Some(NOW));
    // An operator may take it back; what it had before stays denied.
    add_token(store, "t2", Some("cam-1")).await;
    store.enrol(&enrolment("t2", "cam-1", "k3"), NOW).await.expect("works");
    let now_denied = store.denied(NOW).await.expect("works");
    assert_eq!((now_denied.devices.len(), now_denied.serials.len()), (0, 3));
    assert_eq!(renew("cam-1", &first.serial, "a5").await, RenewalOutcome::Denied);
}

async fn api_tokens_are_bounded_in_time_and_name(store: &impl EdgeStore) {
    let token = |name: &str, expires_at| NewApiToken {
        hash: Sha256Digest::of(name.as_bytes()),
        name: name.to_owned(),
        scope: Scope::Operate,
        expires_at,
    };
    assert!(store.add_api_token(&token("b", Some(NOW.plus(10))), NOW).await.expect("works"));
    assert!(store.add_api_token(&token("a", None), NOW).await.expect("works"));
    let twin = NewApiToken { hash: Sha256Digest::of(b"twin"), ..token("a", None) };
    assert!(!store.add_api_token(&twin, NOW).await.expect("works"));
    let hash = Sha256Digest::of(b"b");
    assert_eq!(store.use_api_token(&hash, NOW.plus(9)).await.expect("works").expect("there").name, "b");
    assert_eq!(store.use_api_token(&hash, NOW.plus(10)).await.expect("works"), None);
    let listed = store.api_tokens().await.expect("works");
    assert_eq!(
        listed.iter().map(|t| (t.name.as_str(), t.last_used)).collect::<Vec<_>>(),
        [("a", None), ("b", Some(NOW.plus(9))),]
    );
    assert!(store.remove_api_token("a").await.expect("works"));
    assert!(!store.remove_api_token("a").await.expect("works"));
    assert_eq!(store.use_api_token(&Sha256Digest::of(b"a"), NOW).await.expect("works"), None);
}

async fn the_audit_is_short_and_visible(store: &impl EdgeStore) {
    for subject in ["one", &"x\n".repeat(1000)] {
        let entry = AuditEntry { at: NOW, actor: "a".into(), action: "b".into(), subject: subject.to_owned() };
        store.audit(&entry).await.expect("works");
    }
    let entries = store.audit_entries(10).await.expect("works");
    assert_eq!(entries[1].subject, "one");
    assert!(entries[0].subject.len() < 1000 && !entries[0].subject.contains('\n'), "{}", entries[0].subject);
}

async fn what_expired_is_forgotten(store: &impl EdgeStore) {
    add_token(store, "t", None).await;
    add_token(store, "u", None).await;
    store.enrol(&enrolment("t", "cam-1", "k"), NOW).await.expect("works");
    store.decommission(&principal("cam-1"), NOW).await.expect("works");
    store.prune(NOW.plus(900 + DAY_S)).await.expect("works");
    assert!(store.token_project(&Sha256Digest::of(b"u")).await.expect("works").is_some());
    store.prune(NOW.plus(92 * DAY_S)).await.expect("works");
    assert!(store.token_project(&Sha256Digest::of(b"u")).await.expect("works").is_none());
    let denied = store.denied(NOW).await.expect("works");
    assert_eq!((denied.devices.len(), denied.serials.len()), (1, 0));
    store.ping().await.expect("works");
}

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

async fn login() -> (tempfile::TempDir, Login) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("sedge.db")).await.expect("opens");
    (dir, Login::new(store, "fleet.example:8443".into()))
}

async fn link(login: &Login) -> Secret {
    let link = login.issue_link("ci", Scope::Operate, NOW).await.expect("made");
    let secret = link.reveal().strip_prefix("https://fleet.example:8443/login/").expect("an address");
    assert!(!format!("{link:?}").contains(secret));
    Secret::from_request(secret).expect("a secret")
}

#[tokio::test]
async fn a_link_opens_one_session_and_looking_at_it_opens_none() {
    let (_dir, login) = login().await;
    let secret = link(&login).await;
    for _ in 0..3 {
        assert_eq!(login.look(&secret, NOW).await.expect("answers"), Ok(()));
    }
    let attempts = (0..4).map(|_| login.redeem(&secret, NOW));
    let mut opened = Vec::new();
    for attempt in attempts {
        opened.push(attempt.await.expect("answers"));
    }
    let refused = opened.iter().filter(|o| matches!(o, Err(LinkRefusal::Used))).count();
    assert_eq!((opened.iter().filter(|o| o.is_ok()).count(), refused), (1, 3));
    let (cookie, session) = opened.remove(0).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(session, Session { name: "ci".into(), scope: Scope::Operate });
    assert_eq!(login.session(&cookie, true, NOW).await.expect("answers"), Some(session));
    // A link is no session, nor a session a link.
    assert_eq!(login.session(&secret, true, NOW).await.expect("answers"), None);
    assert_eq!(login.look(&cookie, NOW).await.expect("answers"), Err(LinkRefusal::Unknown));
    login.sign_out(&cookie).await.expect("ended");
    assert_eq!(login.session(&cookie, true, NOW).await.expect("answers"), None);
}

#[tokio::test]
async fn links_and_sessions_end_by_themselves() {
    let (_dir, login) = login().await;
    let late = link(&login).await;
    assert_eq!(login.look(&late, NOW.plus(LINK_S - 1)).await.expect("answers"), Ok(()));
    assert_eq!(login.look(&late, NOW.plus(LINK_S)).await.expect("answers"), Err(LinkRefusal::Expired));
    assert_eq!(login.redeem(&late, NOW.plus(LINK_S)).await.expect("answers").err(), Some(LinkRefusal::Expired));

    let (cookie, _) =
        login.redeem(&link(&login).await, NOW).await.expect("answers").unwrap_or_else(|e| panic!("{e:?}"));
    let at = async |used: bool, s: i64| login.session(&cookie, used, NOW.plus(s)).await.expect("answers").is_some();
    // A page that refreshes itself keeps nobody signed in.
    assert!(at(false, IDLE_S - 1).await && !at(true, IDLE_S).await);
    let mut s = 0;
    while s + IDLE_S < SESSION_S {
        s += IDLE_S - 1;
        assert!(at(true, s).await, "{s}");
    }
    assert!(at(true, SESSION_S - 1).await && !at(true, SESSION_S).await);
}

#[tokio::test]
async fn links_are_bounded_and_forgotten() {
    let (_dir, login) = login().await;
    for _ in 0..LINKS_MAX {
        login.issue_link("ci", Scope::Read, NOW).await.expect("made");
    }
    assert!(matches!(login.issue_link("ci", Scope::Read, NOW).await, Err(LoginError::TooMany)));
    login.issue_link("ci", Scope::Read, NOW.plus(LINK_S + LINK_MEMORY_S + 1)).await.expect("made");
}

#[test]
fn only_what_can_be_a_secret_is_looked_up() {
    let secret = Secret::generate().expect("random bytes");
    assert!(Secret::from_request(secret.reveal()).is_some());
    assert_ne!(secret.form_token(), secret.reveal());
    for text in ["", "a", &"a".repeat(44), &"é".repeat(21), &format!("{}'", "a".repeat(42))] {
        assert!(Secret::from_request(text).is_none(), "{text}");
    }
}

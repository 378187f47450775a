//! The console over the wire: who gets in, what others can do, and what a page holds.

use std::sync::Arc;

use sedge_fleet_server::console::view::{DeviceRow, DeviceState, Online};
use sedge_fleet_server::server::LOGIN_LINK_FILE;
use sedge_fleet_server::store::Scope;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::fleet_shown::{FleetShown, bundle};
use crate::support::https::{Answer, ask, connect};
use crate::support::server::Server;

async fn request(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    ask(server.running.http_addr, server.tls(None), method, path, headers, body.as_bytes()).await.unwrap()
}

async fn get(server: &Server, path: &str, cookie: &str) -> Answer {
    request(server, "GET", path, &[("Cookie", cookie)], "").await
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let lines = answer.head.lines().filter_map(|line| line.split_once(": "));
    lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.clone()).unwrap()
}

fn path_of(url: &str) -> String {
    format!("/{}", url.splitn(4, '/').nth(3).unwrap())
}

/// The cookie of a new session.
async fn sign_in(server: &Server) -> String {
    let link = server.running.login_link("test", Scope::Read).await.unwrap();
    let answer = request(server, "POST", &path_of(link.reveal()), &[], "").await;
    assert_eq!((answer.status, header(&answer, "location")), (303, Some("/")), "{}", text(&answer));
    header(&answer, "set-cookie").unwrap().split(';').next().unwrap().to_owned()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let text = text.split_once(before).unwrap_or_else(|| panic!("no {before}")).1;
    text.split_once(after).unwrap().0
}

#[tokio::test]
async fn nothing_is_shown_without_a_session() {
    let server = Server::start_showing(Arc::new(FleetShown::halted())).await;
    let css = between(&text(&get(&server, "/login", "").await), "stylesheet\" href=\"", "\"").to_owned();
    let cookie = sign_in(&server).await;
    let page = text(&get(&server, "/", &cookie).await);
    let scripts = [
        between(&page, "<script src=\"", "\""),
        between(page.split_once("defer></script>").unwrap().1, "<script src=\"", "\""),
    ];
    let forged = format!("__Host-sedge={}", "A".repeat(43));
    for path in ["/", "/projects/default", "/projects/ghost", "/events", scripts[0], scripts[1], "/assets/0/none.css"] {
        for cookie in ["", "__Host-sedge=", &forged, &cookie.replace("__Host-", "")] {
            let answer = get(&server, path, cookie).await;
            assert_eq!((answer.status, header(&answer, "location")), (303, Some("/login")), "{path} {cookie}");
            assert!(answer.body.is_empty(), "{path}");
        }
    }
    // htmx would follow a redirect unseen.
    let answer = request(&server, "GET", "/", &[("HX-Request", "true")], "").await;
    assert_eq!((answer.status, header(&answer, "hx-redirect")), (401, Some("/login")));
    assert_eq!(get(&server, &css, "").await.status, 200);
    // A token of the API is no session, nor a session a token.
    let bearer = format!("Bearer {}", server.admin);
    assert_eq!(request(&server, "GET", "/", &[("Authorization", &bearer)], "").await.status, 303);
    assert_eq!(get(&server, "/api/v1/projects", &cookie).await.status, 401);
    server.running.shutdown().await;
}

#[tokio::test]
async fn a_link_signs_in_once_and_a_look_at_it_uses_nothing_up() {
    let server = Server::start().await;
    let file = server.dir.path().join("data").join(LOGIN_LINK_FILE);
    let first = std::fs::read_to_string(file).unwrap();
    let path = path_of(first.trim());
    for _ in 0..3 {
        let answer = get(&server, &path, "").await;
        assert!(answer.status == 200 && text(&answer).contains("<form method=\"post\""), "{}", text(&answer));
        assert_eq!(header(&answer, "set-cookie"), None);
    }
    // Another site cannot sign somebody in as itself.
    for foreign in [("Sec-Fetch-Site", "cross-site"), ("Origin", "https://evil.example"), ("Origin", "null")] {
        assert_eq!(request(&server, "POST", &path, &[foreign], "").await.status, 403);
    }
    let answer = request(&server, "POST", &path, &[("Sec-Fetch-Site", "same-origin"), ("Origin", "null")], "").await;
    let cookie = header(&answer, "set-cookie").unwrap();
    for part in ["__Host-sedge=", "; Path=/;", "; Secure", "; HttpOnly", "; SameSite=Strict", "; Max-Age=43200"] {
        assert!(cookie.contains(part), "{part}: {cookie}");
    }
    assert!(!cookie.contains("Domain"));
    assert_eq!(get(&server, "/", cookie.split(';').next().unwrap()).await.status, 200);
    for method in ["GET", "POST"] {
        let answer = request(&server, method, &path, &[], "").await;
        assert!(answer.status == 410 && text(&answer).contains("was used"), "{}", text(&answer));
    }
    for unknown in ["/login/x".into(), format!("/login/{}", "A".repeat(43))] {
        assert_eq!(request(&server, "POST", &unknown, &[], "").await.status, 404);
    }
    // Guessing ends soon.
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(get(&server, "/login/x", "").await.status);
    }
    assert_eq!(statuses.last(), Some(&429));
    // No secret is anywhere on the disk.
    let secret = path.rsplit('/').next().unwrap().as_bytes().to_vec();
    for name in ["sedge.db", "sedge.db-wal"] {
        let bytes = std::fs::read(server.dir.path().join("data").join(name)).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{name}");
    }
}

#[tokio::test]
async fn only_admins_make_links() {
    let server = Server::start().await;
    let link = async |token: &str, body: Value| server.api(token, "POST", "/api/v1/login-links", body).await;
    let answer = link(&server.admin, json!({ "scope": "operate" })).await;
    assert_eq!((answer.status, answer.json()["scope"].as_str()), (201, Some("operate")));
    assert!(answer.json()["expires_at"].as_str().unwrap().ends_with('Z'));
    let url = answer.json()["url"].as_str().unwrap().to_owned();
    assert_eq!(request(&server, "POST", &path_of(&url), &[], "").await.status, 303);
    assert_eq!(link(&server.admin, json!({ "scope": "root" })).await.status, 400);
    let new = json!({ "name": "ops", "scope": "operate" });
    let operate = server.api(&server.admin, "POST", "/api/v1/api-tokens", new).await.json();
    assert_eq!(link(operate["token"].as_str().unwrap(), json!({})).await.status, 403);
    let audit = server.api(&server.admin, "GET", "/api/v1/audit", Value::Null).await.json().to_string();
    assert!(audit.contains("made a login link") && audit.contains("signed in"), "{audit}");
}

#[tokio::test]
async fn signing_out_needs_the_page_and_ends_the_session() {
    let server = Server::start_showing(Arc::new(FleetShown::halted())).await;
    let cookie = sign_in(&server).await;
    let other = sign_in(&server).await;
    let page = text(&get(&server, "/", &cookie).await);
    let token = between(&page, "name=\"csrf\" value=\"", "\"");
    let foreign = text(&get(&server, "/", &other).await);
    let foreign = between(&foreign, "name=\"csrf\" value=\"", "\"");
    let out = async |body: &str, headers: &[(&str, &str)]| {
        let headers = [&[("Cookie", cookie.as_str())], headers].concat();
        request(&server, "POST", "/logout", &headers, body).await
    };
    for body in ["", "csrf=", &format!("csrf={foreign}"), &format!("csrf={token}x"), token, &"x".repeat(5000)] {
        let status = out(body, &[]).await.status;
        assert!(status == 403 || status == 400, "{body}: {status}");
    }
    let right = format!("csrf={token}");
    assert_eq!(out(&right, &[("Sec-Fetch-Site", "cross-site")]).await.status, 403);
    assert_eq!(get(&server, "/", &cookie).await.status, 200);
    let answer = out(&right, &[]).await;
    assert_eq!((answer.status, header(&answer, "location")), (303, Some("/login")));
    assert!(header(&answer, "set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(get(&server, "/", &cookie).await.status, 303, "the session is over at the server too");
    assert_eq!(get(&server, "/", &other).await.status, 200);
    assert_eq!(request(&server, "GET", "/logout", &[("Cookie", &other)], "").await.status, 405);
}

#[tokio::test]
async fn every_answer_is_hardened_and_a_page_is_small() {
    let server = Server::start_showing(Arc::new(FleetShown::of_devices(many(250)))).await;
    let cookie = sign_in(&server).await;
    let page = get(&server, "/projects/default", &cookie).await;
    let css = between(&text(&page), "stylesheet\" href=\"", "\"").to_owned();
    for (path, cookie, kept) in [
        ("/projects/default", cookie.as_str(), "no-store"),
        ("/projects/ghost", &cookie, "no-store"),
        ("/projects/default?state=angry", &cookie, "no-store"),
        ("/login", "", "no-store"),
        ("/login/x", "", "no-store"),
        ("/", "", "no-store"),
        (&css, "", "private, max-age=31536000, immutable"),
    ] {
        let answer = get(&server, path, cookie).await;
        let policy = header(&answer, "content-security-policy").unwrap_or_else(|| panic!("{path}"));
        assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header(&answer, "x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(header(&answer, "referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(header(&answer, "cache-control"), Some(kept), "{path}");
    }
    let mut bytes = page.body.clone();
    let html = text(&page);
    assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick="), "inline code");
    for part in html.split(['"', '\'']).filter(|part| part.starts_with("/assets/")) {
        bytes.extend(get(&server, part, &cookie).await.body);
    }
    assert!(bytes.len() > 60_000, "the scripts are among them");
    let compressed = gzip(&bytes);
    eprintln!("page of 100 devices with its files: {} bytes, {compressed} after gzip", bytes.len());
    assert!(compressed <= 100_000, "{compressed}");
}

fn gzip(bytes: &[u8]) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page");
    std::fs::write(&path, bytes).unwrap();
    std::process::Command::new("gzip").arg("-c").arg(path).output().unwrap().stdout.len()
}

fn many(n: usize) -> Vec<DeviceRow> {
    let row = |i| DeviceRow {
        id: format!("cam-{i:03}"),
        online: if i % 10 == 0 { Online::Offline } else { Online::Online },
        runs: Some(bundle("1.4.0")),
        served: None,
        wanted: Some(bundle("1.4.0")),
        state: if i % 25 == 0 { DeviceState::Failed } else { DeviceState::Settled },
        reason: String::new(),
        heard_at: None,
    };
    (0..n).map(row).collect()
}

fn ids(page: &str) -> Vec<String> {
    let results = between(page, "<div id=\"results\"", "</main>");
    results.split("<th scope=\"row\">").skip(1).map(|row| row.split('<').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_device_is_on_one_page_of_its_list() {
    let server = Server::start_showing(Arc::new(FleetShown::of_devices(many(250)))).await;
    let cookie = sign_in(&server).await;
    let (mut seen, mut path) = (Vec::new(), Some("/projects/default".to_owned()));
    let mut pages = Vec::new();
    while let Some(next) = path.take() {
        let page = text(&get(&server, &next, &cookie).await);
        let found = ids(&page);
        pages.push(found.len());
        seen.extend(found);
        path = page
            .split_once("id=\"next-page\" href=\"")
            .map(|(_, rest)| rest.split(['"', '#']).next().unwrap().replace("&#38;", "&").replace("&amp;", "&"));
    }
    assert_eq!(pages, [100, 100, 50]);
    assert_eq!(seen, many(250).into_iter().map(|row| row.id).collect::<Vec<_>>());
    let search = async |query: &str| ids(&text(&get(&server, &format!("/projects/default?{query}"), &cookie).await));
    assert_eq!(search("q=am-07").await.len(), 10);
    assert_eq!(search("state=bad").await.len(), 10);
    assert_eq!(search("q=cam-1&state=bad&after=cam-125").await, ["cam-150", "cam-175"]);
    assert_eq!(search("q=ghost").await, Vec::<String>::new());
}

#[tokio::test]
async fn what_devices_say_stays_text() {
    let hostile = "\"'><script src=//evil.example></script><img src=x onerror=alert(1)>";
    let shown = FleetShown::halted();
    shown.change(|shown| {
        shown.devices[3].id = hostile.into();
        shown.devices[3].reason = hostile.into();
        shown.devices[3].runs.as_mut().unwrap().name = hostile.into();
        shown.waves[0].0 = "<b>canary</b>";
        let rollout = shown.rollout.as_mut().unwrap();
        rollout.sentence = hostile.into();
        rollout.waves[0].name = hostile.into();
        rollout.gates[0].measured = Some(hostile.into());
        rollout.waiting[0].reason = hostile.into();
        (rollout.timeline[0].text, rollout.timeline[0].actor) = (hostile.into(), hostile.into());
    });
    let server = Server::start_showing(Arc::new(shown)).await;
    let cookie = sign_in(&server).await;
    for path in ["/", "/?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E", "/?q=%3Cimg%20src=x%3E&after=%22%3E%3Cimg"] {
        let page = text(&get(&server, path, &cookie).await);
        assert_eq!(page.matches("<script").count(), 2, "{path}");
        assert!(!page.contains("<img") && !page.contains("<b>canary</b>"), "{path}");
        assert!(!page.contains("\"'>"), "{path}");
    }
    assert!(text(&get(&server, "/", &cookie).await).contains("&#60;script"));
    let page = text(&get(&server, "/?q=%22%20autofocus%20onfocus=%22x", &cookie).await);
    assert_eq!(between(&page, "type=\"search\" value=\"", "\""), "&#34; autofocus onfocus=&#34;x");
}

#[tokio::test]
async fn a_change_arrives_on_the_stream_and_a_break_loses_none() {
    let shown = Arc::new(FleetShown::halted());
    let server = Server::start_showing(shown.clone()).await;
    let cookie = sign_in(&server).await;
    let listen = async |since: &str, last: &str| {
        let mut stream = connect(server.running.http_addr, server.tls(None)).await.unwrap();
        let head = format!("GET /events?since={since} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n{last}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let until = async |stream: &mut tokio_rustls::client::TlsStream<tokio::net::TcpStream>, wanted: &str| {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(wanted) {
            let mut bytes = [0; 4096];
            let n = stream.read(&mut bytes).await.unwrap();
            assert!(n > 0, "the stream ended: {}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&bytes[..n]);
        }
        String::from_utf8(read).unwrap()
    };
    // The page was made at 7, and nothing happened since.
    let mut stream = listen("7", "").await;
    let hello = until(&mut stream, "event: beat").await;
    assert!(hello.contains("text/event-stream") && hello.contains("retry: 3000"), "{hello}");
    assert!(!hello.contains("event: changed"));
    shown.change(|_| ());
    let said = until(&mut stream, "event: changed").await;
    assert!(said.contains("id: 8") || until(&mut stream, "id: 8").await.contains("data: "), "{said}");
    // A browser whose line broke says what it saw last; that counts, not what the page was made with.
    let mut stream = listen("7", "Last-Event-ID: 7\r\n").await;
    until(&mut stream, "id: 8").await;
    let mut stream = listen("7", "Last-Event-ID: 8\r\n").await;
    shown.change(|_| ());
    assert!(!until(&mut stream, "id: 9").await.contains("id: 8\n"));
    // A page that listens does not hold up the end of the server.
    let stopped = tokio::time::timeout(std::time::Duration::from_secs(4), server.running.shutdown()).await;
    assert!(stopped.is_ok(), "it waited for its listeners");
}

#[tokio::test]
async fn without_a_fleet_part_the_database_is_shown() {
    let server = Server::start().await;
    let cookie = sign_in(&server).await;
    assert!(text(&get(&server, "/", &cookie).await).contains("No device has enrolled yet."));
    for device in ["cam-2", "cam-1", "bell-1"] {
        server.enrol(device).await;
    }
    server.decommission("bell-1").await;
    let page = text(&get(&server, "/projects/default?q=CAM", &cookie).await);
    assert_eq!(ids(&page), ["cam-1", "cam-2"]);
    assert!(page.contains("All 2 devices run nothing that is known"), "{page}");
    assert!(page.contains("never connected") && page.contains("nothing assigned"), "{page}");
    assert_eq!(ids(&text(&get(&server, "/?state=online", &cookie).await)), Vec::<String>::new());
    assert_eq!(ids(&text(&get(&server, "/?state=quiet&after=cam-1", &cookie).await)), ["cam-2"]);
    assert_eq!(get(&server, "/projects/ghost", &cookie).await.status, 404);
}

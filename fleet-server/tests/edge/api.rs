//! The interface for people and tools: nobody gets in without a token, and everybody is told why.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::https::{Answer, ask};
use crate::support::server::{Server, StubFleet, config};

async fn token(server: &Server, scope: &str) -> String {
    let body = json!({ "name": scope, "scope": scope });
    let answer = server.api(&server.admin, "POST", "/api/v1/api-tokens", body).await;
    assert_eq!(answer.status, 201);
    answer.json()["token"].as_str().unwrap().to_owned()
}

/// The problem, which says what, where and what to do.
fn problem(answer: &Answer, path: &str) -> (u16, String) {
    assert!(answer.head.to_lowercase().contains("content-type: application/problem+json"), "{}", answer.head);
    let body = answer.json();
    for member in ["type", "title", "detail", "hint"] {
        assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {body}");
    }
    assert_eq!((body["status"].as_u64(), body["instance"].as_str()), (Some(answer.status.into()), Some(path)));
    (answer.status, body["type"].as_str().unwrap().trim_start_matches("urn:sedge:problem:").to_owned())
}

#[tokio::test]
async fn nothing_is_shown_without_a_token() {
    let server = Server::start().await;
    let wrong = format!("sedgeadm_{}", "A".repeat(43));
    for path in [
        "/api/v1/projects",
        "/api/v1/projects/default/devices",
        "/api/v1/projects/default/devices/cam-1",
        "/api/v1/projects/default/devices/cam-1/decommission",
        "/api/v1/projects/default/enrolment-tokens",
        "/api/v1/projects/default/probe",
        "/api/v1/api-tokens",
        "/api/v1/api-tokens/first-admin",
        "/api/v1/audit",
        "/api/v1/nothing",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let answer = ask(server.running.http_addr, server.tls(None), method, path, &[], b"").await.unwrap();
            assert_eq!(problem(&answer, path), (401, "unauthenticated".into()), "{method}");
            assert!(answer.head.to_lowercase().contains("www-authenticate: bearer"));
            for token in [&wrong, &server.admin[..51], &server.admin.to_uppercase(), "", "x y"] {
                let answer = server.api(token, method, path, Value::Null).await;
                assert_eq!(answer.status, 401, "{method} {path} {token}");
            }
        }
    }
    // A device's certificate is no token.
    let device = server.enrol("cam-1").await;
    let tls = server.tls(Some(&device));
    let answer = ask(server.running.http_addr, tls, "GET", "/api/v1/projects", &[], b"").await.unwrap();
    assert_eq!(answer.status, 401);
    for path in ["/livez", "/readyz"] {
        let answer = ask(server.running.http_addr, server.tls(None), "GET", path, &[], b"").await.unwrap();
        assert_eq!((answer.status, answer.body), (200, b"ok\n".to_vec()));
    }
    let answer = ask(server.running.http_addr, server.tls(None), "GET", "/nothing", &[], b"").await.unwrap();
    assert_eq!(problem(&answer, "/nothing"), (404, "no-such-path".into()));
}

#[tokio::test]
async fn a_token_does_what_its_scope_says() {
    let server = Server::start().await;
    let (read, operate) = (token(&server, "read").await, token(&server, "operate").await);
    server.enrol("cam-1").await;
    let enrolment = "/api/v1/projects/default/enrolment-tokens";
    let decommission = "/api/v1/projects/default/devices/cam-1/decommission";
    for (method, path, body, scope) in [
        ("GET", "/api/v1/projects", Value::Null, "read"),
        ("GET", "/api/v1/projects/default/devices", Value::Null, "read"),
        ("GET", "/api/v1/projects/default/devices/cam-1", Value::Null, "read"),
        ("GET", "/api/v1/projects/default/probe", Value::Null, "read"),
        ("GET", "/api/v1/audit", Value::Null, "read"),
        ("POST", enrolment, json!({}), "operate"),
        ("POST", decommission, Value::Null, "operate"),
        ("POST", "/api/v1/projects", json!({ "name": "acme" }), "admin"),
        ("GET", "/api/v1/api-tokens", Value::Null, "admin"),
        ("POST", "/api/v1/api-tokens", json!({ "name": "x", "scope": "admin" }), "admin"),
        ("DELETE", "/api/v1/api-tokens/read", Value::Null, "admin"),
    ] {
        for (token, level) in [(&read, 0), (&operate, 1), (&server.admin, 2)] {
            let needed = ["read", "operate", "admin"].iter().position(|s| *s == scope).unwrap();
            let answer = server.api(token, method, path, body.clone()).await;
            if level < needed {
                assert_eq!(problem(&answer, path), (403, "scope".into()), "{method} {path}");
            } else {
                assert!(answer.status < 300, "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
            }
        }
    }
    assert_eq!(server.api(&read, "GET", "/api/v1/projects", Value::Null).await.status, 401, "removed");
    let audit = server.api(&operate, "GET", "/api/v1/audit?limit=1000", Value::Null).await.json();
    let entries: Vec<String> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| format!("{} {} {}", e["actor"], e["action"], e["subject"]).replace('"', ""))
        .collect();
    for expected in [
        "first-admin made an API token operate",
        "operate made an enrolment token default",
        "default:cam-1 enrolled certificate",
        "operate decommissioned default:cam-1",
        "first-admin made a project acme",
        "first-admin removed an API token read",
    ] {
        assert!(entries.iter().any(|e| e.starts_with(expected)), "{expected}: {entries:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let server = Server::start().await;
    let tokens = "/api/v1/projects/default/enrolment-tokens";
    for (method, path, body, status, code, detail) in [
        ("POST", "/api/v1/projects", json!({ "name": "server" }), 400, "invalid", "no project may be called"),
        ("POST", "/api/v1/projects", json!({ "name": "a/b" }), 400, "invalid", "is not a project"),
        ("POST", "/api/v1/projects", json!({ "nam": "a" }), 400, "invalid", "unknown field `nam`"),
        ("POST", "/api/v1/projects", json!({ "name": "default" }), 409, "conflict", "already"),
        ("POST", "/api/v1/projects", json!("x".repeat(70_000)), 413, "too-large", "more bytes"),
        ("PUT", "/api/v1/projects", Value::Null, 405, "method-not-allowed", "method"),
        ("GET", "/api/v1/projects?limit=0", Value::Null, 400, "invalid", "`limit` is 0"),
        ("GET", "/api/v1/projects?limt=1", Value::Null, 400, "invalid", "limt"),
        ("GET", "/api/v1/projects/a%2Fb/devices", Value::Null, 400, "invalid", "is not a project"),
        ("GET", "/api/v1/projects/%FF/devices", Value::Null, 400, "invalid", "Bad Request"),
        ("GET", "/api/v1/projects/default/devices/ghost", Value::Null, 404, "not-found", "default:ghost"),
        ("POST", tokens, json!({ "lifetime_s": 0 }), 400, "invalid", "`lifetime_s` is 0"),
        ("POST", tokens, json!({ "device": "a b" }), 400, "invalid", "is not a device id"),
        ("POST", tokens, json!([]), 400, "invalid", "not as expected"),
        ("POST", "/api/v1/projects/rootless/enrolment-tokens", json!({}), 503, "roots-missing", "no publisher root"),
        ("POST", "/api/v1/projects/server/enrolment-tokens", json!({}), 400, "project-reserved", "no project may"),
        ("POST", "/api/v1/api-tokens", json!({ "name": "a", "scope": "root" }), 400, "invalid", "root"),
        ("POST", "/api/v1/api-tokens", json!({ "name": "a\nb", "scope": "read" }), 400, "invalid", "visible"),
        ("DELETE", "/api/v1/api-tokens/ghost", Value::Null, 404, "not-found", "ghost"),
        ("GET", "/api/v1/nothing", Value::Null, 404, "no-such-path", "no route"),
    ] {
        let answer = server.api(&server.admin, method, path, body).await;
        let at = path.split('?').next().unwrap();
        assert_eq!(problem(&answer, at), (status, code.into()), "{method} {path}");
        let body = answer.json();
        assert!(body["detail"].as_str().unwrap().contains(detail), "{method} {path}: {body}");
    }
}

#[tokio::test]
async fn devices_are_listed_in_pages() {
    let server = Server::start().await;
    for device in ["c", "a", "b"] {
        server.enrol(device).await;
    }
    let list = async |query: &str| {
        let path = format!("/api/v1/projects/default/devices{query}");
        server.api(&server.admin, "GET", &path, Value::Null).await.json()
    };
    let ids = |page: &Value| {
        let devices = page["devices"].as_array().unwrap();
        devices.iter().map(|d| d["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = list("?limit=2").await;
    assert_eq!((ids(&first), first["next"].as_str()), (vec!["a".to_owned(), "b".to_owned()], Some("b")));
    let second = list("?limit=2&after=b").await;
    assert_eq!((ids(&second), second["next"].as_str()), (vec!["c".to_owned()], None));
    assert!(second["devices"][0]["certificate"]["not_after"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn the_first_token_is_private_and_outlives_a_restart() {
    let server = Server::start().await;
    let data = server.dir.path().join("data");
    let mode = |name: &str| std::fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("admin-token"), mode("pki"), mode("pki/root.key")), (0o700, 0o600, 0o700, 0o600));
    assert_eq!((mode("sedge.db"), mode("sedge.db-wal")), (0o600, 0o600));
    // Two servers would not know of each other's denials.
    let e = sedge_fleet_server::server::start(config(&data), Arc::new(StubFleet::default())).await.unwrap_err();
    assert!(e.to_string().contains("another server uses"), "{e}");
    let authority = server.running.authority.clone();
    let admin = server.admin.clone();
    let Server { dir, running, .. } = server;
    running.shutdown().await;
    let server = Server::start_in(dir, config(&data)).await;
    assert_eq!((&server.admin, &server.running.authority), (&admin, &authority));
    assert_eq!(server.api(&admin, "GET", "/api/v1/projects", Value::Null).await.status, 200);
    let log = String::from_utf8_lossy(&crate::support::server::LOG.lock().unwrap()).into_owned();
    assert!(log.contains(&data.join("admin-token").display().to_string()));
}

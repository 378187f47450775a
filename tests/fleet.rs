//! A fleet server as people run it: the real process, steered by the real command.

#[path = "src/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]
mod rig;

use rig::{Publisher, Server, failure, json};
use sedge_protocol::enrolment::EnrolmentToken;
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn a_project_begins_takes_bundles_and_invites_devices() {
    let publisher = Publisher::new();
    let (first, second) = (publisher.pack("v1"), publisher.pack("v2"));
    publisher.release(&[&first]);
    let server = Server::start(&publisher.path("data"));
    let repository = publisher.repository();
    let pinned = json(&mut server.command(&["project", "create", "acme", "--repository", &repository]));
    assert!(pinned["publisher_root"].as_str().is_some_and(|d| d.starts_with("sha256:")), "{pinned}");

    // What is released is taken, and nothing else.
    let publish = |bundle: &Path| {
        let mut command = server.command(&["project", "publish", "acme", "--repository", &repository]);
        command.arg(bundle);
        command
    };
    let taken = json(&mut publish(&first));
    assert_eq!(taken["bundles"][0]["version"], "1.0.0", "{taken}");
    let (code, why) = failure(&mut publish(&second));
    assert!(code == 1 && why.contains("v2.tar"), "{code} {why}");
    let mut bytes = fs::read(&first).expect("the bundle");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let changed = publisher.path("changed.tar");
    fs::write(&changed, bytes).expect("written");
    let (code, why) = failure(&mut publish(&changed));
    assert!(code == 1 && why.contains("changed.tar"), "{code} {why}");
    publisher.release(&[&second]);
    json(&mut publish(&second));
    let bundles = json(&mut server.command(&["project", "bundles", "acme"]));
    assert_eq!(bundles.as_array().map(Vec::len), Some(2), "{bundles}");

    // A token pins what the project's devices will trust, and is for its holder alone.
    let file = publisher.path("pi.token");
    json(server.command(&["device", "token", "acme", "--device", "pi"]).arg("--to").arg(&file));
    let token: EnrolmentToken = fs::read_to_string(&file).expect("the token").parse().expect("a token");
    assert_eq!(Value::String(token.publisher_root.to_string()), pinned["publisher_root"]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).expect("the token").permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(json(&mut server.command(&["device", "list", "acme"]))["devices"], Value::Array(vec![]));

    // It is asked as whoever holds a token, or not at all.
    let stranger = publisher.path("stranger");
    fs::write(&stranger, format!("sedgeadm_{}", "A".repeat(43))).expect("written");
    let (code, why) = failure(server.command(&["device", "list", "acme"]).env("SEDGE_TOKEN_FILE", &stranger));
    assert!(code == 1 && why.contains("An API token is needed"), "{code} {why}");
    let (code, why) = failure(&mut server.command(&["device", "show", "acme:nobody"]));
    assert!(code == 1 && why.contains("nobody"), "{code} {why}");

    let log = server.stop();
    let secret = fs::read_to_string(publisher.path("data/admin-token")).expect("the admin token");
    assert!(!log.contains(secret.trim()), "the log holds the admin token");

    // All of it is there after a restart.
    let server = Server::start(&publisher.path("data"));
    assert_eq!(json(&mut server.command(&["project", "bundles", "acme"])), bundles);
    server.stop();
}

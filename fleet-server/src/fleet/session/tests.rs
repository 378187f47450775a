//! Scripted messages and what comes of them.

use super::*;
use crate::fleet::testing::device;
use sedge_protocol::Version;
use sedge_protocol::message::{Birth, Capabilities};

fn birth(boot: &str, seq: u64) -> Status {
    Status::Online(Birth {
        v: V1,
        ts_ms: 1,
        clock_synced: true,
        boot: boot.parse().expect("a name"),
        seq,
        agent_version: Version::new(0, 1, 0),
        target: "x86_64-unknown-linux-gnu".to_owned(),
        capabilities: Capabilities { protocol_version: 1, journal_version: 1, worker_version: 1, features: Vec::new() },
    })
}

fn will(boot: &str, seq: u64) -> Status {
    Status::Offline(Will { v: V1, boot: boot.parse().expect("a name"), seq })
}

fn words(effects: &[Effect]) -> Vec<String> {
    let word = |effect: &Effect| match effect {
        Effect::Subscribe => "subscribe".to_owned(),
        Effect::PublishAll => "publish all".to_owned(),
        Effect::PublishDesired(device) => format!("publish {device}"),
        Effect::Store(record) => match &record.said {
            Said::Status(Status::Online(_)) => "store online".to_owned(),
            Said::Status(Status::Offline(_)) => "store offline".to_owned(),
            Said::Reported(reported) => format!("store report {}", reported.seq),
            Said::Event(event) => format!("store event {}", event.id),
        },
        Effect::Answer(device, _) => format!("answer {device}"),
        Effect::Serve(device, _) => format!("serve {device}"),
        Effect::Forget(device) => format!("forget {device}"),
        Effect::Measured(device, stream, _) => format!("measured {device} {stream}"),
        Effect::Refused { problem, .. } => format!("refused: {problem}"),
    };
    effects.iter().map(word).collect()
}

struct Script(Session);

impl Script {
    fn raw(&mut self, topic: &str, payload: &[u8], json: bool) -> Vec<String> {
        words(&self.0.handle(Input::Message { topic, payload, json }))
    }

    fn says<M: Message>(&mut self, topic: &str, message: &M) -> Vec<String> {
        self.raw(&format!("sedge/1/d/acme:cam-1/{topic}"), &message.to_cbor().expect("valid"), false)
    }

    fn does(&mut self, input: Input<'_>) -> Vec<String> {
        words(&self.0.handle(input))
    }
}

#[test]
fn a_birth_brings_the_desired_state_once() {
    let mut script = Script(Session::default());
    let connected = |session_present| Input::Connected { session_present };
    assert_eq!(script.does(connected(true)), ["subscribe", "publish all"], "this process has published nothing yet");
    assert_eq!(script.says("s", &birth("b1", 1)), ["store online", "forget acme:cam-1", "publish acme:cam-1"]);
    script.does(Input::DesiredPublished(device("cam-1"), Sha256Digest::of(b"1")));
    assert_eq!(script.says("s", &birth("b1", 1)), ["store online"], "the retained status again");
    assert_eq!(script.says("s", &birth("b1", 2)), ["store online", "forget acme:cam-1"]);
    assert_eq!(script.does(Input::DesiredChanged(device("cam-1"))), ["publish acme:cam-1"]);
    assert!(script.0.has_published(&device("cam-1"), Sha256Digest::of(b"1")));
    assert_eq!(script.does(connected(true)), ["subscribe"]);
    assert_eq!(script.does(connected(false)), ["subscribe", "publish all"], "the broker has lost everything");
    assert_eq!(script.says("s", &birth("b1", 2)), ["store online", "publish acme:cam-1"]);
}

#[test]
fn a_late_will_does_not_end_a_newer_connection() {
    let mut script = Script(Session::default());
    script.says("s", &birth("b1", 1));
    script.says("s", &birth("b2", 1));
    assert!(script.says("s", &will("b1", 1)).is_empty());
    assert_eq!(script.says("s", &will("b2", 1)), ["store offline", "forget acme:cam-1"]);
    assert!(script.raw("sedge/1/d/acme:cam-1/s", b"", false).is_empty());
    let mut resumed = Script(Session::default());
    resumed.0.resume(device("cam-1"), &birth("b2", 5), true);
    assert!(resumed.0.speaks_json(&device("cam-1")));
    assert!(resumed.says("s", &birth("b2", 4)).is_empty());
}

#[test]
fn both_encodings_are_read_and_what_is_neither_is_refused_by_name() {
    let mut script = Script(Session::default());
    let status = birth("b1", 1).to_json().expect("valid");
    assert_eq!(script.raw("sedge/1/d/acme:cam-1/s", status.as_bytes(), true)[0], "store online");
    assert!(script.0.speaks_json(&device("cam-1")));
    for (topic, payload, expected) in [
        ("sedge/1/d/acme:cam-1/s", b"\xff".as_slice(), "refused: reading status"),
        ("sedge/1/d/acme:cam-1/r", b"\xa1", "refused: reading reported"),
        ("sedge/1/d/acme:cam-1/e", b"", "refused: reading event"),
        ("sedge/1/d/acme:cam-1/want", b"{}", "refused: reading want"),
        ("sedge/1/d/acme:cam-1/in/s", b"", "refused: devices do not publish there"),
        ("sedge/1/d/acme/s", b"", "refused: `sedge/1/d/acme/s` is not a topic"),
        ("sedge/1/x", b"", "refused: `sedge/1/x` is not a topic"),
        ("elsewhere", b"", "refused: `elsewhere` is not a topic"),
    ] {
        let said = script.raw(topic, payload, false);
        assert!(said.len() == 1 && said[0].starts_with(expected), "{topic}: {said:?}");
    }
    let large = vec![0xa0; 200_000];
    assert!(script.raw("sedge/1/d/acme:cam-1/r", &large, false)[0].contains("at most"));
}

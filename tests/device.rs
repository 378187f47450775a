//! A server and a device, each a process of its own, through good and bad updates and through kill after kill.

#![allow(clippy::print_stdout, reason = "what was measured is printed for whoever asks with --nocapture")]

#[path = "src/requirement.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]
mod requirement;
#[path = "src/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]
mod rig;

use requirement::missing;
use rig::{Device, Mosquitto, Publisher, Server, failure, json};
use serde_json::{Value, json as value};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const DEVICE: &str = "acme:pi";

/// Settings of a deployment that takes seconds.
fn quick(commit: Value) -> String {
    let shadow = value!({"samples_min": 20, "disagreement_max_permille": 300, "errors_max": 0});
    value!({"deployment": {"probation_s": 2, "shadow": shadow, "commit": commit}}).to_string()
}

struct Site {
    publisher: Publisher,
    server: Server,
    /// References by version: 1.0.0, 1.1.0.
    bundles: Vec<String>,
}

impl Site {
    fn new() -> Self {
        let publisher = Publisher::new();
        let server = Server::start(&publisher.path("data"));
        Self::with(publisher, server)
    }

    fn with(publisher: Publisher, server: Server) -> Self {
        let (first, second) = (publisher.pack("v1"), publisher.pack("v2"));
        publisher.release(&[&first, &second]);
        json(&mut server.command(&["project", "create", "acme", "--repository", &publisher.repository()]));
        let bundles = publisher.publish(&server, "acme", &[&first, &second]);
        Self { publisher, server, bundles }
    }

    fn device(&self, more: &str) -> Device {
        Device::enrol(&self.server, "acme", "pi", &self.publisher.path("pi"), more)
    }

    /// The new generation.
    fn run(&self, bundle: &str, settings: &str) -> u64 {
        let mut command = self.server.command(&["device", "run", DEVICE, "digits", bundle, "--settings", settings]);
        json(&mut command)["generation"].as_u64().expect("a generation")
    }

    fn ended(&self, generation: u64) -> Value {
        self.server.until_ended(DEVICE, "digits", generation)
    }

    /// A device that runs version 1.
    fn running(&self, more: &str) -> Device {
        let mut device = self.device(more);
        device.start();
        let generation = self.run(&self.bundles[0], &quick(value!("auto")));
        assert_eq!(self.ended(generation)["state"], "committed");
        device
    }
}

fn digest(bundle: &str) -> &str {
    bundle.split_once('@').expect("a reference").1
}

/// Settled on exactly one bundle, which all say: the device, its results, and the server.
fn assert_settled(device: &Device, report: &Value) {
    // An agent that has just started may not serve yet.
    device.next_result();
    let digits = device.status()["components"]["digits"].take();
    assert_eq!(digits["active"], digits["serving"], "{digits}");
    // A report that an agent brings again after its start may come before its worker serves.
    assert!(report["running"].is_null() || digits["active"] == report["running"], "{digits} {report}");
    assert_eq!(digits["parked"], false);
    assert_eq!(device.next_result()["bundle"], digits["active"]);
}

#[test]
fn a_device_follows_goes_back_at_once_and_refuses_what_is_bad() {
    let site = Site::new();
    let mut device = site.device("");
    device.start();
    device.until_logged(&["the line is up"]);
    let generation = site.run(&site.bundles[0], &quick(value!("auto")));
    assert_eq!(site.ended(generation)["state"], "committed");
    assert_eq!(device.next_result()["bundle"], digest(&site.bundles[0]));

    // One agent for one state directory, and one identity.
    let (code, why) = failure(&mut device.command(&["run"]));
    assert!(code == 1 && why.contains("another agent runs"), "{code} {why}");

    let generation = site.run(&site.bundles[1], &quick(value!("auto")));
    let report = site.ended(generation);
    assert_eq!(
        (report["state"].as_str(), report["running"].as_str()),
        (Some("committed"), Some(digest(&site.bundles[1])))
    );
    assert_settled(&device, &report);

    // Held for a verdict, and sent back by somebody at the device: the old worker is warm.
    let generation = site.run(&site.bundles[0], &quick(value!({"held": {"deadline_s": 60}})));
    device.until_logged(&["phase=probation", &format!("generation={generation}")]);
    while device.next_result()["bundle"] != digest(&site.bundles[0]) {}
    let asked = Instant::now();
    json(&mut device.command(&["rollback", "digits"]));
    let report = site.ended(generation);
    println!("asked to go back and reported: {} ms", asked.elapsed().as_millis());
    assert_eq!(report["state"], "reverted");
    assert_eq!(report["error"]["code"], "E_OPERATOR");
    assert_settled(&device, &report);
    let results = device.results();
    let last_of = |bundle: &str| results.iter().rposition(|r| r["bundle"] == digest(bundle)).expect("it served");
    let last = last_of(&site.bundles[0]);
    let gap =
        |field: &str| results[last + 1][field].as_u64().expect(field) - results[last][field].as_u64().expect(field);
    println!("going back to the warm worker: {} ms between two samples that come every 20 ms", gap("ts_ms"));
    assert_eq!(gap("seq"), 1, "no sample is lost");

    // What arrives from a store that was changed behind the server's back.
    for place in fs::read_dir(site.server.data().join("artifacts/chunks")).expect("chunks").flatten() {
        for chunk in fs::read_dir(place.path()).expect("chunks").flatten() {
            let mut bytes = fs::read(chunk.path()).expect("a chunk");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(chunk.path(), bytes).expect("changed");
        }
    }
    let generation = site.run(&site.bundles[0], &quick(value!("auto")));
    let report = site.ended(generation);
    assert_eq!(
        (report["state"].as_str(), report["error"]["code"].as_str()),
        (Some("rejected"), Some("E_DIGEST_MISMATCH"))
    );
    assert_settled(&device, &report);

    // Signed by everybody, and not what it promises: the golden samples tell.
    let wrong = site.publisher.path("wrong");
    copy(&Path::new(rig::DIGITS).join("v1"), &wrong);
    break_golden(&wrong);
    let packed = site.publisher.pack_directory("wrong", &wrong);
    site.publisher.release(&[&packed]);
    let bundles = site.publisher.publish(&site.server, "acme", &[&packed]);
    let wrong = bundles.iter().find(|b| !site.bundles.contains(b)).expect("the new one");
    let generation = site.run(wrong, &quick(value!("auto")));
    let report = site.ended(generation);
    assert_eq!(
        (report["state"].as_str(), report["error"]["code"].as_str()),
        (Some("reverted"), Some("E_GOLDEN_FAILED"))
    );
    assert_settled(&device, &report);

    // Its own commands, and its end.
    let lines = json(&mut device.command(&["logs", "--lines", "5"]))["lines"].as_array().map(Vec::len);
    assert_eq!(lines, Some(5));
    let log = device.stop();
    assert!(!log.contains("PRIVATE"), "{log}");
    let status = device.status();
    assert_eq!((&status["agent_running"], &status["connected"]), (&Value::Bool(false), &Value::Bool(false)));
    let (code, why) = failure(&mut device.command(&["decommission"]));
    assert!(code == 1 && why.contains("--yes"), "{why}");
    json(&mut device.command(&["decommission", "--yes"]));
    let (code, why) = failure(&mut device.command(&["run"]));
    assert!(code == 1 && why.contains("not enrolled"), "{code} {why}");
    site.server.stop();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// A bundle that promises for one image what the model finds in another.
fn break_golden(bundle: &Path) {
    fs::copy(bundle.join("golden/3.png"), bundle.join("golden/8.png")).expect("copied");
    let manifest = fs::read_to_string(bundle.join("bundle.toml")).expect("a manifest");
    let processors = Path::new(rig::DIGITS).join("../../runtime/processors").canonicalize().expect("processors");
    let manifest = manifest
        .replace("version = \"1.0.0\"", "version = \"1.9.0\"")
        .replace("../../../runtime/processors", &processors.display().to_string());
    fs::write(bundle.join("bundle.toml"), manifest).expect("written");
}

/// Lets a device update, kills something at the n-th time that it writes a step down, and looks what comes of it; for
/// every n until an update is through without having met it.
fn kill_at_every_step(name: &str, kill: impl Fn(&mut Site, &mut Device)) {
    let mut site = Site::new();
    let mut device = site.running("");
    let (mut target, mut kills) = (1, 0);
    'steps: for nth in 1.. {
        let generation = site.run(&site.bundles[target].clone(), &quick(value!("auto")));
        let this = format!("generation={generation} ");
        let mut phase = String::new();
        for _ in 0..nth {
            let line = device.until_logged(&["written down", &this]);
            phase = line.rsplit_once("phase=").expect("a phase").1.to_owned();
            if phase == "reported" {
                break 'steps;
            }
        }
        kill(&mut site, &mut device);
        kills += 1;
        let report = site.ended(generation);
        println!("{name} killed in step {nth} ({phase}): {}", report["state"]);
        assert!(report["state"] == "committed" || report["state"] == "reverted", "{report}");
        assert_settled(&device, &report);
        // What does not run is the next to be tried.
        target = usize::from(device.next_result()["bundle"] == digest(&site.bundles[0]));
    }
    assert!(kills >= 10, "only {kills} steps were seen");
}

#[test]
fn an_agent_that_is_killed_at_any_step_ends_committed_or_reverted() {
    kill_at_every_step("agent", |_, device| {
        device.kill();
        device.start();
    });
}

#[test]
fn a_worker_that_is_killed_at_any_step_ends_committed_or_reverted() {
    kill_at_every_step("workers", |_, device| device.kill_workers());
}

#[test]
fn a_server_that_is_killed_at_any_step_changes_nothing_about_the_end() {
    kill_at_every_step("server", |site, _| site.server.kill_and_restart());
}

#[test]
fn a_download_goes_on_where_it_was() {
    let mut site = Site::new();
    let mut device = site.running("[download]\nbytes_per_s_max = 60000");
    let have = |device: &Device| device.status()["components"]["digits"]["waiting"]["download"]["have_bytes"].as_u64();
    let generation = site.run(&site.bundles[1], &quick(value!("auto")));
    let until = |device: &Device, least: u64| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match have(device) {
                Some(bytes) if bytes >= least => return bytes,
                other => assert!(Instant::now() < deadline, "{other:?} of {least} bytes"),
            }
        }
    };
    let before = until(&device, 1);
    device.kill();
    device.start();
    device.until_logged(&["the line is up"]);
    let after = until(&device, before);
    // So with a server that is gone in the middle of it.
    site.server.kill_and_restart();
    let last = until(&device, after);
    println!("bytes when the agent was killed: {before}, when the server was: {after}, after that: {last}");
    let report = site.ended(generation);
    assert_eq!(report["state"], "committed");
    assert_settled(&device, &report);
}

#[test]
fn on_mosquitto_a_device_follows_and_outlives_the_broker() {
    if Mosquitto::is_missing() {
        return missing("mosquitto (`apt-get install mosquitto`)");
    }
    let publisher = Publisher::new();
    let (port, data) = (Mosquitto::port(), publisher.path("data"));
    let server = Server::beside(&data, port);
    let mut broker = Mosquitto::start(&publisher.path("mosquitto"), port, &data.join("pki"));
    let site = Site::with(publisher, server);
    let mut device = site.running("");
    let generation = site.run(&site.bundles[1], &quick(value!({"held": {"deadline_s": 120}})));
    device.until_logged(&["phase=probation", &format!("generation={generation} ")]);
    // Nothing that happens meanwhile is lost: the device goes back, and says so when there is a broker again.
    broker.stop();
    device.until_logged(&["the line is down"]);
    json(&mut device.command(&["rollback", "digits"]));
    assert_eq!(device.next_result()["bundle"], digest(&site.bundles[0]));
    broker.restart();
    let report = site.ended(generation);
    assert_eq!(report["state"], "reverted");
    assert_settled(&device, &report);
    device.stop();
    site.server.stop();
}

//! One update from the console to a device and back, in the order in which docs/ARCHITECTURE.md walks it: console, HTTP
//! interface, planner, stored plan, desired state, the device's deployment, download, verification, inactive slot, trial,
//! probation, commit, reported state, and the same row of the console.

#[path = "src/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]
mod rig;

use rig::{Device, Publisher, Server, json};
use serde_json::{Value, json as value};
use std::fs;
use std::sync::Arc;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// The console, as a browser has it.
struct Console {
    agent: Agent,
    url: String,
    cookie: String,
}

impl Console {
    /// Signs in with the link that the server wrote at its first start: a page with one button, and the button.
    fn open(server: &Server) -> Self {
        let root = fs::read(server.data().join("pki/root.pem")).expect("the authority");
        let authority = Certificate::from_pem(&root).expect("PEM").to_owned();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(vec![authority])))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent: Agent =
            Agent::config_builder().tls_config(tls).max_redirects(0).http_status_as_error(false).build().into();
        let link = fs::read_to_string(server.data().join("login-link")).expect("the link");
        let (link, url) = (link.trim().to_owned(), server.url().to_owned());
        let path = link.split_once("/login/").expect("a link").1;
        let here = format!("{url}/login/{path}");
        let mut page = agent.get(&here).call().expect("the page");
        assert!(page.body_mut().read_to_string().expect("a page").contains("Sign in"));
        let answer = agent.post(&here).header("origin", &url).send_form([("", "")]).expect("an answer");
        assert_eq!(answer.status(), 303);
        let cookie = answer.headers()["set-cookie"].to_str().expect("text").split(';').next().expect("a cookie");
        Self { cookie: cookie.to_owned(), agent, url }
    }

    /// The text of the project's page without tags.
    fn page(&self) -> String {
        let request = self.agent.get(format!("{}/projects/acme", self.url)).header("cookie", &self.cookie);
        let mut answer = request.call().expect("the console");
        assert_eq!(answer.status(), 200);
        let html = answer.body_mut().read_to_string().expect("a page");
        let texts = html.split('<').filter_map(|part| Some(part.split_once('>')?.1));
        texts.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn from_the_console_to_a_device_and_back() {
    let publisher = Publisher::new();
    let server = Server::start(&publisher.path("data"));
    let (first, second) = (publisher.pack("v1"), publisher.pack("v2"));
    publisher.release(&[&first, &second]);
    json(&mut server.command(&["project", "create", "acme", "--repository", &publisher.repository()]));
    let bundles = publisher.publish(&server, "acme", &[&first, &second]);
    let digest = |n: usize| bundles[n].split_once('@').expect("a reference").1.to_owned();
    let mut device = Device::enrol(&server, "acme", "pi", &publisher.path("pi"), "");
    device.start();
    let deployment = value!({"probation_s": 2, "shadow": {
        "samples_min": 20, "disagreement_max_permille": 400, "errors_max": 0
    }});
    let settings = value!({"deployment": deployment});
    json(server.command(&["device", "run", "acme:pi", "digits", &bundles[0], "--settings"]).arg(settings.to_string()));
    assert_eq!(server.until_ended("acme:pi", "digits", 1)["state"], "committed");
    let slot = |device: &Device| device.status()["components"]["digits"]["slot"].clone();
    let before = slot(&device);

    // The console shows the fleet before; then somebody declares a rollout over HTTP.
    let console = Console::open(&server);
    let page = console.page();
    assert!(page.contains("digits 1.0.0"), "{page}");
    let rollout = value!({
        "project": "acme", "component": "digits", "bundle": "digits", "digest": digest(1), "settings": settings,
        "rest": {"soak_s": 2, "success_min_permille": 1000, "deadline_s": 100},
        "criteria": [{"metric": "accuracy", "limit_permille": 800, "samples_min": 50}],
    });
    let file = publisher.path("rollout.json");
    fs::write(&file, rollout.to_string()).expect("written");
    let file = file.display().to_string();
    let planned = json(&mut server.command(&["rollout", "start", &file, "--dry-run"]));
    json(&mut server.command(&["rollout", "start", &file, "--id", "better"]));
    assert_eq!(planned["waves"][0]["members"], value!(["pi"]), "{planned}");
    // The plan is stored, under a digest that an approval would sign.
    let status = |server: &Server| json(&mut server.command(&["rollout", "status", "acme:better"]));
    let stored = status(&server);
    assert!(stored["plan_digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{stored}");

    // The director signs the device's next generation; the agent follows it, step by step, and says whose it is.
    device.until_logged(&["authorized", "generation=2"]);
    for phase in ["received", "authorized", "downloading", "staged", "trial", "probation"] {
        let line = device.until_logged(&["written down", &format!("phase={phase}")]);
        assert!(line.contains("device=acme:pi") && line.contains("generation=2"), "{line}");
        assert!(line.contains("rollout=\"better\""), "{line}");
    }
    let desired = json(&mut server.command(&["device", "show", "acme:pi"]))["state"].take();
    assert_eq!(desired["generation"], 2);
    // The wave is watched while the old worker stays warm; when the labels say that it is right, the verdict commits.
    device.until_logged(&["phase=committed"]);
    let report = server.until_ended("acme:pi", "digits", 2);
    assert_eq!((&report["state"], &report["running"]), (&value!("committed"), &value!(digest(1))));
    assert_ne!(slot(&device), before, "it was put together in the other slot");
    assert_eq!(device.next_result()["bundle"], digest(1));

    // And the same row of the console.
    let mut waiting = server.command(&["rollout", "status", "acme:better", "--wait", "--timeout", "60"]);
    let ended: Value = json(&mut waiting);
    assert_eq!(ended["state"], "completed", "{ended}");
    let page = console.page();
    assert!(page.contains("digits 1.1.0") && page.contains("completed"), "{page}");
    let row = page.rsplit_once(" pi ").map(|(_, row)| row.chars().take(120).collect::<String>());
    assert!(row.as_deref().is_some_and(|row| row.contains("1.1.0")), "{row:?} of {page}");
    assert_eq!(status(&server)["plan_digest"], stored["plan_digest"]);
    let told = json(&mut server.command(&["rollout", "history", "acme:better"]));
    assert!(told.to_string().contains("passed"), "{told}");
    device.stop();
    server.stop();
}

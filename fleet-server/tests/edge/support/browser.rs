//! Debian's Chromium without a window, driven by its debugging protocol over two pipes.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

/// How long one answer may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Browser {
    child: Child,
    requests: File,
    messages: mpsc::Receiver<Value>,
    session: String,
    number: u64,
    /// Events that came while something else was waited for.
    pub events: VecDeque<Value>,
    _dir: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    /// None where there is no Chromium, which is said.
    pub fn start() -> Option<Self> {
        if Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            let reason = "chromium is missing: apt-get install chromium";
            assert!(std::env::var_os("SEDGE_REQUIRE_ALL").is_none(), "{reason}");
            eprintln!("skipped: {reason}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (requests, answers) = (dir.path().join("requests"), dir.path().join("answers"));
        assert!(Command::new("mkfifo").args([&requests, &answers]).status().unwrap().success());
        // The shell makes the pipes the descriptors 3 and 4 that Chromium expects.
        let script = r#"exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage \
            --no-first-run --disable-background-networking --disable-component-update --hide-scrollbars \
            --ignore-certificate-errors --host-resolver-rules='MAP * ~NOTFOUND, EXCLUDE localhost' \
            --user-data-dir="$1/profile" --remote-debugging-pipe about:blank 3<"$1/requests" 4>"$1/answers""#;
        let child = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(dir.path())
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let requests = OpenOptions::new().write(true).open(requests).unwrap();
        let answers = File::open(answers).unwrap();
        let (sender, messages) = mpsc::channel();
        std::thread::spawn(move || {
            let mut answers = BufReader::new(answers);
            let mut bytes = Vec::new();
            while answers.read_until(0, &mut bytes).is_ok_and(|n| n > 0) {
                bytes.pop();
                if sender.send(serde_json::from_slice(&bytes).unwrap()).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
        let (session, events) = (String::new(), VecDeque::new());
        let mut browser = Self { child, requests, messages, session, number: 0, events, _dir: dir };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Network", "Log", "Runtime"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut request = json!({ "id": self.number, "method": method, "params": parameters });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        let mut bytes = serde_json::to_vec(&request).unwrap();
        bytes.push(0);
        self.requests.write_all(&bytes).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut message = self.receive(&request.to_string(), deadline);
            if message["id"] == json!(self.number) {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push_back(message);
        }
    }

    fn receive(&self, what: &str, deadline: Instant) -> Value {
        let left = deadline.saturating_duration_since(Instant::now());
        self.messages.recv_timeout(left).unwrap_or_else(|e| {
            let said = self.events.iter().filter(|event| {
                ["Log.entryAdded", "Runtime.exceptionThrown"].contains(&event["method"].as_str().unwrap_or(""))
            });
            panic!("{what}: {e}; the page said {:?}", said.map(Value::to_string).collect::<Vec<_>>())
        })
    }

    /// Waits for an event, which may have come already.
    fn event(&mut self, method: &str) {
        if let Some(at) = self.events.iter().position(|event| event["method"] == method) {
            self.events.remove(at);
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.receive(method, deadline);
            let found = message["method"] == method;
            self.events.push_back(message);
            if found {
                self.events.pop_back();
                return;
            }
        }
    }

    pub fn open(&mut self, url: &str) {
        self.loads(|browser| {
            let opened = browser.call("Page.navigate", json!({ "url": url }));
            assert!(opened["errorText"].is_null(), "{url}: {opened}");
        });
    }

    /// Does something that loads another page, and waits for that.
    pub fn loads(&mut self, act: impl FnOnce(&mut Self)) {
        self.events.retain(|event| event["method"] != "Page.loadEventFired");
        act(self);
        self.event("Page.loadEventFired");
    }

    /// The value of an expression.
    pub fn value(&mut self, expression: &str) -> Value {
        let parameters =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let mut answer = self.call("Runtime.evaluate", parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    pub fn text(&mut self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({}).innerText", json!(selector)));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Until a condition holds; each change of the page lets it be looked at.
    pub fn until(&mut self, condition: &str) {
        self.value(&format!(
            "new Promise(done => {{ const look = () => {{ if ({condition}) done(true); }}; \
             new MutationObserver(look).observe(document, \
             {{ subtree: true, childList: true, characterData: true, attributes: true }}); look(); }})"
        ));
    }

    pub fn size(&mut self, width: u32, height: u32, dark: bool) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = json!({ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [scheme] }));
    }

    /// The whole page as PNG.
    pub fn picture(&mut self, path: &Path) {
        self.shoot(path, true);
    }

    /// What is seen of it without scrolling.
    pub fn view(&mut self, path: &Path) {
        self.shoot(path, false);
    }

    fn shoot(&mut self, path: &Path, whole: bool) {
        let shot = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": whole }));
        let png = base64::prelude::BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::write(path, png).unwrap();
    }
}

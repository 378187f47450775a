//! Real processes, as people run them: the server, a publisher's commands, devices, and Mosquitto where it is installed.

use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub const DIGITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/digits");
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn sedge() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sedge"));
    for variable in
        ["SEDGE_TRUSTED_KEYS", "SEDGE_SERVER", "SEDGE_SERVER_CA", "SEDGE_TOKEN_FILE", "RUST_LOG", "SEDGE_LOG"]
    {
        command.env_remove(variable);
    }
    command
}

pub fn succeed(command: &mut Command) -> String {
    let out = command.output().expect("sedge starts");
    let stdout = String::from_utf8(out.stdout).expect("UTF-8");
    assert!(out.status.success(), "{command:?}: {stdout}{}", String::from_utf8_lossy(&out.stderr));
    stdout
}

pub fn json(command: &mut Command) -> Value {
    let stdout = succeed(command.args(["-o", "json"]));
    serde_json::from_str(stdout.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {stdout}"))
}

/// What a command says that fails.
pub fn failure(command: &mut Command) -> (i32, String) {
    let out = command.output().expect("sedge starts");
    (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// A port that was free a moment ago; the server must find devices at the same one after a restart.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// A process and the lines of its standard error.
struct Process {
    child: Child,
    lines: Receiver<String>,
    /// All lines that were read so far.
    log: String,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("sedge starts");
        let stderr = BufReader::new(child.stderr.take().expect("its log"));
        let (line, lines) = channel();
        std::thread::spawn(move || {
            for text in stderr.lines().map_while(Result::ok) {
                if line.send(text).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, log: String::new() }
    }

    /// The first line from here on for which `wanted` gives something.
    fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.log.push_str(&line);
                    self.log.push('\n');
                    if let Some(found) = wanted(&line) {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {what} for long: {}", self.log),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended before {what}: {}", self.log),
            }
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it as a service manager would, and gives all that it logged.
    fn stop(&mut self) -> String {
        let terminated = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(terminated.expect("kill starts").success());
        let status = self.child.wait().expect("it ends");
        while let Ok(line) = self.lines.recv() {
            self.log.push_str(&line);
            self.log.push('\n');
        }
        assert!(status.success(), "{}", self.log);
        std::mem::take(&mut self.log)
    }
}

impl Drop for Process {
    #[allow(clippy::print_stderr, reason = "what a failed test needs is what the process said")]
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            self.log.extend(self.lines.iter().flat_map(|line| [line, "\n".to_owned()]));
            eprintln!("{}", self.log);
        }
    }
}

/// A fleet server, at the same addresses from start to start.
pub struct Server {
    process: Process,
    url: String,
    data: PathBuf,
    config: PathBuf,
}

impl Server {
    /// With the broker in its own process.
    pub fn start(data: &Path) -> Self {
        let config = data.with_extension("toml");
        if !config.exists() {
            let (http, broker) = (free_port(), free_port());
            let settings = format!(
                "http = {{ listen = \"127.0.0.1:{http}\" }}\n\
                 broker = {{ embedded = {{ listen = \"127.0.0.1:{broker}\" }} }}\n"
            );
            fs::write(&config, settings).expect("written");
        }
        Self::with(data, &config)
    }

    /// With a broker elsewhere, at this port.
    pub fn beside(data: &Path, broker: u16) -> Self {
        let config = data.with_extension("toml");
        let settings = format!(
            "http = {{ listen = \"127.0.0.1:{}\" }}\n\
             broker = {{ external = {{ host = \"127.0.0.1\", port = {broker} }} }}\n",
            free_port()
        );
        fs::write(&config, settings).expect("written");
        Self::with(data, &config)
    }

    fn with(data: &Path, config: &Path) -> Self {
        let mut command = sedge();
        command.args(["server", "--config"]).arg(config).arg("--data").arg(data);
        let mut process = Process::start(&mut command);
        let url = process.until("address", |line| {
            line.starts_with("https://").then(|| line.split_whitespace().next().unwrap_or_default().to_owned())
        });
        Self { process, url, data: data.to_owned(), config: config.to_owned() }
    }

    /// A command of sedge that speaks with it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = sedge();
        command.args(arguments).env("SEDGE_SERVER", &self.url);
        command.env("SEDGE_SERVER_CA", self.data.join("pki/root.pem"));
        command.env("SEDGE_TOKEN_FILE", self.data.join("admin-token"));
        command
    }

    /// Ends it as a service manager would, and gives what it logged.
    pub fn stop(mut self) -> String {
        self.process.stop()
    }

    /// As if the machine had lost power, and it were back.
    pub fn kill_and_restart(&mut self) {
        self.process.kill();
        let (data, config) = (self.data.clone(), self.config.clone());
        *self = Self::with(&data, &config);
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it last heard of a component: generation and report.
    pub fn reported(&self, device: &str, component: &str) -> Option<(u64, Value)> {
        let latest = json(&mut self.command(&["device", "show", device]))["state"]["reported"][component].take();
        Some((latest["generation"].as_u64()?, latest["report"].clone()))
    }

    /// Waits until it has stored the end of this generation, and gives the report.
    pub fn until_ended(&self, device: &str, component: &str, generation: u64) -> Value {
        const ENDS: [&str; 6] = ["committed", "reverted", "rejected", "cancelled", "expired", "quarantined"];
        let deadline = Instant::now() + PATIENCE;
        let mut last = Value::Null;
        while Instant::now() < deadline {
            match self.reported(device, component) {
                Some((found, report)) if found == generation && ENDS.iter().any(|end| report["state"] == *end) => {
                    return report;
                }
                other => last = other.map(|(_, report)| report).unwrap_or_default(),
            }
            // There is nothing to wait on: a command asks the server, as people do.
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("generation {generation} of {device} has no end: {last}\n{}", self.process.log);
    }
}

/// A publisher with one key for each role, and packed bundles.
pub struct Publisher {
    directory: tempfile::TempDir,
}

impl Publisher {
    pub fn new() -> Self {
        let this = Self { directory: tempfile::tempdir().expect("a directory") };
        for role in ["root", "targets", "refresh"] {
            succeed(sedge().args(["keys", "new"]).arg(this.path(role)));
        }
        let mut init = sedge();
        init.args(["publisher", "init"]).arg(this.path("repository"));
        for role in ["root", "targets", "refresh"] {
            init.arg(format!("--{role}-key")).arg(this.path(&format!("{role}.pub")));
        }
        succeed(&mut init);
        this.with_key("sign", "root");
        this
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn repository(&self) -> String {
        self.path("repository").display().to_string()
    }

    fn with_key(&self, verb: &str, role: &str) {
        let key = self.path(&format!("{role}.key"));
        succeed(sedge().args(["publisher", verb]).arg(self.path("repository")).arg("--key").arg(key));
    }

    pub fn pack(&self, version: &str) -> PathBuf {
        self.pack_directory(version, &Path::new(DIGITS).join(version))
    }

    pub fn pack_directory(&self, name: &str, directory: &Path) -> PathBuf {
        let packed = self.path(&format!("{name}.tar"));
        succeed(sedge().args(["bundle", "build"]).arg(directory).arg("--to").arg(&packed));
        packed
    }

    /// Says that packed bundles exist.
    pub fn release(&self, packed: &[&Path]) {
        for packed in packed {
            succeed(sedge().args(["publisher", "release"]).arg(self.path("repository")).arg(packed));
        }
        self.with_key("sign", "targets");
        self.with_key("refresh", "refresh");
    }

    /// Hands bundles to a server, and gives the references of all that it has then, by version.
    pub fn publish(&self, server: &Server, project: &str, packed: &[&Path]) -> Vec<String> {
        let repository = self.repository();
        let mut command = server.command(&["project", "publish", project, "--repository", &repository]);
        json(command.args(packed));
        let bundles = json(&mut server.command(&["project", "bundles", project]));
        let mut bundles = bundles.as_array().cloned().unwrap_or_default();
        bundles.sort_by_key(|b| b["version"].to_string());
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        bundles.iter().map(|b| format!("{}@{}", text(&b["name"]), text(&b["digest"]))).collect()
    }
}

/// A device: the agent in a process of its own, over the digits that a camera sees.
pub struct Device {
    process: Option<Process>,
    directory: PathBuf,
}

impl Device {
    /// Enrols it. `more` is added to its configuration.
    pub fn enrol(server: &Server, project: &str, name: &str, directory: &Path, more: &str) -> Self {
        fs::create_dir_all(directory).expect("made");
        let token = directory.join("token");
        json(server.command(&["device", "token", project, "--device", name]).arg("--to").arg(&token));
        let config = format!(
            "state_dir = \"{here}/state\"\nhealth_interval_s = 1\n{more}\n\
             [component.digits.source.camera]\nkind = \"replay\"\ndirectory = \"{DIGITS}/images/field\"\n\
             rate_per_s = 50.0\n\
             [component.digits.sink.file]\nkind = \"file\"\npath = \"{here}/results.jsonl\"\n\
             [component.digits.sink.server]\nkind = \"mqtt\"\n",
            here = directory.display()
        );
        fs::write(directory.join("agent.toml"), config).expect("written");
        let device = Self { process: None, directory: directory.to_owned() };
        json(device.command(&["enrol"]).arg(&token).args(["--device", name]));
        device
    }

    /// A command of `sedge-agent`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = sedge();
        command.args(["internal", "agent"]).args(arguments);
        command.arg("--config").arg(self.directory.join("agent.toml"));
        command
    }

    pub fn start(&mut self) {
        assert!(self.process.is_none(), "it runs");
        self.process = Some(Process::start(&mut self.command(&["run"])));
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    pub fn pid(&mut self) -> u32 {
        self.process().child.id()
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    pub fn stop(&mut self) -> String {
        self.process.take().expect("it runs").stop()
    }

    /// Every process that the agent has started.
    pub fn workers(&mut self) -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
        let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let text: Vec<String> = tasks.into_iter().flatten().flatten().map(children).collect();
        text.iter().flat_map(|text| text.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
    }

    pub fn kill_workers(&mut self) {
        for worker in self.workers() {
            // It may be gone already.
            let _ = Command::new("kill").args(["-9", &worker.to_string()]).stderr(Stdio::null()).status();
        }
    }

    /// Waits for a line of its log that contains all of these.
    pub fn until_logged(&mut self, parts: &[&str]) -> String {
        let wanted = |line: &str| parts.iter().all(|part| line.contains(part)).then(|| line.to_owned());
        self.process().until(&format!("{parts:?}"), wanted)
    }

    pub fn status(&self) -> Value {
        json(&mut self.command(&["status"]))
    }

    /// All results so far, oldest first; what was cut off by a kill is left out.
    pub fn results(&self) -> Vec<Value> {
        let mut text = String::new();
        if let Ok(mut file) = fs::File::open(self.directory.join("results.jsonl")) {
            file.read_to_string(&mut text).expect("readable");
        }
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until a sample that was taken from now on is answered, and gives its result.
    pub fn next_result(&self) -> Value {
        let before = self.results().len();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(last) = self.results().split_off(before).pop() {
                return last;
            }
            // A file is all there is to look at.
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no result for long: {:?}", self.process.as_ref().map(|p| &p.log));
    }
}

/// Mosquitto, with the access table that the protocol crate writes.
pub struct Mosquitto {
    child: Child,
    directory: PathBuf,
}

impl Mosquitto {
    /// With this server's authority, in a directory of its own.
    pub fn start(directory: &Path, port: u16, pki: &Path) -> Self {
        fs::create_dir_all(directory).expect("made");
        let server: sedge_protocol::id::ServerName = "main".parse().expect("a name");
        let tenancy = sedge_protocol::topic::Tenancy::OneProject;
        let acl = sedge_protocol::topic::mosquitto_acl(&[server], tenancy);
        fs::write(directory.join("acl"), acl).expect("written");
        let config = format!(
            "listener {port} 127.0.0.1\ncafile {root}\ncertfile {server}\nkeyfile {server}\nrequire_certificate true\n\
             use_identity_as_username true\nallow_anonymous false\nacl_file {here}/acl\npersistence true\n\
             persistence_location {here}/\nlog_dest file {here}/log\nuser root\n",
            root = pki.join("root.pem").display(),
            server = pki.join("server.pem").display(),
            here = directory.display(),
        );
        fs::write(directory.join("conf"), config).expect("written");
        Self { child: Self::spawn(directory), directory: directory.to_owned() }
    }

    fn spawn(directory: &Path) -> Child {
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(directory.join("conf")).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("mosquitto starts")
    }

    pub fn port() -> u16 {
        free_port()
    }

    pub fn is_missing() -> bool {
        Command::new("mosquitto").arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn restart(&mut self) {
        self.stop();
        self.child = Self::spawn(&self.directory);
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.stop();
    }
}

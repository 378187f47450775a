//! A fleet server as people run it: the real process, steered by the real command.

use sedge_protocol::enrolment::EnrolmentToken;
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

const DIGITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/digits");

fn sedge() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sedge"));
    for variable in ["SEDGE_TRUSTED_KEYS", "SEDGE_SERVER", "SEDGE_SERVER_CA", "SEDGE_TOKEN_FILE", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command
}

fn succeed(command: &mut Command) -> String {
    let out = command.output().expect("sedge starts");
    let stdout = String::from_utf8(out.stdout).expect("UTF-8");
    assert!(out.status.success(), "{command:?}: {stdout}{}", String::from_utf8_lossy(&out.stderr));
    stdout
}

fn json(command: &mut Command) -> Value {
    let stdout = succeed(command.args(["-o", "json"]));
    serde_json::from_str(stdout.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {stdout}"))
}

/// What a command says that fails.
fn failure(command: &mut Command) -> (i32, String) {
    let out = command.output().expect("sedge starts");
    (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stderr).into_owned())
}

struct Server {
    child: Child,
    stderr: BufReader<ChildStderr>,
    url: String,
    data: PathBuf,
}

impl Server {
    /// Starts it on free ports and waits until it serves.
    fn start(data: &Path) -> Self {
        let config = data.with_extension("toml");
        let settings = "http = { listen = \"127.0.0.1:0\" }\nbroker = { embedded = { listen = \"127.0.0.1:0\" } }\n";
        fs::write(&config, settings).expect("written");
        let mut child = sedge()
            .args(["server", "--config"])
            .arg(&config)
            .arg("--data")
            .arg(data)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("its log"));
        let mut log = String::new();
        let url = loop {
            let from = log.len();
            assert!(stderr.read_line(&mut log).expect("its log") > 0, "the server ended: {log}");
            if let Some(rest) = log[from..].strip_prefix("https://") {
                break format!("https://{}", rest.split_whitespace().next().expect("an address"));
            }
        };
        Self { child, stderr, url, data: data.to_owned() }
    }

    /// A command of sedge that speaks with it.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = sedge();
        command.args(arguments).env("SEDGE_SERVER", &self.url);
        command.env("SEDGE_SERVER_CA", self.data.join("pki/root.pem"));
        command.env("SEDGE_TOKEN_FILE", self.data.join("admin-token"));
        command
    }

    /// Ends it as a service manager would, and gives what it logged since.
    fn stop(mut self) -> String {
        let terminated = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(terminated.expect("kill starts").success());
        let mut log = String::new();
        std::io::Read::read_to_string(&mut self.stderr, &mut log).expect("its log");
        assert!(self.child.wait().expect("it ends").success(), "{log}");
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A publisher with one key for each role, and packed bundles.
struct Publisher {
    directory: tempfile::TempDir,
}

impl Publisher {
    fn new() -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn repository(&self) -> String {
        self.path("repository").display().to_string()
    }

    fn with_key(&self, verb: &str, role: &str) {
        let key = self.path(&format!("{role}.key"));
        succeed(sedge().args(["publisher", verb]).arg(self.path("repository")).arg("--key").arg(key));
    }

    fn pack(&self, version: &str) -> PathBuf {
        let packed = self.path(&format!("{version}.tar"));
        succeed(sedge().args(["bundle", "build"]).arg(Path::new(DIGITS).join(version)).arg("--to").arg(&packed));
        packed
    }

    /// Says that a packed bundle exists.
    fn release(&self, packed: &Path) {
        succeed(sedge().args(["publisher", "release"]).arg(self.path("repository")).arg(packed));
        self.with_key("sign", "targets");
        self.with_key("refresh", "refresh");
    }
}

#[test]
fn a_project_begins_takes_bundles_and_invites_devices() {
    let publisher = Publisher::new();
    let (first, second) = (publisher.pack("v1"), publisher.pack("v2"));
    publisher.release(&first);
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
    publisher.release(&second);
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

//! The demo's processes: a fleet server and devices, started and spoken to as anybody would. What a person would type is
//! what runs here.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How long anything here may take before the demo gives up and shows the log.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How much of a log is shown then.
const LOG_BYTES: u64 = 4_000;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether somebody has pressed Ctrl-C, or asked the demo to end.
pub(super) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// From here on Ctrl-C ends the demo in good order: processes first, files last.
pub(super) fn watch_for_interrupts() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("waiting for signals")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let wait = |kind| signal(kind).context("waiting for signals");
        (wait(SignalKind::interrupt())?, wait(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// This program, with nothing of the caller's environment that would make it speak with another server.
pub(super) fn sedge() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("looking up this program")?);
    for variable in ["SEDGE_TRUSTED_KEYS", "SEDGE_SERVER", "SEDGE_SERVER_CA", "SEDGE_TOKEN_FILE", "SEDGE_AGENT_CONFIG"]
    {
        command.env_remove(variable);
    }
    Ok(command)
}

/// Runs a command to its end and gives the JSON that it prints.
pub(super) fn ask(command: &mut Command) -> Result<Value> {
    let out = command.args(["-o", "json"]).stdin(Stdio::null()).output().context("starting sedge")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let value: Value = text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    if out.status.success() {
        return Ok(value);
    }
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let why =
        value["message"].as_str().map_or_else(|| String::from_utf8_lossy(&out.stderr).into_owned(), str::to_owned);
    bail!("`sedge {}` failed: {}", arguments.join(" "), why.trim())
}

/// A process whose log is a file; it is killed when this goes.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(super) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        Ok(Self { name: name.to_owned(), child: child.context("starting sedge")?, log: log.to_owned() })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the process is gone, and says what it said last.
    pub(super) fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait().context("looking after a process")? else { return Ok(()) };
        bail!("{} ended ({status}); its log ends with\n{}", self.name, self.end_of_log())
    }

    pub(super) fn end_of_log(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|e| format!("{}: {e}", self.log.display()))
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) process: Process,
    pub(super) url: String,
    pub(super) broker: String,
    pub(super) data: PathBuf,
}

impl Server {
    /// Starts it on free ports of loopback.
    pub(super) fn start(work: &Path) -> Result<Self> {
        let (config, data) = (work.join("server.toml"), work.join("server"));
        let settings = "http = { listen = \"127.0.0.1:0\" }\nbroker = { embedded = { listen = \"127.0.0.1:0\" } }\n";
        fs::write(&config, settings).with_context(|| config.display().to_string())?;
        let mut command = sedge()?;
        command.args(["server", "--config"]).arg(&config).arg("--data").arg(&data);
        let mut process = Process::start("the server", &mut command, &work.join("server.log"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = process.log();
            let line = log.lines().find(|line| line.starts_with("https://"));
            let words: Option<(&str, &str)> = line.and_then(|line| line.split_once(" and MQTT at "));
            if let Some((url, rest)) = words {
                let broker = rest.split(',').next().unwrap_or_default().to_owned();
                return Ok(Self { url: url.to_owned(), broker, data, process });
            }
            process.check()?;
            if Instant::now() > deadline {
                bail!("the server does not start; its log ends with\n{}", process.end_of_log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A command of sedge that speaks with it.
    pub(super) fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Command> {
        let mut command = sedge()?;
        command.args(arguments).env("SEDGE_SERVER", &self.url);
        command.env("SEDGE_SERVER_CA", self.data.join("pki/root.pem"));
        command.env("SEDGE_TOKEN_FILE", self.data.join("admin-token"));
        Ok(command)
    }

    /// Its interface, for what is asked often.
    pub(super) fn api(&self) -> Result<crate::api::Server> {
        crate::api::Server::new(&self.url, &self.data.join("pki/root.pem"), &self.data.join("admin-token"))
    }
}

/// A device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) directory: PathBuf,
    pub(super) process: Process,
}

impl Device {
    /// Enrols it with a token of its own, and starts its agent.
    pub(super) fn start(server: &Server, project: &str, name: &str, work: &Path, config: &str) -> Result<Self> {
        let directory = work.join("devices").join(name);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let (token, file) = (directory.join("token"), directory.join("agent.toml"));
        let settings = format!("state_dir = {:?}\n{config}", directory.join("state"));
        fs::write(&file, settings).with_context(|| file.display().to_string())?;
        ask(server.command(["device", "token", project, "--device", name, "--to"])?.arg(&token))?;
        let mut enrol = sedge()?;
        enrol.args(["internal", "agent", "enrol", "--device", name, "--config"]).arg(&file).arg(&token);
        ask(&mut enrol)?;
        let mut run = sedge()?;
        run.args(["internal", "agent", "run", "--config"]).arg(&file);
        let process = Process::start(name, &mut run, &directory.join("agent.log"))?;
        Ok(Self { name: name.to_owned(), directory, process })
    }

    /// Results of its models, oldest first, from a place in the file on.
    pub(super) fn results(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.join("results.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

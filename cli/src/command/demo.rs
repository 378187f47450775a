//! `sedge demo`: a fleet on this machine, each part a process of its own: bad bundles are refused, a better version rolls
//! out in waves, and a bad one goes back by itself.

mod pipeline;
mod publisher;
mod refusals;
mod rollouts;
mod site;

use crate::output::{self, OutputArguments};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use publisher::{Bundle, Publisher};
use serde_json::{Value, json};
use site::{Device, PATIENCE, Server, ask};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The demo's project.
const PROJECT: &str = "demo";
/// Its component.
const COMPONENT: &str = "digits";
/// Images a second that each device's camera takes.
const RATE_PER_S: u32 = 10;
/// Of a thousand images, those for which somebody says later what they show, and how much later.
const LABELLED_PERMILLE: u16 = 500;
const LABEL_DELAY_MS: u32 = 1_000;

/// Starts a fleet server with its broker and devices, all as processes of their own on loopback: real TLS with a
/// certificate for each device, a real model over real images. Needs no network, no container and no other service, and
/// leaves nothing behind.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// How many devices.
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u16).range(8..=200))]
    devices: u16,
    /// Keep the files (settings, keys, logs, results) in this directory, which must not exist yet.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// End when the story is told, and leave no console to look at.
    #[arg(long)]
    exit: bool,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Subcommand)]
enum What {
    /// One bundle on this machine, without a fleet: accuracy, latency, and what the sandbox costs.
    Pipeline(pipeline::Arguments),
}

impl Arguments {
    pub(crate) fn format(&self) -> output::Format {
        match &self.what {
            Some(What::Pipeline(arguments)) => arguments.output.output,
            None => self.output.output,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.what {
        Some(What::Pipeline(arguments)) => pipeline::run(arguments),
        None => fleet(arguments),
    }
}

/// Where the story is told: to people on standard output, or beside the JSON.
#[derive(Clone, Copy)]
struct Teller {
    json: bool,
}

impl Teller {
    fn say(self, text: impl std::fmt::Display) {
        if self.json { output::note(text) } else { output::line(text) }
    }

    fn heading(self, text: &str) {
        self.say(format!("\n{}", output::bold(text)));
    }
}

/// The demo's fleet.
struct Fleet {
    // Devices go first, so that the server hears them leave.
    devices: Vec<Device>,
    publisher: Publisher,
    server: Server,
    api: crate::api::Server,
    tell: Teller,
}

impl Fleet {
    /// Waits until something is there, and sees to it that all processes live.
    fn until<T>(&mut self, what: &str, look: impl FnMut(&mut Self) -> Result<Option<T>>) -> Result<T> {
        self.until_within(PATIENCE.as_secs(), what, look)
    }

    fn until_within<T>(
        &mut self,
        seconds: u64,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if site::interrupted() {
                bail!("interrupted");
            }
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            self.server.process.check()?;
            self.devices.iter_mut().try_for_each(|device| device.process.check())?;
            if Instant::now() > deadline {
                let log = self.server.process.end_of_log();
                bail!("{what} takes longer than {seconds} s; the server's log ends with\n{log}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The latest report of a device's component that answers this generation.
    fn reported(&self, device: &str, generation: u64) -> Result<Option<Value>> {
        let state = self.api.get(&format!("projects/{PROJECT}/devices/{device}/state"))?;
        let latest = &state["reported"][COMPONENT];
        Ok((latest["generation"] == generation).then(|| latest["report"].clone()))
    }

    /// Gives a device a bundle; its new generation.
    fn desire(&self, device: &str, bundle: &Bundle, settings: &Value) -> Result<u64> {
        let path = format!("projects/{PROJECT}/devices/{device}/desired/{COMPONENT}");
        let body = json!({"bundle": COMPONENT, "digest": bundle.digest, "settings": settings});
        self.api.put(&path, &body)?["generation"].as_u64().context("the server gave no generation")
    }

    /// Waits for the end of a generation on a device.
    fn ended(&mut self, device: &str, generation: u64) -> Result<Value> {
        const ENDS: [&str; 6] = ["committed", "reverted", "rejected", "cancelled", "expired", "quarantined"];
        self.until(&format!("generation {generation} on {device}"), |fleet| {
            let report = fleet.reported(device, generation)?;
            Ok(report.filter(|report| ENDS.iter().any(|end| report["state"] == *end)))
        })
    }
}

/// How long each stage may take here: everything is near, and nobody wants to wait.
fn settings(disagreement_max_permille: u16) -> Value {
    let shadow = json!({"samples_min": 20, "disagreement_max_permille": disagreement_max_permille, "errors_max": 0});
    json!({"deployment": {"probation_s": 3, "shadow": shadow}})
}

fn fleet(arguments: &Arguments) -> Result<ExitCode> {
    let tell = Teller { json: arguments.output.output.is_json() };
    site::watch_for_interrupts()?;
    let temporary = tempfile::tempdir().context("making a directory for the demo")?;
    let work = match &arguments.keep {
        Some(directory) => {
            fs::create_dir(directory).with_context(|| format!("--keep {}", directory.display()))?;
            directory.canonicalize().with_context(|| directory.display().to_string())?
        }
        None => temporary.path().to_owned(),
    };
    let began = Instant::now();
    let mut fleet = begin(&work, arguments.devices, tell)?;
    let first = install(&mut fleet)?;
    let refused = refusals::run(&mut fleet, &first)?;
    let (rolled, accuracy) = rollouts::story(&mut fleet, &first.bundle)?;
    let took_s = began.elapsed().as_secs_f64();
    tell.say(format!("\nall of it took {took_s:.0} s"));
    if tell.json {
        output::json(&json!({
            "result": "ok",
            "devices": fleet.devices.len(),
            "first_result_s": first.first_result_s,
            "refused": refused,
            "rollouts": rolled,
            "accuracy": accuracy,
            "took_s": took_s,
        }))?;
    }
    if !arguments.exit {
        stay(&mut fleet)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Leaves the fleet running for whoever wants to look around.
fn stay(fleet: &mut Fleet) -> Result<()> {
    let link = ask(&mut fleet.server.command(["server", "login-link"])?)?;
    let tell = fleet.tell;
    tell.heading("Look around: it all goes on until Ctrl-C");
    tell.say(format!("console      {}", link["url"].as_str().unwrap_or_default()));
    tell.say("             (opens once; your browser does not know the demo's certificate authority and will say so)");
    tell.say(format!(
        "tools        export SEDGE_SERVER={} SEDGE_SERVER_CA={} SEDGE_TOKEN_FILE={}",
        fleet.server.url,
        fleet.server.data.join("pki/root.pem").display(),
        fleet.server.data.join("admin-token").display()
    ));
    while !site::interrupted() {
        fleet.server.process.check()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Server, publisher, project and devices.
fn begin(work: &Path, count: u16, tell: Teller) -> Result<Fleet> {
    tell.heading("A fleet server, and devices that enrol once");
    let server = Server::start(work)?;
    tell.say(format!("server       {} (process {}), broker at {}", server.url, server.process.id(), server.broker));
    let publisher = Publisher::new(work)?;
    ask(server.command(["project", "create", PROJECT, "--repository"])?.arg(publisher.repository()))?;
    tell.say("publisher    signs offline with keys that the server never sees");
    let api = server.api()?;
    let mut fleet = Fleet { devices: Vec::new(), publisher, server, api, tell };
    let progress = output::progress(count.into(), "enrolling");
    for number in 1..=count {
        let name = format!("cam-{number:02}");
        let directory = work.join("devices").join(&name);
        let config = format!(
            "code_dir = {code:?}\nmodels_dir = {models:?}\nhealth_interval_s = 1\n\
             [component.{COMPONENT}.source.camera]\nkind = \"replay\"\ndirectory = {images:?}\n\
             rate_per_s = {RATE_PER_S}.0\nlabel_share_permille = {LABELLED_PERMILLE}\nlabel_delay_ms = {LABEL_DELAY_MS}\n\
             [component.{COMPONENT}.sink.file]\nkind = \"file\"\npath = {results:?}\n\
             [component.{COMPONENT}.sink.server]\nkind = \"mqtt\"\n",
            code = work.join("code"),
            models = work.join("models"),
            images = fleet.publisher.digits.join("images/field"),
            results = directory.join("results.jsonl"),
        );
        fleet.devices.push(Device::start(&fleet.server, PROJECT, &name, work, &config)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    let names = match &fleet.devices[..] {
        [only] => format!("{} (process {})", only.name, only.process.id()),
        devices => format!("{} of them, a process each", devices.len()),
    };
    tell.say(format!("devices      {names}: a key that never leaves the device, a certificate for it, mutual TLS"));
    Ok(fleet)
}

/// What the first installation showed.
struct First {
    bundle: Bundle,
    first_result_s: f64,
}

/// Publishes a bundle and gives it to every device.
fn install(fleet: &mut Fleet) -> Result<First> {
    let tell = fleet.tell;
    tell.heading("A first bundle: signed, published, downloaded over MQTT, tried, committed");
    let packed = fleet.publisher.release(&["v1"])?;
    let bundles = fleet.publisher.publish(&fleet.server, PROJECT, &packed)?;
    let bundle = bundles.first().cloned().context("the server has no bundle")?;
    tell.say(format!("published    digits {} ({} bytes), {}", bundle.version, bundle.bytes, bundle.digest));
    let began = Instant::now();
    let names: Vec<String> = fleet.devices.iter().map(|device| device.name.clone()).collect();
    let mut ordered = Vec::new();
    for name in &names {
        ordered.push((name.clone(), fleet.desire(name, &bundle, &settings(1000))?));
    }
    let progress = output::progress(ordered.len(), "installing");
    let mut first_result_s = None;
    for (name, generation) in &ordered {
        fleet.until("the first prediction", |fleet| {
            let device = fleet.devices.iter().find(|device| device.name == *name);
            Ok(device.filter(|device| !device.results().is_empty()).map(drop))
        })?;
        first_result_s.get_or_insert_with(|| began.elapsed().as_secs_f64());
        let report = fleet.ended(name, *generation)?;
        if report["state"] != "committed" {
            bail!("{name} did not take digits {}: {report}", bundle.version);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    let first_result_s = first_result_s.unwrap_or_default();
    let results: Vec<Value> = fleet.devices.iter().flat_map(Device::results).collect();
    tell.say(format!(
        "installed    first prediction after {first_result_s:.1} s, all golden samples held, committed after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    for result in results.iter().take(3) {
        let best = &result["predictions"][0]["labels"][0];
        tell.say(format!(
            "predicts     {} is a {} ({:.0} % sure), {} us",
            result["name"].as_str().unwrap_or_default(),
            best["label"].as_str().unwrap_or("?"),
            best["score"].as_f64().unwrap_or_default() * 100.0,
            result["latency_us"]
        ));
    }
    Ok(First { bundle, first_result_s })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let place = || from.display().to_string();
    fs::create_dir_all(to).with_context(place)?;
    for entry in fs::read_dir(from).with_context(place)? {
        let entry = entry.with_context(place)?;
        let target = to.join(entry.file_name());
        if entry.file_type().with_context(place)?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target).with_context(place)?;
        }
    }
    Ok(())
}

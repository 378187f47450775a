//! `sedge rollout`: one bundle's way through a fleet, in waves. A rollout is named `<project>:<rollout>`.

use super::project::tell;
use crate::api::{Server, ServerArguments};
use crate::output::{self, FINISHED_WITH_FAILURES, Format, OutputArguments, WAIT_TIMED_OUT};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sedge_fleet_server::rollout::RolloutSpec;
use sedge_protocol::id::{ProjectId, RolloutId};
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How often a rollout that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a server that does not answer is asked again while a rollout is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A rollout, `<project>:<rollout>`.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    project: ProjectId,
    rollout: RolloutId,
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((project, rollout)) = text.split_once(':') else {
            return Err(format!("`{text}` is not <project>:<rollout>; `sedge rollout history PROJECT` lists them"));
        };
        let project = project.parse().map_err(|e| format!("{e}"))?;
        Ok(Self { project, rollout: rollout.parse().map_err(|e| format!("{e}"))? })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.project, self.rollout)
    }
}

impl Name {
    fn place(&self) -> String {
        format!("projects/{}/rollouts/{}", self.project, self.rollout)
    }
}

/// A rollout that something is done to.
#[derive(Args)]
pub(crate) struct One {
    /// The rollout, `<project>:<rollout>`.
    rollout: Name,
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Begin a rollout that a file declares.
    ///
    /// The file is TOML, or JSON when its name ends in .json or `-` begins with a brace: project, component, bundle,
    /// digest, waves, criteria. `--dry-run` shows the waves with their devices, and why each other device takes no part.
    #[command(after_help = "Example:\n  sedge rollout start digits.toml --dry-run\n  \
        sedge rollout start digits.toml --wait --timeout 1800\n\n\
        Exit codes with --wait: 0 completed, 8 ended otherwise, 7 not ended in time.")]
    Start {
        /// The declaration; `-` reads standard input.
        file: PathBuf,
        /// Show what would happen and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Its id within the project, so that a repetition begins nothing twice.
        #[arg(long)]
        id: Option<RolloutId>,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Say where a rollout is, what it waits for, and why.
    #[command(
        after_help = "Exit codes: 0 under way or completed, 8 ended otherwise; with --wait also 7, not ended in time."
    )]
    Status {
        /// The rollout, `<project>:<rollout>`.
        rollout: Name,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Assign nothing more, and open no gate.
    Pause(One),
    /// Go on; devices that went back because no verdict reached them in time are asked again.
    Resume(One),
    /// End it, and bring every device back that it has touched.
    Abort {
        /// Leave what has committed; devices that have not are called back all the same.
        #[arg(long)]
        leave: bool,
        #[command(flatten)]
        one: One,
    },
    /// Let the wave begin that waits for somebody.
    Approve(One),
    /// List the rollouts of a project, newest first, or tell what happened to one.
    History {
        /// `<project>`, or `<project>:<rollout>`.
        of: String,
        /// Most lines.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
}

/// Whether to wait for the end.
#[derive(Args)]
pub(crate) struct Wait {
    /// Wait until it has ended; draws its waves on a terminal.
    #[arg(long)]
    wait: bool,
    /// Seconds to wait at most.
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    timeout: Option<u32>,
}

impl Command {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Start { output, .. } | Self::Status { output, .. } | Self::History { output, .. } => output.output,
            Self::Pause(one) | Self::Resume(one) | Self::Approve(one) | Self::Abort { one, .. } => one.output.output,
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    let format = command.format();
    match command {
        Command::Start { file, dry_run, id, wait, server, .. } => {
            let (project, spec) = declaration(file)?;
            let server = server.connect()?;
            let place = format!("projects/{project}/rollouts");
            if *dry_run {
                let plan = server.post(&format!("{place}?dry_run=true"), &spec)?;
                return tell(format, &plan, &planned(&plan));
            }
            let id = id.as_ref().map(|id| format!("?id={id}")).unwrap_or_default();
            let shown = server.post(&format!("{place}{id}"), &spec)?;
            let rollout = text(&shown["id"]).parse().context("the server sent no id of the rollout")?;
            let name = Name { project, rollout };
            if wait.wait {
                output::note(format!("{name} has begun"));
                return waited(&server, &name, wait, format);
            }
            let next = format!("sedge rollout status {name} --wait");
            tell(format, &shown, &[format!("{name} has begun"), sentence(&shown), format!("follow it with: {next}")])
        }
        Command::Status { rollout, wait, server, .. } => {
            let server = server.connect()?;
            if wait.wait {
                return waited(&server, rollout, wait, format);
            }
            let shown = server.get(&rollout.place())?;
            tell(format, &shown, &described(&shown))?;
            Ok(ended(&shown).unwrap_or(ExitCode::SUCCESS))
        }
        Command::Pause(one) => act(one, "pause", &json!({})),
        Command::Resume(one) => act(one, "resume", &json!({})),
        Command::Abort { leave, one } => act(one, "abort", &json!({"roll_back": !leave})),
        Command::Approve(one) => act(one, "approve-gate", &json!({})),
        Command::History { of, limit, server, .. } => history(of, *limit, server, format),
    }
}

fn act(one: &One, action: &str, body: &Value) -> Result<ExitCode> {
    let shown = one.server.connect()?.post(&format!("{}/{action}", one.rollout.place()), body)?;
    tell(one.output.output, &shown, &[sentence(&shown)])
}

/// The declaration as the server takes it; what makes no sense is told before anybody is asked.
fn declaration(file: &Path) -> Result<(ProjectId, Value)> {
    let mut read = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut read).context("standard input cannot be read")?;
    } else {
        read = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    }
    let json = file.extension().is_some_and(|e| e == "json") || read.trim_start().starts_with('{');
    let spec = if json { RolloutSpec::from_json(read.as_bytes()) } else { RolloutSpec::from_toml(&read) };
    let spec = spec.with_context(|| file.display().to_string())?;
    Ok((spec.project.clone(), serde_json::to_value(spec)?))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn sentence(shown: &Value) -> String {
    text(&shown["summary"]["sentence"])
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn planned(plan: &Value) -> Vec<String> {
    let mut lines: Vec<String> = list(&plan["waves"])
        .map(|wave| {
            let members: Vec<String> = list(&wave["members"]).take(12).map(text).collect();
            let more = if list(&wave["members"]).count() > members.len() { ", …" } else { "" };
            let gate = if wave["manual"] == true { ", after approval" } else { "" };
            format!("{}: {} devices{gate}: {}{more}", text(&wave["name"]), wave["devices"], members.join(", "))
        })
        .collect();
    for (device, why) in plan["skipped"].as_object().into_iter().flatten().take(100) {
        lines.push(format!("not {device}: {}", text(&why["reason"])));
    }
    lines.push(format!("{} devices take part; nothing was changed", plan["devices"]));
    lines
}

fn steps(wave: &Value) -> String {
    let some = list(&wave["steps"]).filter(|count| count["devices"] != 0);
    some.map(|count| format!("{} {}", count["devices"], text(&count["step"]))).collect::<Vec<_>>().join(", ")
}

fn described(shown: &Value) -> Vec<String> {
    let row = |wave: &Value| {
        vec![text(&wave["number"]), text(&wave["name"]), text(&wave["state"]), text(&wave["devices"]), steps(wave)]
    };
    let waves = list(&shown["summary"]["waves"]).map(row);
    vec![output::bold(sentence(shown)), output::table(&["wave", "name", "state", "devices", "of them"], waves)]
}

/// The exit code of a rollout that has ended.
fn ended(shown: &Value) -> Option<ExitCode> {
    match shown["outcome"].as_str()? {
        "completed" => Some(ExitCode::SUCCESS),
        _ => Some(ExitCode::from(FINISHED_WITH_FAILURES)),
    }
}

fn waited(server: &Server, name: &Name, wait: &Wait, format: Format) -> Result<ExitCode> {
    let begun = Instant::now();
    let mut drawing = Drawing::new();
    let mut answered = Instant::now();
    loop {
        let shown = match server.get(&name.place()) {
            Ok(shown) => shown,
            // A server that is restarted goes on with the rollout.
            Err(e) if answered.elapsed() > PATIENCE => return Err(e),
            Err(_) => {
                std::thread::sleep(LOOK_EVERY);
                continue;
            }
        };
        answered = Instant::now();
        drawing.show(&shown);
        let out_of_time = wait.timeout.is_some_and(|timeout| begun.elapsed() >= Duration::from_secs(timeout.into()));
        if let Some(code) = ended(&shown).or(out_of_time.then_some(ExitCode::from(WAIT_TIMED_OUT))) {
            drawing.clear();
            tell(format, &shown, &described(&shown))?;
            return Ok(code);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// One line for each wave on a terminal; elsewhere the sentence, whenever the state changes.
struct Drawing {
    all: MultiProgress,
    lines: Vec<ProgressBar>,
    said: String,
}

impl Drawing {
    fn new() -> Self {
        Self { all: MultiProgress::new(), lines: Vec::new(), said: String::new() }
    }

    fn show(&mut self, shown: &Value) {
        let summary = &shown["summary"];
        let states: Vec<String> = list(&summary["waves"]).map(|wave| text(&wave["state"])).collect();
        let said = format!("{} {}", text(&summary["state"]), states.join(" "));
        if !std::io::stderr().is_terminal() {
            if said != self.said {
                output::note(sentence(shown));
            }
            self.said = said;
            return;
        }
        for (number, wave) in list(&summary["waves"]).enumerate() {
            let total = wave["devices"].as_u64().unwrap_or(0);
            if self.lines.len() <= number {
                let style = ProgressStyle::with_template("{prefix:>12} [{bar:30}] {pos}/{len} {wide_msg}");
                let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
                let line = self.all.add(ProgressBar::new(total).with_style(style).with_prefix(text(&wave["name"])));
                self.lines.push(line);
            }
            let begun = list(&wave["steps"]).filter(|count| count["step"] != "not-started");
            if let Some(line) = self.lines.get(number) {
                line.set_length(total);
                line.set_position(begun.filter_map(|count| count["devices"].as_u64()).sum());
                line.set_message(format!("{}: {}", text(&wave["state"]), steps(wave)));
            }
        }
    }

    fn clear(&self) {
        self.lines.iter().for_each(ProgressBar::finish_and_clear);
    }
}

fn history(of: &str, limit: u16, server: &ServerArguments, format: Format) -> Result<ExitCode> {
    if of.contains(':') {
        let name: Name = of.parse().map_err(anyhow::Error::msg)?;
        let said = server.connect()?.get(&format!("{}/timeline?limit={limit}", name.place()))?;
        if format.is_json() {
            output::json(&said)?;
        } else {
            let row =
                |e: &Value| vec![time(&e["at_ms"]), e["actor"].as_str().unwrap_or("").to_owned(), text(&e["text"])];
            output::line(output::table(&["when", "who", "what"], list(&said["entries"]).map(row)));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let project: ProjectId = of.parse().with_context(|| format!("`{of}` is no project"))?;
    let page = server.connect()?.get(&format!("projects/{project}/rollouts?limit={limit}"))?;
    if page["rollouts"].as_array().is_none() {
        bail!("the server sent no list of rollouts");
    }
    if format.is_json() {
        output::json(&page)?;
    } else {
        let row = |r: &Value| {
            let name = format!("{project}:{}", text(&r["id"]));
            vec![name, text(&r["bundle"]), text(&r["state"]), time(&r["created_ms"]), text(&r["created_by"])]
        };
        output::line(output::table(&["rollout", "bundle", "state", "began", "by"], list(&page["rollouts"]).map(row)));
    }
    Ok(ExitCode::SUCCESS)
}

fn time(ms: &Value) -> String {
    let seconds = i64::try_from(ms.as_u64().unwrap_or(0) / 1000).unwrap_or(0);
    sedge_protocol::time::UnixSeconds(seconds).to_string()
}

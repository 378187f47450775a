//! How results and errors reach people and programs: data on standard output, everything else on standard error.

use clap::{Args, ValueEnum};
use sedge_runtime::BundleError;
use serde::Serialize;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

/// Exit codes; also in docs/cli.md.
pub(crate) const FAILED: u8 = 1;
pub(crate) const WAIT_TIMED_OUT: u8 = 7;
pub(crate) const FINISHED_WITH_FAILURES: u8 = 8;
pub(crate) const VERIFICATION_FAILED: u8 = 9;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs: one JSON object.
    Json,
}

#[derive(Args)]
pub(crate) struct OutputArguments {
    /// How results are printed.
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

impl Format {
    pub(crate) fn is_json(self) -> bool {
        self == Self::Json
    }
}

/// Prints one line for people on standard output.
pub(crate) fn line(text: impl std::fmt::Display) {
    // A reader that has gone away (`| head`) is no reason to panic.
    let _ = writeln!(anstream::stdout(), "{text}");
}

/// Prints one line of progress or advice on standard error.
pub(crate) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Prints one JSON value on one line.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string(value)?);
    Ok(())
}

/// Text in bold where colours are on; `anstream` strips it elsewhere and under `NO_COLOR`.
pub(crate) fn bold(text: impl std::fmt::Display) -> String {
    let style = anstyle::Style::new().bold();
    format!("{style}{text}{style:#}")
}

/// A progress bar on a terminal, nothing elsewhere.
pub(crate) fn progress(length: usize, what: &'static str) -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let template = "{msg:>12} [{bar:40}] {pos}/{len}";
    let style = indicatif::ProgressStyle::with_template(template)
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar())
        .progress_chars("=> ");
    indicatif::ProgressBar::new(length as u64).with_style(style).with_message(what)
}

/// A plain table with a header.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header.iter().copied());
    table.add_rows(rows);
    table.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A panic that becomes an error is told as that error, and only there.
pub(crate) fn report_panics_once() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !sedge_runtime::model::catches_panics() || std::env::var_os("RUST_BACKTRACE").is_some() {
            report(panic);
        }
    }));
}

/// The chain of causes in one line; a cause that its parent's text already tells is not repeated.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        if text.is_empty() {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// Help, the version, or what is wrong with the arguments; as JSON where the arguments ask for it.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let json_asked = arguments.windows(2).any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json")
        || arguments.iter().any(|a| a == "--output=json" || a == "-ojson" || a == "-o=json");
    if error.use_stderr() && json_asked {
        let text = error.to_string();
        let message: Vec<&str> = text.lines().take_while(|l| !l.starts_with("Usage:")).map(str::trim).collect();
        let message = message.join(" ").trim().trim_start_matches("error: ").to_owned();
        let _ = json(&serde_json::json!({"result": "error", "code": "usage", "message": message}));
    } else {
        // A reader that has gone away is no reason to panic.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Tells the error and gives the exit code.
pub(crate) fn report(format: Format, error: &anyhow::Error) -> ExitCode {
    let refused = error.chain().any(|cause| cause.downcast_ref().is_some_and(BundleError::is_refusal));
    let (code, exit) = if refused { ("verification_failed", VERIFICATION_FAILED) } else { ("failed", FAILED) };
    if format.is_json() {
        let _ = json(&serde_json::json!({"result": "error", "code": code, "message": chain(error)}));
    } else {
        let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
        note(format!("{style}error:{style:#} {}", chain(error)));
    }
    ExitCode::from(exit)
}

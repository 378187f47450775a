//! The `sedge-agent` command.

use sedge_runtime::sandbox::{MemoryProfile, compile_child};
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("worker") => sedge_agent::worker::run_worker(),
        Some("compile-processor") => compile_processor(arguments.next().as_deref()),
        _ => {
            say("usage: sedge-agent worker|compile-processor");
            ExitCode::from(2)
        }
    }
}

/// A component from standard input to native code on standard output.
fn compile_processor(profile: Option<&str>) -> ExitCode {
    let profile = match profile {
        Some("roomy") => MemoryProfile::Roomy,
        Some("tight") => MemoryProfile::Tight,
        _ => {
            say("usage: sedge-agent compile-processor roomy|tight");
            return ExitCode::from(2);
        }
    };
    match compile_child(profile) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    // Nobody to tell when this fails.
    let _ = writeln!(std::io::stderr(), "{text}");
}

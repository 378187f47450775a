//! The `sedge-agent` command.

use sedge_agent::worker::{WorkerProgram, run_worker};
use sedge_runtime::sandbox::{MemoryProfile, compile_child};
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    // These two are started by the agent itself, and come before anything that opens files or makes threads.
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("worker") => return run_worker(),
        Some("compile-processor") => return compile_processor(arguments.next().as_deref()),
        _ => {}
    }
    match WorkerProgram::this_program(&["worker"], &["compile-processor"]) {
        Ok(worker) => sedge_agent::cli::main(std::env::args_os(), &worker),
        Err(e) => fail(&format!("this program cannot find itself: {e}")),
    }
}

/// A component from standard input to native code on standard output.
fn compile_processor(profile: Option<&str>) -> ExitCode {
    let profile = match profile {
        Some("roomy") => MemoryProfile::Roomy,
        Some("tight") => MemoryProfile::Tight,
        _ => return fail("usage: sedge-agent compile-processor roomy|tight"),
    };
    match compile_child(profile) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e.to_string()),
    }
}

fn fail(text: &str) -> ExitCode {
    // Nobody to tell when this fails.
    let _ = writeln!(std::io::stderr(), "error: {text}");
    ExitCode::FAILURE
}

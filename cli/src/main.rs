//! The `sedge` command.

mod api;
mod chart;
mod command;
mod golden_npz;
mod measure;
mod output;
mod picture;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Run quantized models on edge devices: build, sign, check and run bundles.
///
/// A bundle is a signed model with its WebAssembly processors, labels, limits and golden samples. Start with
/// `sedge demo`, then `sedge bundle init --help`.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// See it work: a fleet server and devices on this machine, good updates and bad ones.
    Demo(command::demo::Arguments),
    /// Run a bundle over an image or a directory of samples.
    Run(command::run::Arguments),
    /// Measure a bundle or an ONNX model: latency, throughput, memory, and where the time goes.
    Bench(command::bench::Arguments),
    /// Make, check, sign and look into bundles.
    #[command(subcommand)]
    Bundle(command::bundle::Command),
    /// Make the keys that sign bundles.
    #[command(subcommand)]
    Keys(command::keys::Command),
    /// Say offline which bundles exist, so that no server can invent one.
    #[command(subcommand)]
    Publisher(command::publisher::Command),
    /// Run the fleet server: broker, certificate authority, update metadata, artifacts and HTTPS in one process.
    Server(command::server::Arguments),
    /// Hand a publisher's work to a fleet server.
    #[command(subcommand)]
    Project(command::project::Command),
    /// Enrol devices, see how they are, and say what they run.
    #[command(subcommand)]
    Device(command::device::Command),
    /// See all devices of a project together.
    #[command(subcommand)]
    Fleet(command::fleet::Command),
    /// Bring a bundle to a fleet in waves that stop and go back by themselves when it does harm.
    #[command(subcommand)]
    Rollout(command::rollout::Command),
    /// Build pre- and postprocessors as WebAssembly components.
    #[command(subcommand)]
    Processor(command::processor::Command),
    /// Used by sedge itself.
    #[command(subcommand, hide = true)]
    Internal(command::Internal),
}

fn main() -> ExitCode {
    // Before anything opens files or makes threads: a worker gives all of that up.
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("internal") && words.next().as_deref() == Some(command::WORKER) {
        return sedge_agent::worker::run_worker();
    }
    output::report_panics_once();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::usage(&error),
    };
    let (format, result) = match arguments.command {
        Command::Demo(a) => (a.format(), command::demo::run(&a)),
        Command::Run(a) => (a.output.output, command::run::run(&a)),
        Command::Bench(a) => (a.output.output, command::bench::run(&a)),
        Command::Bundle(c) => (c.format(), command::bundle::run(&c)),
        Command::Keys(c) => (c.format(), command::keys::run(&c)),
        Command::Publisher(c) => (c.format(), command::publisher::run(&c)),
        Command::Server(a) => (a.format(), command::server::run(&a)),
        Command::Project(c) => (c.format(), command::project::run(&c)),
        Command::Device(c) => (c.format(), command::device::run(&c)),
        Command::Fleet(c) => (c.format(), command::fleet::run(&c)),
        Command::Rollout(c) => (c.format(), command::rollout::run(&c)),
        Command::Processor(c) => (c.format(), command::processor::run(&c)),
        Command::Internal(c) => (output::Format::Table, command::internal(&c)),
    };
    match result {
        Ok(code) => code,
        Err(error) => output::report(format, &error),
    }
}

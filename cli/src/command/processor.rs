//! `sedge processor`: WebAssembly components from Rust crates.

use crate::output::{self, Format, OutputArguments};
use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use sedge_protocol::Sha256Digest;
use sedge_protocol::text::one_line;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Build a crate that exports a processor into a component.
    ///
    /// Uses the rustup target wasm32-unknown-unknown where it is installed, else Debian's toolchain
    /// (packages rustc-web, cargo-web, rust-web-src, lld-22), which builds the standard library itself.
    Build {
        /// Directory of the crate.
        #[arg(default_value = ".")]
        directory: PathBuf,
        /// Where the component goes.
        #[arg(long, value_name = "FILE.wasm")]
        to: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Make a component of a core module that carries wit-bindgen's type section.
    Componentize {
        /// The core module.
        module: PathBuf,
        /// Where the component goes.
        #[arg(long, value_name = "FILE.wasm")]
        to: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
}

impl Command {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Build { output, .. } | Self::Componentize { output, .. } => output.output,
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    let (component, to, compiler) = match command {
        Command::Build { directory, to, .. } => {
            let toolchain = Toolchain::find()?;
            let module = toolchain.build(directory)?;
            (componentize(&module)?, to, Some(toolchain.version()?))
        }
        Command::Componentize { module, to, .. } => (componentize(module)?, to, None),
    };
    std::fs::write(to, &component).with_context(|| format!("{} cannot be written", to.display()))?;
    let digest = Sha256Digest::of(&component);
    if command.format().is_json() {
        output::json(&json!({"component": to, "bytes": component.len(), "digest": digest, "compiler": compiler}))?;
    } else {
        output::line(format!("{} ({} bytes, {digest})", to.display(), component.len()));
    }
    Ok(ExitCode::SUCCESS)
}

fn componentize(module: &Path) -> Result<Vec<u8>> {
    let place = || module.display().to_string();
    let core = std::fs::read(module).with_context(|| format!("{} cannot be read", module.display()))?;
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&core)
        .and_then(|mut e| e.encode())
        .map_err(|e| anyhow::anyhow!(one_line(&format!("{e:#}"))))
        .with_context(place)
}

/// What compiles for wasm32-unknown-unknown here.
enum Toolchain {
    Rustup,
    Debian { linker: PathBuf },
}

const TARGET: &str = "wasm32-unknown-unknown";

impl Toolchain {
    fn find() -> Result<Self> {
        let sysroot = Process::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
        if let Ok(out) = sysroot
            && out.status.success()
            && Path::new(String::from_utf8_lossy(&out.stdout).trim()).is_dir()
        {
            return Ok(Self::Rustup);
        }
        let debian = Path::new("/usr/bin/rustc").exists() && Path::new("/usr/lib/rustlib/src/rust/library").exists();
        let linker = (14..40).rev().map(|v| PathBuf::from(format!("/usr/bin/wasm-ld-{v}"))).find(|p| p.exists());
        match linker {
            Some(linker) if debian => Ok(Self::Debian { linker }),
            _ => bail!(
                "nothing here compiles for {TARGET}: run `rustup target add {TARGET}`, \
                 or on Debian `apt-get install rustc-web cargo-web rust-web-src lld-22`"
            ),
        }
    }

    fn version(&self) -> Result<String> {
        self.ask("--version")
    }

    const fn rustc(&self) -> &'static str {
        match self {
            Self::Rustup => "rustc",
            Self::Debian { .. } => "/usr/bin/rustc",
        }
    }

    fn ask(&self, argument: &str) -> Result<String> {
        let out = Process::new(self.rustc()).args(argument.split(' ')).output().context(self.rustc())?;
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    /// Builds the crate and gives the path of its core module.
    fn build(&self, directory: &Path) -> Result<PathBuf> {
        let metadata = Process::new("cargo")
            .args(["metadata", "--format-version=1", "--no-deps", "--manifest-path"])
            .arg(directory.join("Cargo.toml"))
            .output()
            .context("cargo does not start")?;
        if !metadata.status.success() {
            bail!("{}: {}", directory.display(), String::from_utf8_lossy(&metadata.stderr).trim());
        }
        let metadata: serde_json::Value =
            serde_json::from_slice(&metadata.stdout).context("output of cargo metadata")?;
        let manifest = directory.join("Cargo.toml").canonicalize().with_context(|| directory.display().to_string())?;
        let package = metadata["packages"].as_array().into_iter().flatten();
        let mut package = package.filter(|p| p["manifest_path"].as_str().map(Path::new) == Some(&manifest));
        let name = package.next().and_then(|p| p["name"].as_str()).context("the crate has no name")?.to_owned();
        let target_directory =
            PathBuf::from(metadata["target_directory"].as_str().unwrap_or("target")).join("processors");
        let workspace = metadata["workspace_root"].as_str().unwrap_or("/");
        let mut cargo = match self {
            Self::Rustup => Process::new("cargo"),
            Self::Debian { linker } => {
                let mut cargo = Process::new("/usr/bin/cargo");
                let path = std::env::var("PATH").unwrap_or_default();
                cargo
                    .env("PATH", format!("/usr/bin:{path}"))
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
                cargo
            }
        };
        cargo.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo.args(["rustc", "--release", "--lib", "--crate-type", "cdylib", "--target", TARGET]).args(["-p", &name]);
        // Small, without names, and the same bytes wherever it is built.
        for setting in ["opt-level=3", "lto=\"fat\"", "codegen-units=1", "panic=\"abort\"", "strip=\"symbols\""] {
            cargo.args(["--config", &format!("profile.release.{setting}")]);
        }
        if matches!(self, Self::Debian { .. }) {
            cargo.arg("-Zbuild-std=std,panic_abort");
        }
        cargo
            .env("RUSTFLAGS", flags(workspace, &self.ask("--print sysroot")?))
            .env("CARGO_TARGET_DIR", &target_directory)
            .current_dir(directory);
        let status = cargo.status().context("cargo does not start")?;
        if !status.success() {
            bail!("building {name} failed; see above");
        }
        Ok(target_directory.join(TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_"))))
    }
}

/// SIMD on, and no path of this machine in the code.
fn flags(workspace: &str, sysroot: &str) -> String {
    let home = std::env::var("HOME").unwrap_or_default();
    let cargo_home = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    let library = format!("{sysroot}/lib/rustlib/src/rust");
    let mut flags = "-C target-feature=+simd128".to_owned();
    for (from, to) in [(workspace, "/sedge"), (cargo_home.as_str(), "/cargo"), (library.as_str(), "/rust")] {
        if !from.is_empty() {
            flags.push_str(&format!(" --remap-path-prefix={from}={to}"));
        }
    }
    flags
}

//! From WebAssembly to native code, and back into a process.
//!
//! Compiled code is as powerful as the process itself, and wasmtime checks only that it fits, not that it is harmless.
//! So [`CompiledCode`] carries the hash of its bytes: a caller that stores it records the hash where nobody else writes,
//! and gives it back to [`CompiledCode::from_recorded`]. [`super::CodeCache`] does.

use super::admission::{self, AdmissionError};
use super::{MemoryProfile, Sandbox, SandboxError};
use sedge_protocol::Sha256Digest;
use sedge_protocol::text::one_line;
use std::ffi::OsString;
use std::hash::{Hash as _, Hasher};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use wasmtime::Engine;
use wasmtime::component::Component;

/// Version of wasmtime in full. Its own check of precompiled code compares the major version only, so code from a
/// patch release with a miscompilation would load in the one that mends it.
pub const CODE_VERSION: &str = "48.0.8";
/// Bumped when this crate changes what is compiled into the code.
const CONFIG_VERSION: u32 = 1;
/// Memory and time of the compiling child; a component that needs more is refused.
const CHILD_MEMORY_BYTES: u64 = 2 << 30;
const CHILD_CPU_S: u64 = 60;
const CHILD_WALL: Duration = Duration::from_secs(120);
/// Native code of an 8 MiB component stays below this.
const CODE_BYTES_MAX: u64 = 256 << 20;

pub(super) fn code_version(profile: MemoryProfile) -> String {
    format!("{CODE_VERSION}+sedge{CONFIG_VERSION}-{profile}")
}

/// See [`Sandbox::code_fit`].
pub(super) fn fit(engine: &Engine, profile: MemoryProfile) -> Sha256Digest {
    /// What the engine would hash. `std`'s own hashers give 64 bits, and promise no value from build to build.
    struct Hashed(Vec<u8>);
    impl Hasher for Hashed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    let mut hashed = Hashed(format!("{}\n{arch}\n{os}\n", code_version(profile)).into_bytes());
    engine.precompile_compatibility_hash().hash(&mut hashed);
    Sha256Digest::of(&hashed.0)
}

/// Native code of one component for this machine and memory profile.
#[derive(Clone)]
pub struct CompiledCode {
    bytes: Vec<u8>,
    digest: Sha256Digest,
}

/// Where components are compiled.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// In this process. For tools; a hostile component can cost the process its memory or time.
    InProcess,
    /// In a child process with bounded memory and time, which runs [`compile_child`].
    Child {
        /// The program; its own executable, as a rule.
        program: PathBuf,
        /// Arguments that make it run [`compile_child`]; the memory profile's name is added.
        arguments: Vec<OsString>,
    },
}

/// Why a component could not be compiled or its code not loaded.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The component is refused.
    #[error(transparent)]
    Refused(#[from] AdmissionError),
    /// No engine.
    #[error(transparent)]
    Engine(#[from] SandboxError),
    /// The compiler rejects it.
    #[error("the component does not compile")]
    Compile(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The compiling child failed.
    #[error("the compiling process {0}")]
    Child(String),
    /// The code is not what was recorded.
    #[error("compiled code has digest {found}, but {recorded} was recorded; delete it and compile again")]
    Altered {
        /// The recorded digest.
        recorded: Sha256Digest,
        /// The digest of the bytes.
        found: Sha256Digest,
    },
    /// Code of another version, machine or profile.
    #[error("compiled code does not fit this runtime; compile it again")]
    Unfit(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Compiler {
    /// This program as the compiling child.
    ///
    /// # Errors
    /// When the operating system does not tell which program is running.
    pub fn this_program(arguments: &[&str]) -> std::io::Result<Self> {
        let arguments = arguments.iter().map(OsString::from).collect();
        // Linux's own link to the running program holds also after an update has replaced its file.
        let link = PathBuf::from("/proc/self/exe");
        let program = if link.exists() { link } else { std::env::current_exe()? };
        Ok(Self::Child { program, arguments })
    }

    /// Checks and compiles a component.
    ///
    /// # Errors
    /// [`CompileError`] when it is refused, rejected, or too costly to compile.
    pub fn compile(&self, wasm: &[u8], profile: MemoryProfile) -> Result<CompiledCode, CompileError> {
        admission::check_bytes(wasm)?;
        let bytes = match self {
            Self::InProcess => Sandbox::shared(profile)?
                .engine()
                .precompile_component(wasm)
                .map_err(|e| CompileError::Compile(e.into()))?,
            Self::Child { program, arguments } => {
                let mut command = Command::new(program);
                command.args(arguments).arg(profile.name());
                compile_in(command, wasm)?
            }
        };
        Ok(CompiledCode { digest: Sha256Digest::of(&bytes), bytes })
    }
}

impl CompiledCode {
    /// Code from storage, whose digest was recorded in a place that only this device's own processes write.
    ///
    /// # Errors
    /// [`CompileError::Altered`] when the bytes have another digest.
    ///
    /// # Safety
    /// The code will run with all rights of this process: `recorded` must be the [`CompiledCode::digest`] of code that
    /// this program compiled, kept where nobody else writes.
    pub unsafe fn from_recorded(bytes: Vec<u8>, recorded: Sha256Digest) -> Result<Self, CompileError> {
        let digest = Sha256Digest::of(&bytes);
        if digest != recorded {
            return Err(CompileError::Altered { recorded, found: digest });
        }
        Ok(Self { bytes, digest })
    }

    /// The bytes, for storage.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What to record beside them.
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Whether it loads in this process; nothing of it runs.
    ///
    /// # Errors
    /// [`CompileError::Unfit`] when it does not, [`CompileError::Engine`] when there is no engine.
    pub fn check(&self, profile: MemoryProfile) -> Result<(), CompileError> {
        self.load(Sandbox::shared(profile)?).map(drop)
    }

    pub(super) fn load(&self, sandbox: &Sandbox) -> Result<Component, CompileError> {
        // SAFETY: the bytes come from this process's or its child's compiler, or have the digest that the caller
        // recorded when they did; the two ways to make a `CompiledCode`.
        let component = unsafe { Component::deserialize(sandbox.engine(), &self.bytes) };
        component.map_err(|e| CompileError::Unfit(e.into()))
    }
}

fn compile_in(mut command: Command, wasm: &[u8]) -> Result<Vec<u8>, CompileError> {
    let failed = |what: &str, e: std::io::Error| CompileError::Child(format!("{what}: {e}"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed("could not be started", e))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (done, finished) = mpsc::channel();
    let outcome = std::thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut pipe) = stdin {
                // A child that has died reads no further; its exit status tells why.
                let _ = pipe.write_all(wasm);
            }
        });
        let errors = scope.spawn(move || {
            let mut text = Vec::new();
            if let Some(pipe) = stderr {
                let _ = pipe.take(4096).read_to_end(&mut text);
            }
            text
        });
        let code = scope.spawn(move || {
            let mut code = Vec::new();
            let read = match stdout {
                Some(pipe) => pipe.take(CODE_BYTES_MAX).read_to_end(&mut code),
                None => Ok(0),
            };
            let _ = done.send(());
            read.map(|_| code)
        });
        let in_time = finished.recv_timeout(CHILD_WALL).is_ok();
        if !in_time {
            let _ = child.kill();
        }
        let status = child.wait();
        (in_time, status, code.join(), errors.join().unwrap_or_default())
    });
    match outcome {
        (false, ..) => Err(CompileError::Child(format!("took more than {} s", CHILD_WALL.as_secs()))),
        (true, Ok(status), Ok(Ok(code)), _) if status.success() && !code.is_empty() => Ok(code),
        (true, Ok(status), _, errors) => {
            let text = one_line(String::from_utf8_lossy(&errors).trim());
            Err(CompileError::Child(format!(
                "ended with {status} (limits: {} MiB, {CHILD_CPU_S} s): {text}",
                CHILD_MEMORY_BYTES >> 20
            )))
        }
        (true, Err(e), ..) => Err(failed("could not be awaited", e)),
    }
}

/// What the compiling child does: a component from standard input, native code to standard output, with this
/// process's memory and processor time bounded first.
///
/// # Errors
/// [`CompileError`]; the caller prints it and exits with a failure.
pub fn compile_child(profile: MemoryProfile) -> Result<(), CompileError> {
    let failed = |e: std::io::Error| CompileError::Child(e.to_string());
    for (resource, limit) in
        [(libc::RLIMIT_CPU, CHILD_CPU_S), (libc::RLIMIT_DATA, CHILD_MEMORY_BYTES), (libc::RLIMIT_CORE, 0)]
    {
        let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `old` is a valid rlimit to write to, and outlives the call.
        let known = unsafe { libc::getrlimit(resource, &raw mut old) } == 0;
        // Whoever started this process may have set a lower limit, which cannot be raised.
        let limit = if known { old.rlim_max.min(limit as libc::rlim_t) } else { limit as libc::rlim_t };
        let new = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: `new` is a valid rlimit that outlives the call.
        if unsafe { libc::setrlimit(resource, &raw const new) } != 0 {
            let e = std::io::Error::last_os_error();
            return Err(CompileError::Child(format!("cannot bound its own resources to {limit}: {e}")));
        }
    }
    let mut wasm = Vec::new();
    let limit = admission::COMPONENT_BYTES_MAX as u64 + 1;
    std::io::stdin().lock().take(limit).read_to_end(&mut wasm).map_err(failed)?;
    let code = Compiler::InProcess.compile(&wasm, profile)?;
    let mut out = std::io::stdout().lock();
    out.write_all(code.bytes()).and_then(|()| out.flush()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_version_is_that_of_the_locked_wasmtime() {
        let lock = include_str!("../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"wasmtime\"\nversion = \"{CODE_VERSION}\"")), "bump CODE_VERSION");
        assert!(code_version(MemoryProfile::Roomy).len() <= 255);
    }

    #[test]
    fn fit_tells_memory_profiles_apart_and_is_the_same_each_time() {
        let config = |profile| super::super::config(profile).expect("valid");
        let of = |config, profile| fit(&Engine::new(&config).expect("an engine"), profile);
        let [roomy, tight] = [MemoryProfile::Roomy, MemoryProfile::Tight].map(|p| of(config(p), p));
        assert_eq!(roomy, of(config(MemoryProfile::Roomy), MemoryProfile::Roomy));
        assert_ne!(roomy, tight);
        // Also where only the engine's own settings differ.
        let mut other = config(MemoryProfile::Tight);
        other.wasm_simd(false);
        assert_ne!(of(other, MemoryProfile::Tight), tight);
    }

    #[test]
    fn altered_code_is_refused() {
        let recorded = Sha256Digest::of(b"code");
        // SAFETY: what is made here is not run.
        let read = |bytes: &[u8]| unsafe { CompiledCode::from_recorded(bytes.to_vec(), recorded) };
        assert!(read(b"code").is_ok());
        assert!(matches!(read(b"cOde"), Err(CompileError::Altered { .. })));
    }
}

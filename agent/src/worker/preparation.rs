//! What a worker does with a bundle before any of it runs: it verifies the bundle and gets its processors' code.
//!
//! All of this happens before [`super::Stage::Load`]: bundle and WebAssembly have been read, neither model nor guest has
//! run. So code that the agent is given from here, for its cache, is the compiler's and no guest's.

use super::main::{describe, show};
use super::message::{Component, Load};
use sedge_protocol::Sha256Digest;
use sedge_protocol::text::one_line;
use sedge_runtime::bundle::Trust;
use sedge_runtime::sandbox::{CACHED_CODE_BYTES_MAX, CodeKey, CompiledCode, Compiler, MemoryProfile, Sandbox};
use sedge_runtime::{PipelineOptions, VerifiedBundle};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;

/// Settings of a pipeline.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Threads for the model.
    threads: Option<u8>,
    /// Memory layout of the sandbox; probed when absent.
    sandbox_memory: Option<SandboxMemory>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SandboxMemory {
    Roomy,
    Tight,
}

/// A verified bundle whose processors are being compiled.
pub(super) struct Preparation(Prepared);

/// What it takes to load.
pub(super) struct Prepared {
    pub(super) bundle: VerifiedBundle,
    pub(super) options: PipelineOptions,
    /// Components that were compiled here.
    pub(super) compiled: u32,
}

impl Preparation {
    /// Reads settings and bundle.
    pub(super) fn of(load: &Load) -> Result<Self, String> {
        let settings = match &load.settings {
            serde_json::Value::Null => Settings::default(),
            given => Settings::deserialize(given).map_err(|e| one_line(&format!("settings: {e}")))?,
        };
        if settings.threads.is_some_and(|n| !(1..=64).contains(&n)) {
            return Err("settings: `threads` is not within 1 and 64".to_owned());
        }
        let bundle = VerifiedBundle::open(&load.bundle, &Trust::Digest(load.digest)).map_err(|e| describe(&e))?;
        let arguments: Vec<&str> = load.compile_arguments.iter().map(String::as_str).collect();
        let compiler = Compiler::this_program(&arguments).map_err(|e| format!("looking up this program: {e}"))?;
        let options = PipelineOptions {
            threads: settings.threads.unwrap_or(1).into(),
            profile: match settings.sandbox_memory {
                None => MemoryProfile::probe(),
                Some(SandboxMemory::Roomy) => MemoryProfile::Roomy,
                Some(SandboxMemory::Tight) => MemoryProfile::Tight,
            },
            compiler,
            code: HashMap::new(),
            grants_allowed: load.grants_allowed.clone(),
            log: Arc::new(show),
        };
        Ok(Self(Prepared { bundle, options, compiled: 0 }))
    }

    /// The components that need code.
    pub(super) fn components(&self) -> Result<Vec<Component>, String> {
        let mut components: Vec<Component> = Vec::new();
        for (file, wasm) in self.files()? {
            let digest = Sha256Digest::of(wasm);
            let sandbox = Sandbox::shared(self.0.options.profile).map_err(|e| describe(&e))?;
            let key = CodeKey::of(digest, sandbox.code_fit());
            if components.iter().all(|c| c.digest != digest) {
                components.push(Component { file: file.to_owned(), digest, key });
            }
        }
        Ok(components)
    }

    /// Compiles a component. Its code, or nothing where that is too long to be handed over.
    pub(super) fn compile(&mut self, component: Sha256Digest) -> Result<Vec<u8>, String> {
        let (file, wasm) = self.file(component)?;
        let options = &self.0.options;
        let compiled = options.compiler.compile(wasm, options.profile);
        let compiled = compiled.map_err(|e| format!("{file}: {}", describe(&e)))?;
        let bytes = if compiled.bytes().len() > CACHED_CODE_BYTES_MAX { Vec::new() } else { compiled.bytes().to_vec() };
        self.0.options.code.insert(component, compiled);
        self.0.compiled += 1;
        Ok(bytes)
    }

    /// Takes code that was compiled before.
    pub(super) fn take(
        &mut self,
        component: Sha256Digest,
        recorded: Sha256Digest,
        code: Vec<u8>,
    ) -> Result<(), String> {
        self.file(component)?;
        // SAFETY: code and digest come over the socket that the agent made, and no one else has its other end. The agent
        // has them from its `CodeCache`, which only gives what is recorded in a file and a directory that nobody but
        // this user can write to; and the agent writes there only what a worker has compiled before it ran a guest.
        let code = unsafe { CompiledCode::from_recorded(code, recorded) }.map_err(|e| describe(&e))?;
        // Here it can still be compiled instead.
        code.check(self.0.options.profile).map_err(|e| describe(&e))?;
        self.0.options.code.insert(component, code);
        Ok(())
    }

    /// Compiles what has no code yet.
    pub(super) fn finish(mut self) -> Result<Prepared, String> {
        for component in self.components()? {
            if !self.0.options.code.contains_key(&component.digest) {
                self.compile(component.digest)?;
            }
        }
        Ok(self.0)
    }

    fn files(&self) -> Result<Vec<(&str, &[u8])>, String> {
        let manifest = self.0.bundle.manifest();
        let files = [&manifest.preprocessor, &manifest.postprocessor].into_iter().filter_map(|p| p.file());
        files.map(|file| Ok((file, self.0.bundle.file(file).map_err(|e| describe(&e))?))).collect()
    }

    fn file(&self, component: Sha256Digest) -> Result<(&str, &[u8]), String> {
        let found = self.files()?.into_iter().find(|(_, wasm)| Sha256Digest::of(wasm) == component);
        found.ok_or_else(|| format!("the bundle has no component {component}"))
    }
}

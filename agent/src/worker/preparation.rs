//! What a worker does with a bundle before any guest of it runs: it verifies the bundle, gets its processors' code, and
//! readies its model.
//!
//! Code is seen to before [`super::Stage::Load`]: bundle and WebAssembly have been read, neither model nor guest has run. So
//! code that the agent is given from here, for its cache, is the compiler's and no guest's. The model is readied after it,
//! and before a guest runs: its saved form, which the agent may be given too, is what this program made of the model's
//! file. A file that betrayed this program on the way could forge what is opened in the place of that file, and nothing
//! else; and opening it runs no code of its.

use super::main::{describe, show};
use super::message::{Component, Load, SavedModel};
use sedge_protocol::Sha256Digest;
use sedge_protocol::text::one_line;
use sedge_runtime::bundle::Trust;
use sedge_runtime::model::{Check, SavedForm, SavedModelError};
use sedge_runtime::sandbox::{CACHED_CODE_BYTES_MAX, CodeKey, CompiledCode, Compiler, MemoryProfile, Sandbox};
use sedge_runtime::{Model, Pipeline, PipelineOptions, VerifiedBundle};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
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

/// A bundle whose model is ready, before its processors are.
pub(super) struct WithModel {
    pub(super) prepared: Prepared,
    pub(super) model: Model,
    /// Whether it was opened from its saved form, and why not where one was named.
    pub(super) from_saved: bool,
    pub(super) problem: Option<String>,
    /// For the agent to keep.
    pub(super) form: Option<SavedForm>,
}

impl Prepared {
    /// Opens the model from its saved form where one is named, or loads its file. The file's bytes are gone after this.
    pub(super) fn with_model(mut self, saved: Option<&Path>) -> Result<WithModel, String> {
        let problem = match saved.map(|path| self.open_saved(path)) {
            Some(Ok(model)) => {
                let file = self.bundle.variant().map_err(|e| describe(&e))?.file.clone();
                drop(self.bundle.take_file(&file));
                return Ok(WithModel { prepared: self, model, from_saved: true, problem: None, form: None });
            }
            Some(Err(problem)) => Some(problem),
            None => None,
        };
        let model = Pipeline::take_model(&mut self.bundle, &self.options).map_err(|e| describe(&e))?;
        Ok(WithModel { prepared: self, model, from_saved: false, problem, form: None })
    }

    fn model_digest(&self) -> Result<Sha256Digest, String> {
        self.bundle.variant().and_then(|v| self.bundle.digest_of(&v.file)).map_err(|e| describe(&e))
    }

    fn open_saved(&self, path: &Path) -> Result<Model, String> {
        let digest = self.model_digest()?;
        let options = Pipeline::model_options(&self.bundle, &self.options);
        let failed = |action, e| format!("{} cannot be {action}: {e}", path.display());
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|e| failed("opened", e))?;
        let about = file.metadata().map_err(|e| failed("opened", e))?;
        // SAFETY: geteuid reads a number and cannot fail.
        let own = about.uid() == unsafe { libc::geteuid() };
        if !about.is_file() || !own || about.mode() & 0o022 != 0 {
            return Err(format!("{} could be written by somebody else", path.display()));
        }
        // A sector that cannot be read is an error to who reads it, and the end of who has mapped it.
        std::io::copy(&mut &file, &mut std::io::sink()).map_err(|e| failed("read", e))?;
        // SAFETY: the path comes over the socket that the agent made, from its `ModelCache`: file and directory belong to
        // this user, and nobody else can write to them. The agent never writes to an entry, it renames whole ones into
        // place or removes them, and workers can write no file where system calls are filtered.
        let model = unsafe { Model::open_saved(&file, digest, &options, Check::Whole) };
        model.map_err(|e| format!("{}: {}", path.display(), describe(&e)))
    }
}

impl WithModel {
    /// Makes the saved form of a model that was loaded.
    pub(super) fn save(&mut self) {
        if self.from_saved {
            return;
        }
        let digest = self.prepared.model_digest();
        match digest.map(|digest| self.model.saved(digest)) {
            Ok(Ok(form)) => self.form = Some(form),
            // Not every model has one; that is no problem of this start.
            Ok(Err(SavedModelError::NotWhole { .. })) => {}
            Ok(Err(error)) => self.problem = Some(describe(&error)),
            Err(problem) => self.problem = Some(problem),
        }
    }
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

    /// The model that runs here.
    pub(super) fn model(&self) -> Result<SavedModel, String> {
        let Prepared { bundle, options, .. } = &self.0;
        let file = bundle.variant().map_err(|e| describe(&e))?.file.clone();
        let key = Model::saved_key(self.0.model_digest()?, &Pipeline::model_options(bundle, options));
        Ok(SavedModel { file, key })
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

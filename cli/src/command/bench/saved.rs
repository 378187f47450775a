//! How long a model takes to open from its saved form, which is made for this alone and removed at once.

use super::Arguments;
use crate::output;
use anyhow::{Context as _, Result, bail};
use sedge_protocol::Sha256Digest;
use sedge_runtime::model::{Check, SavedForm, SavedModelError};
use sedge_runtime::{Model, ModelOptions};
use serde_json::{Value, json};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What opening took.
pub(super) struct Opened {
    pub(super) load: Duration,
    bytes: u64,
}

impl Opened {
    pub(super) fn json(&self) -> Value {
        json!({"load_ms": crate::measure::ms(self.load), "bytes": self.bytes})
    }
}

/// Saves a loaded model and opens it again; nothing for one that has no saved form.
pub(super) fn measure(model: &Model, file: Sha256Digest, options: &ModelOptions) -> Result<Option<Opened>> {
    let mut kept = tempfile::tempfile().context("a temporary file cannot be made")?;
    match model.saved(file) {
        Ok(form) => write(model, &form, &mut kept)?,
        Err(SavedModelError::NotWhole { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let bytes = kept.metadata().context("a temporary file cannot be looked at")?.len();
    let (_, load) = open(&kept, file, options)?;
    Ok(Some(Opened { load, bytes }))
}

/// What `--save-to` asks for: this process's load leaves no trace in the memory of the one that opens the file.
pub(super) fn save(arguments: &Arguments, to: &Path) -> Result<ExitCode> {
    let path = &arguments.subject;
    let bytes = super::read(path)?;
    let file = Sha256Digest::of(&bytes);
    let model = Model::load_owned(bytes, &arguments.model_options()).with_context(|| path.display().to_string())?;
    let form = model.saved(file).with_context(|| path.display().to_string())?;
    write(&model, &form, &mut File::create(to).with_context(|| format!("{} cannot be written", to.display()))?)?;
    output::line(file);
    Ok(ExitCode::SUCCESS)
}

/// A model from a saved form that another process makes, and how long it took to open.
pub(super) fn of_another_process(arguments: &Arguments) -> Result<(Model, Duration)> {
    let kept = tempfile::NamedTempFile::new().context("a temporary file cannot be made")?;
    let mut command = Command::new(std::env::current_exe().context("looking up this program")?);
    command.arg("bench").arg(&arguments.subject).arg("--save-to").arg(kept.path());
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("this program cannot be run")?;
    if !done.status.success() {
        bail!("{} was not saved", arguments.subject.display());
    }
    let file = String::from_utf8_lossy(&done.stdout).trim().parse().context("what was saved has no digest")?;
    open(kept.as_file(), file, &arguments.model_options())
}

fn write(model: &Model, form: &SavedForm, to: &mut File) -> Result<()> {
    let mut to = BufWriter::new(to);
    form.write_to(model, &mut to).context("the saved form cannot be written")?;
    to.into_inner().map_err(|e| e.into_error()).context("the saved form cannot be written")?;
    Ok(())
}

fn open(kept: &File, file: Sha256Digest, options: &ModelOptions) -> Result<(Model, Duration)> {
    let began = Instant::now();
    // SAFETY: a temporary file that this process made, readable and writable for its user alone. It and the child that it
    // has awaited are the only ones that know of it, and neither writes to it any more.
    let model = unsafe { Model::open_saved(kept, file, options, Check::Head) };
    Ok((model.context("the saved form does not open")?, began.elapsed()))
}

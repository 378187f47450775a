//! `sedge publisher`: the offline half of the update metadata, kept as a directory of files.
//!
//! Nothing here needs a network. Keys come in one at a time, so that several people sign on machines that never meet:
//! the directory travels between them, on a stick or in a repository.

use crate::output::{self, Format, OutputArguments};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::repository::{PublisherRepository, TrustedKeys, Validity};
use sedge_protocol::uptane::{Kind, Release};
use sedge_protocol::{Version, tuf};
use sedge_runtime::VerifiedBundle;
use sedge_runtime::bundle::Trust;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_S: i64 = 24 * 3600;
/// Larger files are no metadata.
const FILE_BYTES_MAX: u64 = 8 << 20;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start a repository: say which keys vouch for what.
    ///
    /// Root keys vouch for all keys; keep them offline, apart from each other, and ask for more than one with
    /// --root-threshold. Targets keys vouch for bundles. Refresh keys say what is newest; they may lie on a build machine.
    /// A server that is broken into has none of them.
    Init(Init),
    /// Add a packed bundle to what exists, as a draft that the targets keys then sign.
    Release {
        /// The repository.
        directory: PathBuf,
        /// The packed bundle, a .tar file.
        bundle: PathBuf,
        /// Refuse to run versions older than this one from now on, also when going back.
        #[arg(long, value_name = "VERSION")]
        floor: Option<Version>,
        /// How long the list of bundles is valid.
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
        valid_days: u16,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Sign all that waits for signatures of this key.
    Sign {
        /// The repository.
        directory: PathBuf,
        /// The secret key.
        #[arg(long, value_name = "NAME.key")]
        key: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Say that what is signed is the newest: writes snapshot and timestamp. To be repeated before they expire.
    Refresh {
        /// The repository.
        directory: PathBuf,
        /// The refresh key.
        #[arg(long, value_name = "NAME.key", required = true)]
        key: Vec<PathBuf>,
        /// How long until devices must have seen a newer timestamp.
        #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=365))]
        valid_days: u16,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Show versions, dates, bundles, and which signatures are missing.
    Status {
        /// The repository.
        directory: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
}

#[derive(Args)]
pub(crate) struct Init {
    /// Directory to write to; made when it is not there.
    directory: PathBuf,
    /// Key that vouches for all keys; give several.
    #[arg(long, value_name = "NAME.pub", required = true)]
    root_key: Vec<PathBuf>,
    /// How many of the root keys must sign.
    #[arg(long, value_name = "N", default_value_t = 1)]
    root_threshold: u64,
    /// Key that vouches for bundles; give several.
    #[arg(long, value_name = "NAME.pub", required = true)]
    targets_key: Vec<PathBuf>,
    /// How many of the targets keys must sign.
    #[arg(long, value_name = "N", default_value_t = 1)]
    targets_threshold: u64,
    /// Key that says what is newest.
    #[arg(long, value_name = "NAME.pub", required = true)]
    refresh_key: Vec<PathBuf>,
    /// How long the root is valid.
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
    valid_days: u16,
    #[command(flatten)]
    output: OutputArguments,
}

impl Command {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Init(Init { output, .. })
            | Self::Release { output, .. }
            | Self::Sign { output, .. }
            | Self::Refresh { output, .. }
            | Self::Status { output, .. } => output.output,
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    let format = command.format();
    match command {
        Command::Init(arguments) => init(arguments),
        Command::Release { directory, bundle, floor, valid_days, .. } => {
            release(directory, bundle, floor.as_ref(), *valid_days, format)
        }
        Command::Sign { directory, key, .. } => sign(directory, key, format),
        Command::Refresh { directory, key, valid_days, .. } => refresh(directory, key, *valid_days, format),
        Command::Status { directory, .. } => status(&open(directory)?, directory, &[], format),
    }
}

/// The clock of whoever publishes; devices do not trust it, they trust signatures and the dates in them.
pub(crate) fn now() -> Result<UnixSeconds> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("this machine's clock stands before 1970")?;
    Ok(UnixSeconds(i64::try_from(since.as_secs()).context("this machine's clock is out of range")?))
}

fn init(arguments: &Init) -> Result<ExitCode> {
    let directory = &arguments.directory;
    if directory.join("1.root.json").exists() {
        bail!(
            "{} holds a repository already; a root is changed by the next root, not by another first one",
            directory.display()
        );
    }
    let keys = |paths: &[PathBuf]| paths.iter().map(|p| super::public_key(p)).collect::<Result<Vec<_>>>();
    let trusted = TrustedKeys {
        root: keys(&arguments.root_key)?,
        root_threshold: arguments.root_threshold,
        targets: keys(&arguments.targets_key)?,
        targets_threshold: arguments.targets_threshold,
        refresh: keys(&arguments.refresh_key)?,
    };
    let expires = now()?.plus(i64::from(arguments.valid_days) * DAY_S);
    let repository = PublisherRepository::create(&trusted, expires)?;
    fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    save(&repository, &BTreeMap::new(), directory)?;
    status(&repository, directory, &["a new repository".to_owned()], arguments.output.output)
}

fn release(
    directory: &Path,
    packed: &Path,
    floor: Option<&Version>,
    valid_days: u16,
    format: Format,
) -> Result<ExitCode> {
    let mut repository = open(directory)?;
    // Nobody should vouch for a bundle that is damaged or malformed.
    let bundle = VerifiedBundle::open(packed, &Trust::Unsigned)?;
    let metadata = fs::metadata(packed).with_context(|| packed.display().to_string())?;
    if !metadata.is_file() {
        bail!("{} is a directory; devices fetch one file, so pack it as a .tar", packed.display());
    }
    let header = &bundle.manifest().bundle;
    let release = Release {
        name: header.name.clone(),
        version: header.version.clone(),
        kind: Kind::Model,
        floor: floor.cloned(),
        bytes: metadata.len(),
    };
    let expires = now()?.plus(i64::from(valid_days) * DAY_S);
    let before = repository.files().clone();
    let file = repository.release(bundle.digest(), bundle.image_manifest_bytes(), &release, expires)?;
    save(&repository, &before, directory)?;
    let done = format!("{} {} ({}) is in {file}", header.name, header.version, bundle.digest());
    status(&repository, directory, &[done], format)
}

fn sign(directory: &Path, key: &Path, format: Format) -> Result<ExitCode> {
    let mut repository = open(directory)?;
    let before = repository.files().clone();
    let signed = repository.sign(&super::secret_key(key)?).with_context(|| key.display().to_string())?;
    save(&repository, &before, directory)?;
    status(&repository, directory, &[format!("signed {}", signed.join(", "))], format)
}

fn refresh(directory: &Path, keys: &[PathBuf], valid_days: u16, format: Format) -> Result<ExitCode> {
    let mut repository = open(directory)?;
    let keys = keys.iter().map(|k| super::secret_key(k)).collect::<Result<Vec<_>>>()?;
    let validity = Validity { snapshot_s: i64::from(valid_days) * DAY_S, timestamp_s: i64::from(valid_days) * DAY_S };
    let before = repository.files().clone();
    repository.refresh(&keys.iter().collect::<Vec<_>>(), validity, now()?)?;
    // What a device would make of it; nothing that no device accepts should leave this machine.
    repository.client(now()?).context("devices would refuse this repository")?;
    save(&repository, &before, directory)?;
    status(&repository, directory, &["snapshot and timestamp are new".to_owned()], format)
}

/// Reads the repository's files; others in the directory are left alone.
pub(crate) fn open(directory: &Path) -> Result<PublisherRepository> {
    let place = || format!("{} cannot be read", directory.display());
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(place)? {
        let path = entry.with_context(place)?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.extension().is_some_and(|e| e == "json") && !name.starts_with('.') {
            let bytes = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
            if bytes > FILE_BYTES_MAX {
                bail!("{} has {bytes} bytes; metadata has at most {FILE_BYTES_MAX}", path.display());
            }
            files.insert(name, fs::read(&path).with_context(|| path.display().to_string())?);
        }
    }
    if files.is_empty() {
        bail!("{} holds no repository; `sedge publisher init` makes one", directory.display());
    }
    PublisherRepository::from_files(files).with_context(|| directory.display().to_string())
}

/// Writes what changed, each file beside its place and renamed; `timestamp.json` last, so that a reader sees the old
/// state or the new one.
fn save(repository: &PublisherRepository, before: &BTreeMap<String, Vec<u8>>, directory: &Path) -> Result<()> {
    let mut changed: Vec<_> =
        repository.files().iter().filter(|(name, file)| before.get(*name) != Some(*file)).collect();
    changed.sort_by_key(|(name, _)| *name == "timestamp.json");
    for (name, bytes) in changed {
        let path = directory.join(name);
        let beside = directory.join(format!(".{name}.tmp"));
        let write = || {
            let mut file = fs::File::create(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)
        };
        write().with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

fn status(repository: &PublisherRepository, directory: &Path, done: &[String], format: Format) -> Result<ExitCode> {
    let unsigned = repository.unsigned()?;
    let root = repository.root()?;
    let targets = repository.targets()?;
    let trusted = if unsigned.is_empty() { repository.client(now()?).map(|_| ()) } else { Ok(()) };
    let missing: Vec<Value> = unsigned
        .iter()
        .map(|u| json!({"file": u.file, "valid": u.progress.valid, "threshold": u.progress.threshold, "by_root": u.by_root}))
        .collect();
    let bundles: Vec<String> = targets.targets.keys().map(ToString::to_string).collect();
    if format.is_json() {
        output::json(&json!({
            "repository": directory,
            "done": done,
            "root": {"version": root.header.version, "expires": root.header.expires},
            "targets": {"version": targets.header.version, "expires": targets.header.expires, "bundles": bundles},
            "missing_signatures": missing,
            "problem": trusted.as_ref().err().map(ToString::to_string),
            "specification": tuf::SPEC_VERSION,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    done.iter().for_each(output::line);
    output::line(format!("root {} until {}", root.header.version, root.header.expires));
    output::line(format!(
        "targets {} until {}, {} bundle(s)",
        targets.header.version,
        targets.header.expires,
        bundles.len()
    ));
    for u in &unsigned {
        let progress = &u.progress;
        output::line(format!("{} has {} of {} signatures", u.file, progress.valid, progress.threshold));
    }
    match (unsigned.is_empty(), trusted) {
        (false, _) => output::line("next: sedge publisher sign, on each machine that holds a key"),
        (true, Err(e)) => output::line(format!("next: sedge publisher refresh ({e})")),
        (true, Ok(())) => output::line("devices accept it"),
    }
    Ok(ExitCode::SUCCESS)
}

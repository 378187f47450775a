//! The demo's publisher: keys that no server ever sees, and bundles, good and bad.

use super::site::{Server, ask, sedge};
use anyhow::{Context as _, Result};
use rust_embed::RustEmbed;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(RustEmbed)]
#[folder = "../examples/digits"]
#[include = "v*/*"]
#[include = "images/*"]
struct Digits;

#[derive(RustEmbed)]
#[folder = "../runtime/processors"]
#[include = "*.wasm"]
struct Processors;

/// Writes embedded files below a directory.
fn unpack<E: RustEmbed>(directory: &Path) -> Result<()> {
    for name in E::iter() {
        let file = E::get(&name).with_context(|| format!("{name} is missing in this program"))?;
        let path = directory.join(name.as_ref());
        fs::create_dir_all(path.parent().unwrap_or(directory)).with_context(|| path.display().to_string())?;
        fs::write(&path, &file.data).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// The digits example with its images and the processors that it builds from.
pub(super) fn unpack_digits(work: &Path) -> Result<PathBuf> {
    let digits = work.join("examples/digits");
    unpack::<Digits>(&digits)?;
    unpack::<Processors>(&work.join("runtime/processors"))?;
    Ok(digits)
}

/// A bundle that the server has.
#[derive(Debug, Clone)]
pub(super) struct Bundle {
    pub(super) version: String,
    pub(super) digest: String,
    pub(super) bytes: u64,
}

impl Bundle {
    pub(super) fn reference(&self) -> String {
        format!("digits@{}", self.digest)
    }
}

/// A publisher with one key for each role.
#[derive(Debug)]
pub(super) struct Publisher {
    directory: PathBuf,
    pub(super) digits: PathBuf,
}

impl Publisher {
    pub(super) fn new(work: &Path) -> Result<Self> {
        let directory = work.join("publisher");
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let this = Self { digits: unpack_digits(work)?, directory };
        let mut init = sedge()?;
        init.args(["publisher", "init"]).arg(this.repository());
        for role in ["root", "targets", "refresh"] {
            ask(sedge()?.args(["keys", "new"]).arg(this.directory.join(role)))?;
            init.arg(format!("--{role}-key")).arg(this.directory.join(format!("{role}.pub")));
        }
        ask(&mut init)?;
        this.with_key("sign", "root")?;
        Ok(this)
    }

    pub(super) fn repository(&self) -> PathBuf {
        self.directory.join("repository")
    }

    fn with_key(&self, verb: &str, role: &str) -> Result<()> {
        let key = self.directory.join(format!("{role}.key"));
        ask(sedge()?.args(["publisher", verb]).arg(self.repository()).arg("--key").arg(key)).map(drop)
    }

    /// Packs bundles and signs that they exist.
    pub(super) fn release(&self, directories: &[&str]) -> Result<Vec<PathBuf>> {
        let mut packed = Vec::new();
        for name in directories {
            let file = self.directory.join(format!("{name}.tar"));
            ask(sedge()?.args(["bundle", "build"]).arg(self.digits.join(name)).arg("--to").arg(&file))?;
            ask(sedge()?.args(["publisher", "release"]).arg(self.repository()).arg(&file))?;
            packed.push(file);
        }
        self.with_key("sign", "targets")?;
        self.with_key("refresh", "refresh")?;
        Ok(packed)
    }

    /// Hands bundles to the server; gives all that it has, by version.
    pub(super) fn publish(&self, server: &Server, project: &str, packed: &[PathBuf]) -> Result<Vec<Bundle>> {
        let mut publish = server.command(["project", "publish", project, "--repository"])?;
        ask(publish.arg(self.repository()).args(packed))?;
        let bundles = ask(&mut server.command(["project", "bundles", project])?)?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let of = |b: &Value| Bundle {
            version: text(&b["version"]),
            digest: text(&b["digest"]),
            bytes: b["packed_bytes"].as_u64().unwrap_or(0),
        };
        let mut bundles: Vec<Bundle> = bundles.as_array().into_iter().flatten().map(of).collect();
        bundles.sort_by(|a, b| a.version.cmp(&b.version));
        Ok(bundles)
    }

    /// A bundle that is signed by everybody, and promises for one image what its model finds in another.
    pub(super) fn wrong_golden(&self) -> Result<&'static str> {
        const NAME: &str = "wrong-golden";
        let (good, bad) = (self.digits.join("v1"), self.digits.join(NAME));
        super::copy(&good, &bad)?;
        let place = |path: &Path| path.display().to_string();
        fs::copy(good.join("golden/3.png"), bad.join("golden/8.png")).with_context(|| place(&bad))?;
        let manifest = bad.join("bundle.toml");
        let text = fs::read_to_string(&manifest).with_context(|| place(&manifest))?;
        let text = text.replacen("version = \"1.0.0\"", "version = \"1.0.1\"", 1);
        fs::write(&manifest, text).with_context(|| place(&manifest))?;
        Ok(NAME)
    }
}

/// Changes a byte in every chunk that a server keeps, as somebody could who has broken into it. What it changed is given,
/// so that a second call undoes it.
pub(super) fn flip_chunks(data: &Path) -> Result<usize> {
    let chunks = data.join("artifacts/chunks");
    let place = || chunks.display().to_string();
    let mut count = 0;
    for shelf in fs::read_dir(&chunks).with_context(place)? {
        for chunk in fs::read_dir(shelf.with_context(place)?.path()).with_context(place)? {
            let path = chunk.with_context(place)?.path();
            let mut bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
            }
            fs::write(&path, bytes).with_context(|| path.display().to_string())?;
            count += 1;
        }
    }
    Ok(count)
}

//! The bundle manifest, `bundle.toml`.
//!
//! [`Manifest::parse`] accepts what `docs/bundle.md` describes and nothing else: an unknown key, a reference to a file
//! outside the bundle or a value out of range is refused with its place. [`Manifest::validate`] holds for every
//! `Manifest` that this module hands out.

mod check;

use crate::id::BundleName;
use semver::Version;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// `schema` of the manifests that this version reads.
pub const SCHEMA: &str = "sedge.bundle/1";
/// Longest `bundle.toml` or its packed form; stops a manifest that only costs memory.
pub const MANIFEST_BYTES_MAX: usize = 256 * 1024;
/// Prefix of a processor that the runtime itself carries.
pub const BUILTIN_PREFIX: &str = "builtin:";

/// A model with all that is needed to run and judge it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Name, version and origin.
    pub bundle: Header,
    /// Forms of the model; the first that a device can run is taken.
    pub variant: Vec<Variant>,
    /// The model's inputs, in its order.
    pub input: Vec<TensorDescription>,
    /// The model's outputs that the bundle uses.
    pub output: Vec<TensorDescription>,
    /// Where confidence comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
    /// From samples to tensors.
    pub preprocessor: Processor,
    /// From tensors to predictions.
    pub postprocessor: Processor,
    /// Names of the classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<FileReference>,
    /// What a device must not exceed.
    #[serde(default)]
    pub limits: Limits,
    /// Samples with known answers, which every device checks before it trusts the bundle.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub golden: Vec<Golden>,
    /// Statistics from training, for drift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<FileReference>,
    /// Where `sedge bundle build` finds files that live outside the directory of `bundle.toml`; not packed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, String>,
}

/// Name, version and origin of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The same in every version.
    pub name: BundleName,
    /// A semantic version.
    pub version: Version,
    /// An SPDX expression.
    pub license: String,
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where the model was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Origin>,
}

/// Where a model was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Origin {
    pub repo: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

/// One form of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// For people and reports, `int8` say.
    pub name: String,
    /// Path in the bundle.
    pub file: String,
    /// Format of the file.
    pub format: ModelFormat,
    /// What a device must have; all of it.
    #[serde(default, skip_serializing_if = "Requirements::is_empty")]
    pub requires: Requirements,
}

/// Formats of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ModelFormat {
    Onnx,
}

/// What a device must have to run a variant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirements {
    /// Any of these, named as Rust names them (`x86_64`, `aarch64`, `arm`); empty for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arch: Vec<String>,
    /// Memory of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram_mib: Option<u32>,
}

impl Requirements {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ElementType {
    Uint8,
    Int8,
    Uint16,
    Int16,
    Int32,
    Int64,
    Float16,
    Bfloat16,
    Float32,
    Float64,
    Boolean,
}

/// `real = scale * (stored - zero_point)`
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Quantization {
    pub scale: f32,
    pub zero_point: i32,
}

/// An input or output of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorDescription {
    /// Name in the model's graph.
    pub name: String,
    /// Type of the elements.
    pub dtype: ElementType,
    /// Sizes; -1 for an output's dimension that varies.
    pub shape: Vec<i32>,
    /// How stored integers stand for real values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
}

/// What an output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ConfidenceKind {
    Logits,
    Scores,
}

/// Where confidence comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Confidence {
    pub output: String,
    pub kind: ConfidenceKind,
}

/// A preprocessor or postprocessor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processor {
    /// Path of a WebAssembly component in the bundle, or `builtin:NAME@MAJOR`.
    pub component: String,
    /// Handed to the processor as JSON.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Host interfaces that it asks for beside `log`; the device's policy must agree.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub grants: BTreeSet<Grant>,
}

impl Processor {
    /// Path of the component, unless it is built in.
    pub fn file(&self) -> Option<&str> {
        if self.component.starts_with(BUILTIN_PREFIX) { None } else { Some(&self.component) }
    }
}

/// Host interfaces that a processor can be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grant {
    /// Milliseconds since an arbitrary start.
    Clock,
    /// Random bytes.
    Random,
    /// A small store that lives as long as the pipeline.
    Kv,
}

impl Grant {
    /// Name in manifests and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Random => "random",
            Self::Kv => "kv",
        }
    }
}

/// A file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct FileReference {
    pub file: String,
}

/// What a device must not exceed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory of the worker process beyond an empty one.
    pub memory_mib: u32,
    /// Linear memory of each sandboxed processor.
    pub sandbox_memory_mib: u32,
    /// Time of one call into a sandboxed processor.
    pub sandbox_ms: u32,
    /// 95th percentile of a sample's latency, per target name; `default` for targets not listed.
    pub latency_p95_ms: BTreeMap<String, f64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_mib: 512, sandbox_memory_mib: 32, sandbox_ms: 250, latency_p95_ms: BTreeMap::new() }
    }
}

/// A sample with a known answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Path of the sample in the bundle.
    pub input: String,
    /// Best label expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Largest difference between an output's element and the expected one.
    #[serde(default = "default_atol")]
    pub atol: f32,
    /// From output name to a `.npy` file of what it must hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expect: BTreeMap<String, String>,
}

const fn default_atol() -> f32 {
    1e-4
}

/// Why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MANIFEST_BYTES_MAX`].
    #[error("the manifest has {bytes} bytes; at most {MANIFEST_BYTES_MAX} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not UTF-8, not TOML or JSON, an unknown key or a wrong type; the text tells where.
    #[error("{0}")]
    Syntax(String),
    /// Well-formed but wrong.
    #[error("{place}: {problem}")]
    Invalid {
        /// Key, as a dotted path.
        place: String,
        /// What is wrong and what is expected.
        problem: String,
    },
}

impl Manifest {
    /// Reads a `bundle.toml`.
    ///
    /// # Errors
    /// [`ManifestError`], with the line or the key.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let text = bounded_text(text)?;
        let manifest: Self =
            toml::from_str(text).map_err(|e| ManifestError::Syntax(e.to_string().trim_end().to_owned()))?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// Every file that the manifest names, each once.
    pub fn files(&self) -> BTreeSet<&str> {
        let processors = [&self.preprocessor, &self.postprocessor].into_iter().filter_map(|p| p.file());
        let single = [&self.labels, &self.reference].into_iter().flatten().map(|f| f.file.as_str());
        let golden =
            self.golden.iter().flat_map(|g| std::iter::once(&g.input).chain(g.expect.values()).map(String::as_str));
        self.variant.iter().map(|v| v.file.as_str()).chain(processors).chain(single).chain(golden).collect()
    }
}

fn bounded_text(bytes: &[u8]) -> Result<&str, ManifestError> {
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(ManifestError::TooLong { bytes: bytes.len() });
    }
    std::str::from_utf8(bytes).map_err(|e| ManifestError::Syntax(format!("not UTF-8 at byte {}", e.valid_up_to())))
}

/// The manifest as it is packed: with every file's size and hash, and without `sources`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedManifest {
    /// The manifest; `sources` is empty.
    pub manifest: Manifest,
    /// Every file of the bundle, in order of path.
    pub files: Vec<FileEntry>,
}

/// A file of a packed bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct FileEntry {
    pub path: String,
    pub size: u64,
    pub digest: crate::Sha256Digest,
}

impl PackedManifest {
    /// Reads a packed manifest.
    ///
    /// # Errors
    /// [`ManifestError`], also where the file list and the manifest name different files.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let text = bounded_text(json)?;
        let packed: Self = serde_json::from_str(text).map_err(|e| ManifestError::Syntax(e.to_string()))?;
        packed.manifest.validate()?;
        if !packed.manifest.sources.is_empty() {
            return Err(check::invalid("sources", "belongs in a bundle.toml, not in a packed bundle"));
        }
        let listed: Vec<&str> = packed.files.iter().map(|f| f.path.as_str()).collect();
        let named: Vec<&str> = packed.manifest.files().into_iter().collect();
        if listed != named {
            let odd = listed.iter().find(|f| !named.contains(f)).or_else(|| named.iter().find(|f| !listed.contains(f)));
            let odd = odd.copied().unwrap_or("its order");
            return Err(check::invalid("files", format!("the list differs from what the manifest names, in {odd}")));
        }
        Ok(packed)
    }

    /// The bytes that are packed and hashed: JSON with the keys in the order of the types.
    ///
    /// # Errors
    /// [`ManifestError::Syntax`] when a value cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        serde_json::to_vec(self).map_err(|e| ManifestError::Syntax(e.to_string()))
    }
}

#[cfg(test)]
mod tests;

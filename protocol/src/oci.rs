//! The packed form of a bundle: an OCI image layout, so that any OCI registry or a USB stick can carry it.
//!
//! `index.json` lists one image manifest (the bundle; its digest is the [`BundleDigest`]) and any number of signature
//! manifests that refer to it by `subject`. The config blob is the packed bundle manifest, and each layer is one file,
//! titled by its path. Source: OCI Image Specification 1.1.

use crate::{BundleDigest, Sha256Digest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Media type of an OCI image manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Artifact type of a bundle.
pub const BUNDLE_TYPE: &str = "application/vnd.sedge.bundle.v1";
/// Media type of a bundle's config blob, the packed manifest.
pub const CONFIG_TYPE: &str = "application/vnd.sedge.bundle.config.v1+json";
/// Media type of a bundle's files.
pub const FILE_TYPE: &str = "application/vnd.sedge.bundle.file.v1";
/// Artifact type of a signature.
pub const SIGNATURE_TYPE: &str = "application/vnd.sedge.signature.v1";
/// Media type of a DSSE envelope.
pub const ENVELOPE_TYPE: &str = "application/vnd.dsse.envelope.v1+json";
/// Media type of the empty config that signature manifests carry.
pub const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// Annotation that holds a layer's path.
pub const TITLE: &str = "org.opencontainers.image.title";
/// Contents of the `oci-layout` file.
pub const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// Whether these are the contents of an `oci-layout` file of the version that is read here.
pub fn is_layout(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    serde_json::from_slice(bytes).is_ok_and(|l: Layout| l.image_layout_version == "1.0.0")
}

/// Longest index or image manifest that is read; stops endless data.
pub const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// Points at a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Sha256Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Describes `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Sha256Digest::of(bytes),
            size: bytes.len() as u64,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// An OCI image manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ImageManifest {
    pub schema_version: u32,
    pub media_type: String,
    pub artifact_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An OCI index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Index {
    pub schema_version: u32,
    pub media_type: String,
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// An index of these manifests.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: INDEX_TYPE.to_owned(), manifests }
    }

    /// Checks what no digest covers: the version, and that entries are what they claim to be.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn validate(&self) -> Result<(), String> {
        if self.schema_version != 2 || self.media_type != INDEX_TYPE {
            return Err(format!("it is not an {INDEX_TYPE} of schema version 2"));
        }
        match self.manifests.iter().find(|d| d.media_type != MANIFEST_TYPE) {
            Some(odd) => Err(format!("entry {} is not an {MANIFEST_TYPE}", odd.digest.short())),
            None => Ok(()),
        }
    }

    /// The bundle's manifest: the only entry with [`BUNDLE_TYPE`].
    pub fn bundle(&self) -> Option<&Descriptor> {
        let mut bundles = self.manifests.iter().filter(|d| d.artifact_type.as_deref() == Some(BUNDLE_TYPE));
        bundles.next().filter(|_| bundles.next().is_none())
    }

    /// Manifests that may be signatures; each tells its subject.
    pub fn signatures(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().filter(|d| d.artifact_type.as_deref() == Some(SIGNATURE_TYPE))
    }
}

impl ImageManifest {
    /// The manifest of a signature over `bundle`, whose envelope is `envelope`.
    pub fn signature(bundle: &Descriptor, envelope: Descriptor) -> Self {
        Self {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            artifact_type: SIGNATURE_TYPE.to_owned(),
            config: Descriptor::of(EMPTY_TYPE, b"{}"),
            layers: vec![envelope],
            subject: Some(Descriptor { annotations: BTreeMap::new(), artifact_type: None, ..bundle.clone() }),
            annotations: BTreeMap::new(),
        }
    }

    /// Whether this refers to `bundle`.
    pub fn is_about(&self, bundle: BundleDigest) -> bool {
        self.subject.as_ref().is_some_and(|s| s.digest == bundle.0)
    }
}

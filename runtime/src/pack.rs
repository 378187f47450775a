//! Making packed bundles: an OCI image layout in a directory or a tar file.
//!
//! The same sources give the same bytes: no times, no owners, files in order. A layout is written beside its place and
//! renamed, so that a power cut leaves the old one or the new one; of a directory, the old one may then lie beside it.

use crate::bundle::{BundleError, Container};
use sedge_protocol::manifest::{FileEntry, MANIFEST_BYTES_MAX, Manifest, ManifestError, PackedManifest};
use sedge_protocol::oci::{self, Descriptor, ImageManifest, Index};
use sedge_protocol::signature::{SecretKey, sign_bundle};
use sedge_protocol::{BundleDigest, Sha256Digest};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Largest file of a bundle.
pub const FILE_BYTES_MAX: u64 = crate::model::MODEL_BYTES_MAX as u64;

/// Why a bundle cannot be packed or signed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file cannot be read.
    #[error("{} cannot be read{hint}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file is too large.
    #[error("{} is larger than {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// Its path.
        path: PathBuf,
    },
    /// The manifest is wrong.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// The result cannot be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What is there already is no bundle.
    #[error("{} exists and is no packed bundle; remove it or choose another place", path.display())]
    Occupied {
        /// Its path.
        path: PathBuf,
    },
    /// The bundle to sign cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// A packed bundle in memory.
pub struct Layout {
    index: Index,
    blobs: BTreeMap<Sha256Digest, Vec<u8>>,
}

impl Layout {
    /// Packs the directory that holds a `bundle.toml`.
    ///
    /// # Errors
    /// [`PackError`] for a manifest or a file that cannot be taken in.
    pub fn pack(directory: &Path) -> Result<Self, PackError> {
        let path = directory.join("bundle.toml");
        let text = read(&path, MANIFEST_BYTES_MAX as u64, "; `sedge bundle init` makes one")?;
        let mut manifest =
            Manifest::parse(&text).map_err(|source| PackError::Manifest { path: path.clone(), source })?;
        let sources = std::mem::take(&mut manifest.sources);
        let mut layout = Self { index: Index::new(Vec::new()), blobs: BTreeMap::new() };
        let (mut files, mut layers) = (Vec::new(), Vec::new());
        for name in manifest.files() {
            let place = directory.join(sources.get(name).map_or(name, String::as_str));
            let bytes = read(&place, FILE_BYTES_MAX, "; bundle.toml names it")?;
            let mut layer = layout.add(oci::FILE_TYPE, bytes);
            layer.annotations.insert(oci::TITLE.to_owned(), name.to_owned());
            files.push(FileEntry { path: name.to_owned(), size: layer.size, digest: layer.digest });
            layers.push(layer);
        }
        let annotations = BTreeMap::from([
            ("org.opencontainers.image.title".to_owned(), manifest.bundle.name.to_string()),
            ("org.opencontainers.image.version".to_owned(), manifest.bundle.version.to_string()),
            ("org.opencontainers.image.licenses".to_owned(), manifest.bundle.license.clone()),
        ]);
        let packed = PackedManifest { manifest, files };
        let config = packed.to_bytes().map_err(|source| PackError::Manifest { path, source })?;
        let image = ImageManifest {
            schema_version: 2,
            media_type: oci::MANIFEST_TYPE.to_owned(),
            artifact_type: oci::BUNDLE_TYPE.to_owned(),
            config: layout.add(oci::CONFIG_TYPE, config),
            layers,
            subject: None,
            annotations,
        };
        layout.add_manifest(&image);
        Ok(layout)
    }

    /// Reads a packed bundle, to sign it. Nothing is verified but that the blobs have their digests.
    ///
    /// # Errors
    /// [`PackError::Bundle`] when it is no packed bundle or damaged.
    pub fn read(path: &Path) -> Result<Self, PackError> {
        let container = Container::open(path)?;
        let index = container.index()?;
        let mut blobs = BTreeMap::new();
        for manifest in &index.manifests {
            let bytes = container.blob(manifest, oci::DOCUMENT_BYTES_MAX)?;
            let image = container.parse_image(manifest, &bytes)?;
            for part in std::iter::once(&image.config).chain(&image.layers) {
                blobs.insert(part.digest, container.blob(part, FILE_BYTES_MAX)?);
            }
            blobs.insert(manifest.digest, bytes);
        }
        Ok(Self { index, blobs })
    }

    /// The bundle's digest.
    ///
    /// # Errors
    /// When the index lists no bundle, or several.
    pub fn digest(&self) -> Result<BundleDigest, BundleError> {
        self.index.bundle().map(|d| BundleDigest(d.digest)).ok_or(BundleError::NoBundle)
    }

    /// Adds a signature by `key`, unless there is one already.
    ///
    /// # Errors
    /// When the index lists no bundle, or its manifest cannot be read.
    pub fn sign(&mut self, key: &SecretKey) -> Result<(), BundleError> {
        let bundle = self.index.bundle().ok_or(BundleError::NoBundle)?.clone();
        let header = {
            let image = self.blobs.get(&bundle.digest).ok_or(BundleError::NoBundle)?;
            let image: ImageManifest = serde_json::from_slice(image).map_err(|_| BundleError::NoBundle)?;
            let config = self.blobs.get(&image.config.digest).ok_or(BundleError::NoBundle)?;
            PackedManifest::parse(config).map_err(BundleError::Manifest)?.manifest.bundle
        };
        let envelope = sign_bundle(&header.name, &header.version, BundleDigest(bundle.digest), key);
        // A value made of strings always serializes.
        let envelope = serde_json::to_vec(&envelope).unwrap_or_default();
        let envelope = self.add(oci::ENVELOPE_TYPE, envelope);
        self.add(oci::EMPTY_TYPE, b"{}".to_vec());
        self.add_manifest(&ImageManifest::signature(&bundle, envelope));
        Ok(())
    }

    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.blobs.insert(descriptor.digest, bytes);
        descriptor
    }

    fn add_manifest(&mut self, image: &ImageManifest) {
        // A value made of strings and numbers always serializes.
        let bytes = serde_json::to_vec(image).unwrap_or_default();
        let mut descriptor = self.add(oci::MANIFEST_TYPE, bytes);
        descriptor.artifact_type = Some(image.artifact_type.clone());
        if self.index.manifests.iter().all(|d| d.digest != descriptor.digest) {
            self.index.manifests.push(descriptor);
        }
    }

    /// Writes the layout: a tar file where `path` ends in `.tar`, else a directory. A packed bundle that is there is
    /// replaced by one of its kind, anything else is not touched.
    ///
    /// # Errors
    /// [`PackError`] when the place is taken or cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PackError> {
        let failed = |source: io::Error| PackError::Write { path: path.to_owned(), source };
        if path.exists() && Container::open(path).and_then(|c| c.index()).is_err() {
            return Err(PackError::Occupied { path: path.to_owned() });
        }
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let beside = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        // What is there stays of its kind, whatever its name.
        let tar = if path.exists() { path.is_file() } else { path.extension().is_some_and(|e| e == "tar") };
        let result = if tar {
            self.write_tar(&beside).and_then(|()| fs::rename(&beside, path))
        } else {
            self.write_directory(&beside).and_then(|()| {
                let old = path.with_file_name(format!(".{name}.{}.old", std::process::id()));
                if path.exists() {
                    fs::rename(path, &old)?;
                }
                fs::rename(&beside, path)?;
                if old.exists() { fs::remove_dir_all(&old) } else { Ok(()) }
            })
        };
        if result.is_err() {
            let _ = fs::remove_dir_all(&beside).or_else(|_| fs::remove_file(&beside));
        }
        result.map_err(failed)
    }

    fn entries(&self) -> impl Iterator<Item = (String, std::borrow::Cow<'_, [u8]>)> {
        // A value made of strings and numbers always serializes.
        let index = serde_json::to_vec(&self.index).unwrap_or_default();
        let head = [("oci-layout".to_owned(), oci::LAYOUT.as_bytes().to_vec()), ("index.json".to_owned(), index)];
        let head = head.into_iter().map(|(name, bytes)| (name, bytes.into()));
        head.chain(self.blobs.iter().map(|(d, bytes)| (format!("blobs/sha256/{}", d.hex()), bytes.as_slice().into())))
    }

    fn write_tar(&self, path: &Path) -> io::Result<()> {
        let mut archive = tar::Builder::new(io::BufWriter::new(fs::File::create_new(path)?));
        for (name, bytes) in self.entries() {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            archive.append_data(&mut header, name, bytes.as_ref())?;
        }
        archive.into_inner()?.into_inner()?.sync_all()
    }

    fn write_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)?;
        fs::create_dir_all(path.join("blobs/sha256"))?;
        for (name, bytes) in self.entries() {
            let mut file = fs::File::create(path.join(name))?;
            io::Write::write_all(&mut file, &bytes)?;
            file.sync_all()?;
        }
        Ok(())
    }
}

fn read(path: &Path, max: u64, hint: &'static str) -> Result<Vec<u8>, PackError> {
    let failed = |source| PackError::Read { path: path.to_owned(), hint, source };
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|f| f.take(max + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(PackError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

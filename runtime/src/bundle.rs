//! Opening a packed bundle: nothing of it is used before it is verified, and what was verified is what is used.
//!
//! Every byte is read into memory once, hashed there, and handed on from there; a file that changes on disk afterwards
//! changes nothing. The order of checks:
//! 1. the index names one bundle manifest;
//! 2. the trust given by the caller covers that manifest's digest;
//! 3. the manifest's bytes have that digest, and the config the digest that the manifest names;
//! 4. the config is a valid packed manifest that lists exactly the layers;
//! 5. each file has the size and digest listed.

use crate::tar_index;
use sedge_protocol::manifest::{Manifest, ManifestError, PackedManifest, Requirements, Variant};
use sedge_protocol::oci::{self, Descriptor, ImageManifest, Index};
use sedge_protocol::reference::{Reference, ReferenceError};
use sedge_protocol::signature::{ENVELOPE_BYTES_MAX, KeyId, SignatureError, TrustPolicy};
use sedge_protocol::{BundleDigest, Sha256Digest};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// All files of a bundle together.
const BUNDLE_BYTES_MAX: u64 = 4 << 30;
/// Signatures that are read.
const SIGNATURES_MAX: usize = 64;
/// Longest labels file and label.
const LABELS_BYTES_MAX: usize = 1 << 20;

/// What makes a bundle trusted.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Signatures by enough of these keys.
    Signed(TrustPolicy),
    /// Somebody trusted, update metadata say, named this digest.
    Digest(BundleDigest),
    /// Nothing; hashes are checked all the same. For development.
    Unsigned,
}

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Nothing there, or not readable.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Its path, with the part of the bundle.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A source directory.
    #[error("{} holds a bundle.toml but is not packed; run `sedge bundle build {}`", path.display(), path.display())]
    NotPacked {
        /// Its path.
        path: PathBuf,
    },
    /// Some other file or directory.
    #[error("{} is not a packed bundle (an OCI image layout as directory or tar): {problem}", path.display())]
    NotALayout {
        /// Its path.
        path: PathBuf,
        /// What is missing.
        problem: String,
    },
    /// The index does not name one bundle.
    #[error(
        "index.json names no bundle, or several; fetch the bundle again, or pack it again with `sedge bundle build`"
    )]
    NoBundle,
    /// Not signed, or not by whom it must be.
    #[error("the bundle is not trusted: {0}")]
    Untrusted(#[from] SignatureError),
    /// Another bundle than the one that was ordered.
    #[error("the bundle is {found}, ordered was {ordered}")]
    OtherDigest {
        /// The digest that was ordered.
        ordered: BundleDigest,
        /// The digest found.
        found: BundleDigest,
    },
    /// Bytes that are not what was signed.
    #[error("{part} is damaged or was changed: {problem}; fetch the bundle again")]
    Damaged {
        /// File or document.
        part: String,
        /// What differs.
        problem: String,
    },
    /// A part that a valid bundle has is missing.
    #[error("{part} is missing; the bundle is incomplete, fetch it again")]
    Missing {
        /// File or document.
        part: String,
    },
    /// The signed manifest is wrong.
    #[error("the bundle's manifest is invalid: {0}")]
    Manifest(#[source] ManifestError),
    /// The reference statistics are wrong.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The labels are wrong.
    #[error("labels: {0}")]
    Labels(String),
    /// No variant for this machine.
    #[error("no variant of the model runs here: this machine is {here}; the bundle has {variants}")]
    NoVariant {
        /// Architecture and memory.
        here: String,
        /// What each variant requires.
        variants: String,
    },
}

impl BundleError {
    /// Whether the bundle itself is at fault: not trusted, damaged, or not what it claims to be.
    pub const fn is_refusal(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::NotPacked { .. } | Self::NoVariant { .. })
    }
}

/// A bundle whose every byte was verified.
#[derive(Debug)]
pub struct VerifiedBundle {
    digest: BundleDigest,
    image_manifest_bytes: u64,
    signers: Vec<KeyId>,
    manifest: Manifest,
    files: BTreeMap<String, Vec<u8>>,
    digests: BTreeMap<String, Sha256Digest>,
    labels: Vec<String>,
    reference: Option<Reference>,
}

impl VerifiedBundle {
    /// Opens and verifies a packed bundle, a directory or a tar file.
    ///
    /// # Errors
    /// [`BundleError`], naming the part and what to do.
    pub fn open(path: &Path, trust: &Trust) -> Result<Self, BundleError> {
        let container = Container::open(path)?;
        let index = container.index()?;
        let descriptor = index.bundle().ok_or(BundleError::NoBundle)?;
        let digest = BundleDigest(descriptor.digest);
        let signers = match trust {
            Trust::Signed(policy) => policy.verify(digest, &container.envelopes(&index, digest)?)?,
            Trust::Digest(ordered) if *ordered != digest => {
                return Err(BundleError::OtherDigest { ordered: *ordered, found: digest });
            }
            Trust::Digest(_) | Trust::Unsigned => Vec::new(),
        };
        let image = container.image(descriptor)?;
        let config = container.blob(&image.config, oci::DOCUMENT_BYTES_MAX)?;
        let packed = PackedManifest::parse(&config).map_err(BundleError::Manifest)?;
        let files = container.files(&packed, &image)?;
        let digests = packed.files.iter().map(|file| (file.path.clone(), file.digest)).collect();
        let mut bundle = Self {
            digest,
            image_manifest_bytes: descriptor.size,
            signers,
            manifest: packed.manifest,
            files,
            digests,
            labels: Vec::new(),
            reference: None,
        };
        bundle.labels = bundle.read_labels()?;
        if let Some(reference) = &bundle.manifest.reference {
            bundle.reference = Some(Reference::parse(bundle.file(&reference.file)?)?);
        }
        Ok(bundle)
    }

    /// The digest that pins every byte.
    pub const fn digest(&self) -> BundleDigest {
        self.digest
    }

    /// Length of the document that has this digest, as update metadata names it beside the digest.
    pub const fn image_manifest_bytes(&self) -> u64 {
        self.image_manifest_bytes
    }

    /// Keys whose signatures were found valid; empty where trust came from elsewhere.
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }

    /// The manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Names of the classes, in the order of the model's output.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Statistics from training.
    pub const fn reference(&self) -> Option<&Reference> {
        self.reference.as_ref()
    }

    /// Paths and contents of all files.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
    }

    /// Contents of one file.
    ///
    /// # Errors
    /// [`BundleError::Missing`]; not for a path that the manifest names.
    pub fn file(&self, path: &str) -> Result<&[u8], BundleError> {
        self.files.get(path).map(Vec::as_slice).ok_or_else(|| BundleError::Missing { part: path.to_owned() })
    }

    /// The digest that the contents of one file were found to have.
    ///
    /// # Errors
    /// [`BundleError::Missing`]; not for a path that the manifest names.
    pub fn digest_of(&self, path: &str) -> Result<Sha256Digest, BundleError> {
        self.digests.get(path).copied().ok_or_else(|| BundleError::Missing { part: path.to_owned() })
    }

    /// Takes the contents of one file out, so that their memory can be freed; the file counts as missing from here on.
    ///
    /// # Errors
    /// [`BundleError::Missing`]; not for a path that the manifest names, the first time.
    pub fn take_file(&mut self, path: &str) -> Result<Vec<u8>, BundleError> {
        self.files.remove(path).ok_or_else(|| BundleError::Missing { part: path.to_owned() })
    }

    /// The first variant that this machine can run.
    ///
    /// # Errors
    /// [`BundleError::NoVariant`] with what each of them requires.
    pub fn variant(&self) -> Result<&Variant, BundleError> {
        let (arch, ram_mib) = (std::env::consts::ARCH, ram_mib());
        let runs = |r: &Requirements| {
            (r.arch.is_empty() || r.arch.iter().any(|a| a == arch)) && r.ram_mib.is_none_or(|m| u64::from(m) <= ram_mib)
        };
        let variants = &self.manifest.variant;
        variants.iter().find(|v| runs(&v.requires)).ok_or_else(|| BundleError::NoVariant {
            here: format!("{arch} with {ram_mib} MiB"),
            variants: variants.iter().map(describe).collect::<Vec<_>>().join("; "),
        })
    }

    fn read_labels(&self) -> Result<Vec<String>, BundleError> {
        let Some(labels) = &self.manifest.labels else { return Ok(Vec::new()) };
        let bytes = self.file(&labels.file)?;
        if bytes.len() > LABELS_BYTES_MAX {
            return Err(BundleError::Labels(format!(
                "{} has {} bytes; at most {LABELS_BYTES_MAX}",
                labels.file,
                bytes.len()
            )));
        }
        let text =
            std::str::from_utf8(bytes).map_err(|_| BundleError::Labels(format!("{} is not UTF-8", labels.file)))?;
        let lines: Vec<String> = text.lines().map(|l| l.trim().to_owned()).collect();
        match lines.iter().position(|l| l.is_empty() || l.len() > 256 || l.chars().any(char::is_control)) {
            Some(i) => {
                Err(BundleError::Labels(format!("{}, line {}: empty, long or not printable", labels.file, i + 1)))
            }
            None => Ok(lines),
        }
    }
}

fn describe(variant: &Variant) -> String {
    let arch = if variant.requires.arch.is_empty() {
        "any architecture".to_owned()
    } else {
        variant.requires.arch.join(" or ")
    };
    let ram = variant.requires.ram_mib.map(|m| format!(", {m} MiB")).unwrap_or_default();
    format!("{} ({arch}{ram})", variant.name)
}

/// Memory of this machine; unlimited where the system does not tell.
fn ram_mib() -> u64 {
    // SAFETY: sysconf reads a number and touches no memory of ours.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    match (u64::try_from(pages), u64::try_from(size)) {
        (Ok(pages), Ok(size)) => pages.saturating_mul(size) >> 20,
        _ => u64::MAX,
    }
}

/// An OCI image layout on disk. It checks digests and sizes of what it reads, and nothing else.
pub(crate) struct Container {
    path: PathBuf,
    /// Offset and size of each entry, for a tar file.
    tar: Option<HashMap<String, (u64, u64)>>,
}

impl Container {
    pub(crate) fn open(path: &Path) -> Result<Self, BundleError> {
        let read = |source| BundleError::Read { path: path.to_owned(), source };
        let not_a_layout = |problem: String| BundleError::NotALayout { path: path.to_owned(), problem };
        let tar = if fs::metadata(path).map_err(read)?.is_dir() {
            None
        } else {
            let entries = tar_index::read(&mut File::open(path).map_err(read)?);
            Some(entries.map_err(|e| not_a_layout(format!("as a tar file, {e}")))?)
        };
        let container = Self { path: path.to_owned(), tar };
        match container.read("oci-layout", 4096) {
            Ok(layout) if oci::is_layout(&layout) => Ok(container),
            Ok(_) => Err(not_a_layout(format!("its oci-layout file does not read {}", oci::LAYOUT))),
            Err(_) if path.join("bundle.toml").is_file() => Err(BundleError::NotPacked { path: path.to_owned() }),
            Err(_) => Err(not_a_layout("there is no oci-layout file in it".to_owned())),
        }
    }

    /// At most `max + 1` bytes, so that the caller sees when there are more.
    fn read(&self, name: &str, max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match &self.tar {
            None => {
                let path = self.path.join(name);
                // A FIFO would block for ever.
                if !fs::metadata(&path)?.is_file() {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
                }
                File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
            }
            Some(entries) => {
                let &(offset, size) = entries.get(name).ok_or(io::ErrorKind::NotFound)?;
                let mut file = File::open(&self.path)?;
                file.seek(SeekFrom::Start(offset))?;
                file.take(size.min(max + 1)).read_to_end(&mut bytes)?;
            }
        }
        Ok(bytes)
    }

    pub(crate) fn index(&self) -> Result<Index, BundleError> {
        let damaged = |problem: String| BundleError::Damaged { part: "index.json".to_owned(), problem };
        let bytes = self.read("index.json", oci::DOCUMENT_BYTES_MAX).map_err(|e| self.unreadable("index.json", e))?;
        if bytes.len() as u64 > oci::DOCUMENT_BYTES_MAX {
            return Err(damaged(format!("more than {} bytes", oci::DOCUMENT_BYTES_MAX)));
        }
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        index.validate().map_err(damaged)?;
        Ok(index)
    }

    /// The blob that `descriptor` points at, with that size and digest.
    pub(crate) fn blob(&self, descriptor: &Descriptor, max: u64) -> Result<Vec<u8>, BundleError> {
        let part = descriptor.annotations.get(oci::TITLE).cloned();
        let part = part.unwrap_or_else(|| format!("{} {}", descriptor.media_type, descriptor.digest.short()));
        self.part(&part, descriptor.digest, descriptor.size, max)
    }

    fn part(&self, part: &str, digest: Sha256Digest, size: u64, max: u64) -> Result<Vec<u8>, BundleError> {
        let damaged = |problem: String| BundleError::Damaged { part: part.to_owned(), problem };
        if size > max {
            return Err(damaged(format!("it claims {size} bytes; at most {max} are accepted")));
        }
        let name = format!("blobs/sha256/{}", digest.hex());
        let bytes = self.read(&name, size).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => BundleError::Missing { part: part.to_owned() },
            _ => self.unreadable(&name, e),
        })?;
        if bytes.len() as u64 != size {
            let more = if bytes.len() as u64 > size { "more than " } else { "" };
            return Err(damaged(format!("it has {more}{} bytes, signed were {size}", size.min(bytes.len() as u64))));
        }
        let found = Sha256Digest::of(&bytes);
        if found != digest {
            return Err(damaged(format!("its digest is {}…, signed was {}…", found.short(), digest.short())));
        }
        Ok(bytes)
    }

    pub(crate) fn image(&self, descriptor: &Descriptor) -> Result<ImageManifest, BundleError> {
        self.parse_image(descriptor, &self.blob(descriptor, oci::DOCUMENT_BYTES_MAX)?)
    }

    pub(crate) fn parse_image(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<ImageManifest, BundleError> {
        serde_json::from_slice(bytes).map_err(|e| BundleError::Damaged {
            part: format!("image manifest {}", descriptor.digest.short()),
            problem: e.to_string(),
        })
    }

    /// Envelopes of signatures over `bundle`. A signature that cannot be read is as good as none.
    fn envelopes(&self, index: &Index, bundle: BundleDigest) -> Result<Vec<Vec<u8>>, BundleError> {
        let images = index.signatures().take(SIGNATURES_MAX).filter_map(|d| self.image(d).ok());
        let whole = images.filter(|i| i.is_about(bundle) && self.blob(&i.config, oci::DOCUMENT_BYTES_MAX).is_ok());
        let layers = whole.filter_map(|i| i.layers.into_iter().next());
        Ok(layers.filter_map(|layer| self.blob(&layer, ENVELOPE_BYTES_MAX as u64).ok()).collect())
    }

    /// All files, each as the packed manifest and the image manifest agree on.
    fn files(&self, packed: &PackedManifest, image: &ImageManifest) -> Result<BTreeMap<String, Vec<u8>>, BundleError> {
        let mut layers: BTreeMap<&str, &Descriptor> = BTreeMap::new();
        for layer in &image.layers {
            layers.insert(layer.annotations.get(oci::TITLE).map_or("", String::as_str), layer);
        }
        let differs = |path: &str| BundleError::Damaged {
            part: path.to_owned(),
            problem: "the image manifest and the bundle's manifest disagree on it".to_owned(),
        };
        if layers.len() != packed.files.len() || image.layers.len() != packed.files.len() {
            return Err(differs("the list of files"));
        }
        let total = packed.files.iter().try_fold(0u64, |n, f| n.checked_add(f.size));
        if total.is_none_or(|t| t > BUNDLE_BYTES_MAX) {
            return Err(BundleError::Damaged {
                part: "the list of files".to_owned(),
                problem: format!("more than {BUNDLE_BYTES_MAX} bytes in all"),
            });
        }
        let one = |entry: &sedge_protocol::manifest::FileEntry| {
            let layer = layers.get(entry.path.as_str()).ok_or_else(|| differs(&entry.path))?;
            if layer.digest != entry.digest || layer.size != entry.size {
                return Err(differs(&entry.path));
            }
            let bytes = self.part(&entry.path, entry.digest, entry.size, crate::pack::FILE_BYTES_MAX)?;
            Ok((entry.path.clone(), bytes))
        };
        packed.files.iter().map(one).collect()
    }

    fn unreadable(&self, name: &str, source: io::Error) -> BundleError {
        match source.kind() {
            io::ErrorKind::NotFound => BundleError::Missing { part: name.to_owned() },
            _ => BundleError::Read { path: self.path.join(name), source },
        }
    }
}

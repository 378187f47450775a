//! The certificate authority: who the server is, and who each device is.
//!
//! The first start makes a directory of mode 0700 with a root that lasts ten years. The root signs the server's
//! certificate, which is renewed at two thirds of its 90 days; one for each device, from a certificate request of which
//! only the public key is taken; and one for each connection of the server to the broker, whose key stays in memory.
//! The root's name on a certificate is what makes `acme:cam-1` that device, so nothing else may sign with it.
//!
//! The directory is made under another name and renamed when it is complete, and every file is replaced by renaming:
//! after a power cut there is a whole authority or none, and a whole server certificate, old or new.

mod issue;
mod peer;
mod request;
mod tls;

pub use issue::Issued;
pub use peer::{Peer, PeerError, Serial};
pub use request::{CSR_BYTES_MAX, CsrError, DeviceKey};
pub use tls::{ServerCertificate, TlsError};

use crate::files;
use rcgen::{Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sedge_protocol::time::UnixSeconds;
use std::path::{Path, PathBuf};

/// How long the root lasts.
const ROOT_LIFE_S: i64 = 3650 * DAY_S;
/// How long all other certificates last.
pub const LIFE_S: i64 = 90 * DAY_S;
/// Certificates are good from this long ago: clocks of devices and of a second server may be late.
pub const CLOCK_SKEW_S: i64 = DAY_S;
const DAY_S: i64 = 86_400;
/// 2026-01-01. A first start with a clock before it would make a root that expires too early, or is already expired.
const CLOCK_MIN: UnixSeconds = UnixSeconds(1_767_225_600);
/// Most names of a server; stops a configuration that no client would accept.
const SERVER_NAMES_MAX: usize = 64;

/// Why the certificate authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// `read`, `write`, …
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{} is damaged; restore it from a backup", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Others could sign as this authority.
    #[error("{} may be read by others; run `chmod -R go= {}`", path.display(), path.display())]
    Exposed {
        /// The key file.
        path: PathBuf,
    },
    /// The clock is before this program's time.
    #[error("the clock says {0}; set it before the first start, certificates are dated by it")]
    Clock(UnixSeconds),
    /// A name that no certificate can carry.
    #[error("`{0}` is no host name or address that a certificate can carry; correct `tls.names`")]
    ServerName(String),
    /// No names, or too many.
    #[error("`tls.names` has {0} names; give 1 to {SERVER_NAMES_MAX}")]
    ServerNames(usize),
    /// The library refused to sign.
    #[error("cannot make the certificate of {name}")]
    Sign {
        /// Whose.
        name: String,
        /// The cause.
        source: rcgen::Error,
    },
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// The certificate authority.
pub struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_not_after: UnixSeconds,
}

impl Pki {
    /// Opens the authority in `dir`, or makes one there.
    ///
    /// # Errors
    /// When files cannot be read or written, are damaged, or their key may be read by others; on a first start, also
    /// when the clock cannot be right.
    pub fn open(dir: &Path, now: UnixSeconds) -> Result<Self, PkiError> {
        if !dir.exists() {
            create(dir, now)?;
            tracing::info!(directory = %dir.display(), "made a certificate authority; back it up");
        }
        let key_path = dir.join(ROOT_KEY);
        if files::is_open_to_others(&key_path).map_err(|source| file("read", &key_path, source))? {
            return Err(PkiError::Exposed { path: key_path });
        }
        let key = std::fs::read_to_string(&key_path).map_err(|source| file("read", &key_path, source))?;
        let key = KeyPair::from_pem(&key).map_err(|source| damaged(&key_path, source))?;
        let root_path = dir.join(ROOT);
        let root = std::fs::read(&root_path).map_err(|source| file("read", &root_path, source))?;
        let root = CertificateDer::from_pem_slice(&root).map_err(|e| damaged(&root_path, e.to_string()))?;
        let root_not_after = peer::validity(&root).map_err(|source| damaged(&root_path, source))?.1;
        if peer::public_key(&root).map_err(|source| damaged(&root_path, source))? != key.public_key_raw() {
            return Err(damaged(&root_path, "it is not the certificate of root.key"));
        }
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(|source| damaged(&root_path, source))?;
        Ok(Self { dir: dir.to_owned(), issuer, root, root_not_after })
    }

    /// The root certificate, what tokens pin.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The root certificate in a PEM file, for brokers.
    pub fn root_path(&self) -> PathBuf {
        self.dir.join(ROOT)
    }

    /// The server's certificate and private key in one PEM file; see [`Pki::renew_server_certificate`].
    pub fn server_path(&self) -> PathBuf {
        self.dir.join("server.pem")
    }
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").field("dir", &self.dir).finish_non_exhaustive()
    }
}

const ROOT: &str = "root.pem";
const ROOT_KEY: &str = "root.key";

fn create(dir: &Path, now: UnixSeconds) -> Result<(), PkiError> {
    if now < CLOCK_MIN {
        return Err(PkiError::Clock(now));
    }
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = dir.with_file_name(name);
    match std::fs::remove_dir_all(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(file("remove", &new, e)),
        _ => {}
    }
    files::private_directory(&new).map_err(|source| file("create", &new, source))?;
    let (root, key) = issue::root(now)?;
    for (path, pem) in [(new.join(ROOT_KEY), key), (new.join(ROOT), root)] {
        files::write_private(&path, pem.as_bytes()).map_err(|source| file("write", &path, source))?;
    }
    std::fs::rename(&new, dir).and_then(|()| files::sync_parent(dir)).map_err(|source| file("create", dir, source))
}

fn file(verb: &'static str, path: &Path, source: std::io::Error) -> PkiError {
    PkiError::File { verb, path: path.to_owned(), source }
}

fn damaged(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PkiError {
    PkiError::Damaged { path: path.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests;

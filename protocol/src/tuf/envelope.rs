//! A metadata file: what is signed, and the signatures.
//!
//! The signed bytes are made canonical before anything in them is interpreted, with every field that is unknown here.

use super::canonical::{canonical, parse};
use super::error::{Role, UpdateError};
use super::key::Signature;
use super::metadata::Payload;
use serde_json::Value;

/// Most signatures of one file; stops a file that only costs time.
pub const SIGNATURES_MAX: usize = 256;

/// A metadata file that has been read, and not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Envelope<T> {
    pub(super) payload: T,
    /// What the signatures are over.
    pub(super) canonical: Vec<u8>,
    pub(super) signatures: Vec<Signature>,
    /// As it came.
    pub(super) file: Vec<u8>,
}

/// A file's two halves. Anything beside them is not signed and not looked at.
pub(super) struct Halves {
    pub(super) signed: Value,
    pub(super) canonical: Vec<u8>,
    pub(super) signatures: Vec<Signature>,
}

pub(super) fn check_length(role: &Role, file: &[u8], bytes_max: u64) -> Result<(), UpdateError> {
    if u64::try_from(file.len()).is_ok_and(|bytes| bytes <= bytes_max) {
        return Ok(());
    }
    Err(UpdateError::TooLong { role: role.clone(), bytes: file.len(), bytes_max })
}

pub(super) fn split(role: &Role, file: &[u8], bytes_max: u64) -> Result<Halves, UpdateError> {
    check_length(role, file, bytes_max)?;
    let json = |source| UpdateError::Json { role: role.clone(), source };
    let malformed = |problem: String| UpdateError::Malformed { role: role.clone(), problem };
    let mut value = parse(file).map_err(json)?;
    let mut half = |name: &str| value.get_mut(name).map(Value::take);
    let (signed, signatures) = (half("signed"), half("signatures"));
    let Some(signed @ Value::Object(_)) = signed else {
        return Err(malformed("it has no object `signed`".to_owned()));
    };
    let Some(Value::Array(signatures)) = signatures else {
        return Err(malformed("it has no list `signatures`".to_owned()));
    };
    if signatures.len() > SIGNATURES_MAX {
        return Err(malformed(format!("it has {} signatures, more than {SIGNATURES_MAX}", signatures.len())));
    }
    let signatures = serde_json::from_value(Value::Array(signatures))
        .map_err(|e| malformed(format!("a signature is malformed: {e}")))?;
    let canonical = canonical(&signed).map_err(json)?;
    Ok(Halves { signed, canonical, signatures })
}

impl<T: Payload> Envelope<T> {
    pub(super) fn read(role: &Role, file: &[u8], bytes_max: u64) -> Result<Self, UpdateError> {
        let Halves { signed, canonical, signatures } = split(role, file, bytes_max)?;
        let malformed = |problem| UpdateError::Malformed { role: role.clone(), problem };
        let payload: T = serde_json::from_value(signed).map_err(|e| malformed(e.to_string()))?;
        payload.header().check(T::KIND).and_then(|()| payload.check()).map_err(malformed)?;
        Ok(Self { payload, canonical, signatures, file: file.to_vec() })
    }

    pub(super) fn version(&self) -> u64 {
        self.payload.header().version
    }
}

//! Signatures over bundles: DSSE 1.0 envelopes around an in-toto Statement that names the bundle's digest.
//!
//! A signature says who made a bundle, and is all that a bundle on a stick has. Which bundles a fleet may run is said
//! by update metadata, apart from this. Ed25519 throughout, verified strictly (no small-order keys, no malleable
//! signatures).

use crate::id::BundleName;
use crate::{BundleDigest, Version};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// DSSE payload type of in-toto statements.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "urn:sedge:bundle:v1";
/// Longest envelope that is read; stops endless data.
pub const ENVELOPE_BYTES_MAX: usize = 64 * 1024;
/// Most signatures of one envelope; stops an envelope that only costs time.
const SIGNATURES_MAX: usize = 64;

/// SHA-256 of the key's SubjectPublicKeyInfo: says which key is meant, and proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key that signs. It prints as its [`KeyId`], never as itself.
pub struct SecretKey(ed25519_dalek::SigningKey);

/// A key that verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

/// A text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 {kind} key in {form} form: {problem}")]
pub struct KeyError {
    kind: &'static str,
    form: &'static str,
    problem: String,
}

impl SecretKey {
    /// The key whose seed is `seed`; take it from the system's random source.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// Reads PKCS#8 PEM, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        ed25519_dalek::SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|e| KeyError {
            kind: "secret",
            form: "PEM",
            problem: e.to_string(),
        })
    }

    /// Writes PKCS#8 PEM.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        match self.0.to_pkcs8_pem(LineEnding::LF) {
            Ok(pem) => Ok(pem.to_string()),
            Err(e) => Err(KeyError { kind: "secret", form: "PEM", problem: e.to_string() }),
        }
    }

    /// The key that verifies what this one signs.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs `message`; callers say first what kind of message it is, so that one cannot pass for another.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public().id())
    }
}

impl PublicKey {
    /// Reads the 32 bytes of RFC 8032.
    ///
    /// # Errors
    /// When they are no point of the curve.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        ed25519_dalek::VerifyingKey::from_bytes(bytes).map(Self).map_err(|e| KeyError {
            kind: "public",
            form: "raw",
            problem: e.to_string(),
        })
    }

    /// The 32 bytes of RFC 8032.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Whether `signature` is this key's over `message`, strictly.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        ed25519_dalek::Signature::from_slice(signature).is_ok_and(|s| self.0.verify_strict(message, &s).is_ok())
    }

    /// Reads SubjectPublicKeyInfo PEM.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        ed25519_dalek::VerifyingKey::from_public_key_pem(pem).map(Self).map_err(|e| KeyError {
            kind: "public",
            form: "PEM",
            problem: e.to_string(),
        })
    }

    /// Writes SubjectPublicKeyInfo PEM.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        self.0.to_public_key_pem(LineEnding::LF).map_err(|e| KeyError {
            kind: "public",
            form: "PEM",
            problem: e.to_string(),
        })
    }

    /// Which key this is.
    pub fn id(&self) -> KeyId {
        // RFC 8410: the SubjectPublicKeyInfo of an Ed25519 key is this prefix and the key.
        let mut spki = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        spki.extend_from_slice(self.0.as_bytes());
        KeyId(crate::Sha256Digest::of(&spki).hex())
    }
}

/// A DSSE envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EnvelopeSignature {
    keyid: KeyId,
    sig: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Debug, Serialize, Deserialize)]
struct Subject {
    name: String,
    digest: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Predicate {
    version: Version,
}

/// Pre-authentication encoding of DSSE 1.0: what is signed.
fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// Signs that `key`'s holder stands behind the bundle.
pub fn sign_bundle(name: &BundleName, version: &Version, bundle: BundleDigest, key: &SecretKey) -> Envelope {
    let statement = Statement {
        kind: STATEMENT_TYPE.to_owned(),
        subject: vec![Subject {
            name: name.to_string(),
            digest: BTreeMap::from([("sha256".to_owned(), bundle.0.hex())]),
        }],
        predicate_type: PREDICATE_TYPE.to_owned(),
        predicate: Predicate { version: version.clone() },
    };
    // A value made of strings and maps with string keys always serializes.
    let payload = serde_json::to_vec(&statement).unwrap_or_default();
    let signature = key.sign(&pre_authentication_encoding(PAYLOAD_TYPE, &payload));
    Envelope {
        payload: BASE64_STANDARD.encode(&payload),
        payload_type: PAYLOAD_TYPE.to_owned(),
        signatures: vec![EnvelopeSignature { keyid: key.public().id(), sig: BASE64_STANDARD.encode(signature) }],
    }
}

/// Whose signatures count, and how many of them are needed.
#[derive(Debug, Clone)]
pub struct TrustPolicy {
    keys: Vec<PublicKey>,
    threshold: usize,
}

impl TrustPolicy {
    /// `threshold` different keys out of `keys` must have signed.
    ///
    /// # Errors
    /// [`TrustError`] when the threshold is 0 or more than there are different keys.
    pub fn new(keys: Vec<PublicKey>, threshold: usize) -> Result<Self, TrustError> {
        let distinct: BTreeSet<KeyId> = keys.iter().map(PublicKey::id).collect();
        if threshold == 0 || threshold > distinct.len() {
            return Err(TrustError { threshold, keys: distinct.len() });
        }
        Ok(Self { keys, threshold })
    }

    /// Which of the trusted keys have signed `bundle` in `envelopes`. An envelope that is malformed, about another
    /// bundle or by a key that is not trusted counts for nothing.
    ///
    /// # Errors
    /// [`SignatureError`] when they are fewer than the threshold, with what was found instead.
    pub fn verify(&self, bundle: BundleDigest, envelopes: &[Vec<u8>]) -> Result<Vec<KeyId>, SignatureError> {
        let mut signers = BTreeSet::new();
        let mut problems = Vec::new();
        for envelope in envelopes {
            match self.verify_one(bundle, envelope) {
                Ok(found) if found.is_empty() => {
                    problems.push("a signature is by a key that is not trusted".to_owned())
                }
                Ok(found) => signers.extend(found),
                Err(problem) => problems.push(problem),
            }
        }
        if signers.len() >= self.threshold {
            return Ok(signers.into_iter().collect());
        }
        if envelopes.is_empty() {
            return Err(SignatureError::Unsigned);
        }
        problems.truncate(4);
        Err(SignatureError::TooFew { valid: signers.len(), threshold: self.threshold, problems: problems.join("; ") })
    }

    fn verify_one(&self, bundle: BundleDigest, envelope: &[u8]) -> Result<BTreeSet<KeyId>, String> {
        if envelope.len() > ENVELOPE_BYTES_MAX {
            return Err(format!("an envelope has {} bytes, more than {ENVELOPE_BYTES_MAX}", envelope.len()));
        }
        let envelope: Envelope =
            serde_json::from_slice(envelope).map_err(|e| format!("an envelope is not DSSE JSON: {e}"))?;
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(format!("an envelope is of type {}", envelope.payload_type.escape_default()));
        }
        if envelope.signatures.len() > SIGNATURES_MAX {
            return Err(format!("an envelope has {} signatures", envelope.signatures.len()));
        }
        let payload = BASE64_STANDARD.decode(&envelope.payload).map_err(|e| format!("a payload is not base64: {e}"))?;
        let signed = pre_authentication_encoding(&envelope.payload_type, &payload);
        let mut signers = BTreeSet::new();
        for signature in &envelope.signatures {
            let Some(key) = self.keys.iter().find(|k| k.id() == signature.keyid) else { continue };
            let bytes =
                BASE64_STANDARD.decode(&signature.sig).map_err(|e| format!("a signature is not base64: {e}"))?;
            if !key.verifies(&signed, &bytes) {
                return Err(format!("the signature by {} does not verify", signature.keyid));
            }
            signers.insert(key.id());
        }
        // Only signed bytes are interpreted.
        if signers.is_empty() {
            return Ok(signers);
        }
        let statement: Statement =
            serde_json::from_slice(&payload).map_err(|e| format!("a signed statement is malformed: {e}"))?;
        if statement.kind != STATEMENT_TYPE || statement.predicate_type != PREDICATE_TYPE {
            return Err("a signed statement is not about a bundle".to_owned());
        }
        let wanted = bundle.0.hex();
        if !statement.subject.iter().any(|s| s.digest.get("sha256") == Some(&wanted)) {
            return Err("a signature is valid, but for another bundle".to_owned());
        }
        Ok(signers)
    }
}

/// A policy that cannot be met or means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a threshold of {threshold} with {keys} different keys; it lies between 1 and the number of keys")]
pub struct TrustError {
    threshold: usize,
    keys: usize,
}

/// Why a bundle is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No signature at all.
    #[error("it carries no signature; sign it with `sedge bundle sign`")]
    Unsigned,
    /// Fewer trusted signatures than needed.
    #[error("{valid} of {threshold} trusted signatures needed: {problems}")]
    TooFew {
        /// Trusted keys that signed.
        valid: usize,
        /// Keys needed.
        threshold: usize,
        /// What was found instead.
        problems: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sha256Digest;

    fn digest() -> BundleDigest {
        BundleDigest(Sha256Digest::of(b"a bundle"))
    }

    fn signed(seed: u8, bundle: BundleDigest) -> Vec<u8> {
        let key = SecretKey::from_seed([seed; 32]);
        serde_json::to_vec(&sign_bundle(&"digits".parse().expect("a name"), &Version::new(1, 0, 0), bundle, &key))
            .expect("json")
    }

    fn policy(seeds: &[u8], threshold: usize) -> TrustPolicy {
        let keys = seeds.iter().map(|&s| SecretKey::from_seed([s; 32]).public()).collect();
        TrustPolicy::new(keys, threshold).expect("a policy that can be met")
    }

    #[test]
    fn pre_authentication_encoding_is_that_of_the_specification() {
        // The vector of secure-systems-lab/dsse, protocol.md.
        let pae = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(pae, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn key_ids_are_the_hash_of_the_public_key_info() {
        let key = SecretKey::from_seed([7; 32]).public();
        let der = key.0.to_public_key_der().expect("der");
        assert_eq!(key.id().0, Sha256Digest::of(der.as_bytes()).hex());
    }

    #[test]
    fn keys_survive_pem() {
        let key = SecretKey::from_seed([3; 32]);
        let again = SecretKey::from_pem(&key.to_pem().expect("pem")).expect("pem");
        assert_eq!(again.public(), key.public());
        assert_eq!(PublicKey::from_pem(&key.public().to_pem().expect("pem")), Ok(key.public()));
        assert!(SecretKey::from_pem("hello").is_err());
        assert!(!format!("{key:?}").contains(&format!("{:?}", [3u8; 32])));
    }

    #[test]
    fn a_threshold_counts_different_keys() {
        let d = digest();
        let two = policy(&[1, 2, 3], 2);
        assert_eq!(two.verify(d, &[signed(1, d), signed(3, d)]).map(|k| k.len()), Ok(2));
        let same = two.verify(d, &[signed(1, d), signed(1, d)]).expect_err("one key twice");
        assert!(same.to_string().starts_with("1 of 2 trusted signatures"), "{same}");
        assert!(TrustPolicy::new(vec![], 0).is_err());
        assert!(TrustPolicy::new(vec![SecretKey::from_seed([1; 32]).public(); 2], 2).is_err());
    }

    #[test]
    fn what_does_not_count_is_named() {
        let d = digest();
        let one = policy(&[1], 1);
        assert_eq!(one.verify(d, &[]), Err(SignatureError::Unsigned));
        let other = BundleDigest(Sha256Digest::of(b"another"));
        let flipped = String::from_utf8(signed(1, d)).expect("json").replacen("\"sig\":\"", "\"sig\":\"!", 1);
        for (envelope, expected) in [
            (signed(2, d), "not trusted"),
            (signed(1, other), "for another bundle"),
            (b"{".to_vec(), "not DSSE JSON"),
            (flipped.into_bytes(), "a signature is not base64"),
            (vec![b' '; ENVELOPE_BYTES_MAX + 1], "more than"),
        ] {
            let e = one.verify(d, &[envelope]).expect_err(expected);
            assert!(e.to_string().contains(expected), "{e}");
        }
        let mut tampered: Envelope = serde_json::from_slice(&signed(1, d)).expect("json");
        tampered.payload = BASE64_STANDARD.encode(b"{}");
        let e = one.verify(d, &[serde_json::to_vec(&tampered).expect("json")]).expect_err("tampered");
        assert!(e.to_string().contains("does not verify"), "{e}");
    }
}

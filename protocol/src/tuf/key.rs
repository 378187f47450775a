//! Keys as metadata lists them, and counting whose signatures are valid.
//!
//! A threshold counts different keys, not key ids and not signatures: one key listed under two ids, or signing twice,
//! counts once. Key ids are names within a file and are not held against a hash (TAP 12, as python-tuf does).

use super::canonical::canonical;
use crate::Sha256Digest;
use crate::signature::PublicKey;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Name of a key within metadata. It proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for KeyId {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key as metadata lists it. One of an unknown type or scheme is kept, and verifies nothing by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// As it stands in the file; the signature covers fields that are unknown here.
    object: Value,
    keytype: String,
    scheme: String,
    keyval: Value,
    ed25519: Option<PublicKey>,
}

/// A key that this crate cannot verify with, for a [`ForeignVerifier`].
#[derive(Debug, Clone, Copy)]
pub struct ForeignKey<'a> {
    /// For instance `ecdsa`.
    pub keytype: &'a str,
    /// For instance `ecdsa-sha2-nistp256`.
    pub scheme: &'a str,
    /// The key itself.
    pub keyval: &'a Value,
}

/// Whether the signature (last) over the message (second) is valid. Sedge signs with Ed25519 alone and passes none;
/// a client for repositories of other makes can.
pub type ForeignVerifier = fn(ForeignKey<'_>, &[u8], &[u8]) -> bool;

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Key {
    /// The key as metadata lists it.
    pub fn ed25519(key: &PublicKey) -> Self {
        let keyval = json!({ "public": to_hex(key.as_bytes()) });
        Self {
            object: json!({ "keytype": "ed25519", "scheme": "ed25519", "keyval": keyval }),
            keytype: "ed25519".to_owned(),
            scheme: "ed25519".to_owned(),
            keyval,
            ed25519: Some(key.clone()),
        }
    }

    /// SHA-256 of the key's canonical form, by which files made here name it.
    pub fn id(&self) -> KeyId {
        let named = json!({ "keytype": self.keytype, "scheme": self.scheme, "keyval": self.keyval });
        // A key read from a file was canonicalised with it, and one made here holds texts only.
        KeyId(Sha256Digest::of(&canonical(&named).unwrap_or_default()).hex())
    }

    /// What makes it the same key under whatever id and with whatever remarks.
    fn identity(&self) -> KeyId {
        match &self.ed25519 {
            Some(key) => Self::ed25519(key).id(),
            None => self.id(),
        }
    }

    fn verifies(&self, message: &[u8], signature: &[u8], foreign: Option<ForeignVerifier>) -> bool {
        match (&self.ed25519, foreign) {
            (Some(key), _) => key.verifies(message, signature),
            (None, Some(foreign)) => {
                let key = ForeignKey { keytype: &self.keytype, scheme: &self.scheme, keyval: &self.keyval };
                foreign(key, message, signature)
            }
            (None, None) => false,
        }
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        let text = |name| match object.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => Err(D::Error::custom(format_args!("a key without `{name}`"))),
        };
        let (keytype, scheme) = (text("keytype")?, text("scheme")?);
        let keyval = match object.get("keyval") {
            Some(keyval @ Value::Object(_)) => keyval.clone(),
            _ => return Err(D::Error::custom("a key without `keyval`")),
        };
        // An Ed25519 key that is no point of the curve verifies nothing, like one of an unknown type.
        let ed25519 = if keytype == "ed25519" && scheme == "ed25519" {
            let bytes = keyval.get("public").and_then(Value::as_str).and_then(from_hex);
            bytes.and_then(|b| PublicKey::from_bytes(b.as_array()?).ok())
        } else {
            None
        };
        Ok(Self { object, keytype, scheme, keyval, ed25519 })
    }
}

/// Whose signatures count for a role, and how many are needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// The keys, by their names in the same file.
    pub keyids: Vec<KeyId>,
    /// Different keys needed, at least 1.
    pub threshold: u64,
    /// Fields that are unknown here.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, Value>,
}

impl RoleKeys {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.threshold == 0 {
            return Err("the threshold is 0; it is at least 1".to_owned());
        }
        let distinct: BTreeSet<_> = self.keyids.iter().collect();
        if distinct.len() != self.keyids.len() {
            return Err("a key id is listed twice for one role".to_owned());
        }
        Ok(())
    }

    /// The different keys that count, however they are named.
    pub(super) fn identities(&self, keys: &BTreeMap<KeyId, Key>) -> BTreeSet<KeyId> {
        self.keyids.iter().filter_map(|id| keys.get(id)).map(Key::identity).collect()
    }
}

/// A signature as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Name of the key.
    pub keyid: KeyId,
    /// Hex digits; empty where someone has yet to sign.
    pub sig: String,
}

/// The different keys that count for `role` and have signed `message`.
pub(super) fn signers(
    keys: &BTreeMap<KeyId, Key>,
    role: &RoleKeys,
    message: &[u8],
    signatures: &[Signature],
    foreign: Option<ForeignVerifier>,
) -> BTreeSet<KeyId> {
    let mut out = BTreeSet::new();
    for signature in signatures {
        let Some(key) = keys.get(&signature.keyid).filter(|_| role.keyids.contains(&signature.keyid)) else { continue };
        let Some(bytes) = from_hex(&signature.sig) else { continue };
        if key.verifies(message, &bytes, foreign) {
            out.insert(key.identity());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::SecretKey;

    #[test]
    fn key_ids_are_those_of_securesystemslib() {
        // securesystemslib 1.6.0: SSlibKey id of the Ed25519 key whose seed is 32 times 7.
        let key = Key::ed25519(&SecretKey::from_seed([7; 32]).public());
        assert_eq!(key.id().as_str(), include_str!("../../tests/vectors/key-id-seed-7.txt").trim());
    }

    #[test]
    fn a_key_of_an_unknown_scheme_or_off_the_curve_is_kept_and_verifies_nothing() {
        for text in [
            r#"{"keytype":"rsa","scheme":"rsassa-pss-sha256","keyval":{"public":"PEM"}}"#,
            r#"{"keytype":"ed25519","scheme":"ed25519ph","keyval":{"public":"00"}}"#,
            r#"{"keytype":"ed25519","scheme":"ed25519","keyval":{"public":"zz"}}"#,
            r#"{"keytype":"ed25519","scheme":"ed25519","keyval":{"public":"00"}}"#,
        ] {
            let key: Key = serde_json::from_str(text).expect(text);
            assert!(!key.verifies(b"message", &[0; 64], None));
            assert_eq!(serde_json::to_value(&key).expect("json"), serde_json::from_str::<Value>(text).expect("json"));
        }
        assert!(serde_json::from_str::<Key>(r#"{"keytype":"ed25519","keyval":{}}"#).is_err());
        assert!(serde_json::from_str::<Key>(r#"{"keytype":"ed25519","scheme":"ed25519"}"#).is_err());
    }

    #[test]
    fn hex_has_pairs_of_digits() {
        assert_eq!(from_hex("00fF"), Some(vec![0, 255]));
        for text in ["0", "0g", "+1", "ä0"] {
            assert_eq!(from_hex(text), None, "{text}");
        }
    }
}

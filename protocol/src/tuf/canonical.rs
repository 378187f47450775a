//! JSON as signatures need it: read strictly, written in one way only.
//!
//! What is signed is the canonical form of a value (OLPC canonical JSON, as securesystemslib writes it), so two readers
//! must never see two values in the same bytes: a key that occurs twice is refused, as is every number that is not a
//! 64-bit integer. Files on the wire need not be canonical themselves.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Deepest nesting; stops a file that only exhausts the stack.
pub const DEPTH_MAX: usize = 32;

/// Why bytes are not JSON that can be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, or JSON that two readers could understand differently.
    #[error("not strict JSON: {0}")]
    Syntax(String),
    /// Canonical JSON has no fractions.
    #[error("`{at}` is {number}, and only whole 64-bit numbers can be signed; write it as text")]
    Fraction {
        /// Where, as a JSON pointer.
        at: String,
        /// The number.
        number: String,
    },
    /// Deeper than [`DEPTH_MAX`].
    #[error("`{at}` is nested deeper than {DEPTH_MAX} levels")]
    TooDeep {
        /// Where, as a JSON pointer.
        at: String,
    },
}

/// Reads JSON strictly: no duplicate keys, no fractions, at most [`DEPTH_MAX`] levels, nothing behind the value.
///
/// # Errors
/// [`JsonError::Syntax`] with line and column. The caller limits the size.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut deserializer);
    match value.and_then(|v| deserializer.end().map(|()| v)) {
        Ok(value) => Ok(value),
        Err(e) => Err(JsonError::Syntax(e.to_string())),
    }
}

struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Err(E::custom(format_args!("{value} is not a whole 64-bit number")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(value) = access.next_element_seed(self.deeper()?)? {
            out.push(value);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if out.contains_key(&key) {
                let key: String = key.chars().take(80).flat_map(char::escape_default).collect();
                return Err(A::Error::custom(format_args!("key `{key}` occurs twice")));
            }
            let value = access.next_value_seed(self.deeper()?)?;
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

/// Writes OLPC canonical JSON: keys sorted by code point, no whitespace, only `"` and `\` escaped, no fractions. The
/// result is what gets signed and hashed; it is not always JSON, since control characters stand as they are.
///
/// # Errors
/// [`JsonError`] when the value holds a fraction or is too deep.
pub fn canonical(value: &Value) -> Result<Vec<u8>, JsonError> {
    let mut out = Vec::new();
    let mut path = Vec::new();
    write(value, &mut path, &mut out)?;
    Ok(out)
}

/// One step from a value to one within it.
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

fn pointer(path: &[Step<'_>]) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Key(key) => out.extend(["/", key]),
            Step::Index(index) => out.push_str(&format!("/{index}")),
        }
    }
    out.chars().take(200).flat_map(char::escape_default).collect()
}

fn write<'a>(value: &'a Value, path: &mut Vec<Step<'a>>, out: &mut Vec<u8>) -> Result<(), JsonError> {
    if path.len() > DEPTH_MAX {
        return Err(JsonError::TooDeep { at: pointer(path) });
    }
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) if number.is_u64() || number.is_i64() => {
            out.extend_from_slice(number.to_string().as_bytes());
        }
        Value::Number(number) => {
            return Err(JsonError::Fraction { at: pointer(path), number: number.to_string() });
        }
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                path.push(Step::Index(index));
                write(item, path, out)?;
                path.pop();
            }
            out.push(b']');
        }
        Value::Object(map) => {
            // Sorted here and not left to the map: its order depends on a feature of serde_json.
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| key.as_str());
            out.push(b'{');
            for (index, (key, item)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_text(key, out);
                out.push(b':');
                path.push(Step::Key(key));
                write(item, path, out)?;
                path.pop();
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text.as_bytes() {
        if byte == b'"' || byte == b'\\' {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(value: &Value) -> String {
        String::from_utf8(canonical(value).expect("canonical")).expect("UTF-8")
    }

    #[test]
    fn canonical_form_has_one_spelling() {
        let value =
            parse(b" { \"b\" : [1, -2, true, null], \"a\\n\\\"\\\\\": \"\\u00e4\\ud83d\\ude00\" } ").expect("json");
        assert_eq!(text(&value), "{\"a\n\\\"\\\\\":\"ä😀\",\"b\":[1,-2,true,null]}");
        assert_eq!(text(&json!({})), "{}");
        assert_eq!(text(&json!([])), "[]");
        assert_eq!(text(&json!({ "\u{ff61}": 1, "\u{10000}": 2, "Z": 3, "a": 4 })), r#"{"Z":3,"a":4,"｡":1,"𐀀":2}"#);
        assert_eq!(text(&json!([u64::MAX, i64::MIN])), "[18446744073709551615,-9223372036854775808]");
    }

    #[test]
    fn what_two_readers_could_see_differently_is_refused() {
        let deep = format!("{}{}", "[".repeat(DEPTH_MAX + 1), "]".repeat(DEPTH_MAX + 1));
        for (bytes, expected) in [
            (&b"{\"a\":1,\"a\":1}"[..], "key `a` occurs twice"),
            (b"{\"a\":{\"b\":1,\"\\u0062\":2}}", "key `b` occurs twice"),
            (b"1.5", "1.5 is not a whole"),
            (b"1.0", "1 is not a whole"),
            (b"1e3", "1000 is not a whole"),
            (b"18446744073709551616", "is not a whole"),
            (b"{} {}", "trailing characters"),
            (b"{\"a\":1,}", "trailing comma"),
            (b"\"\\ud800\"", "hex escape"),
            (b"\"\xff\"", "invalid unicode"),
            (b"\xef\xbb\xbf{}", "expected value"),
            (b"", "EOF"),
            (b"NaN", "expected value"),
            (deep.as_bytes(), "nested deeper than 32 levels"),
        ] {
            let e = parse(bytes).expect_err(expected);
            assert!(e.to_string().contains(expected), "{e}");
        }
        assert!(parse(format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX)).as_bytes()).is_ok());
    }

    #[test]
    fn what_cannot_be_signed_is_named_with_its_place() {
        let e = canonical(&json!({ "settings": { "zones": [1, 0.5] } })).expect_err("fraction");
        assert_eq!(
            e.to_string(),
            "`/settings/zones/1` is 0.5, and only whole 64-bit numbers can be signed; write it as text"
        );
        let deep = (0..=DEPTH_MAX).fold(json!(0), |inner, _| json!([inner]));
        assert!(matches!(canonical(&deep), Err(JsonError::TooDeep { .. })));
    }
}

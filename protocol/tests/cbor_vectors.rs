//! The CBOR codec against RFC 8949 Appendix A, against Python's cbor2, and against a corpus of hostile inputs whose
//! names begin with what must become of them.

use sedge_protocol::cbor::{Limits, decode_strict, encode};
use serde::Deserialize;
use serde_json::Value;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect()
}

/// Any value; serde_json's cannot hold byte strings, NaN and the smallest integers.
type Any = serde_cbor::Value;

#[derive(Deserialize)]
struct AppendixA {
    hex: String,
    accepted: bool,
    rule: Option<String>,
    json: Option<Value>,
    written: Option<String>,
}

#[test]
fn appendix_a_of_rfc_8949() {
    let text = std::fs::read_to_string(path("vectors/cbor/appendix_a.json")).expect("committed");
    let vectors: Vec<AppendixA> = serde_json::from_str(&text).expect("json");
    assert_eq!(vectors.len(), 81);
    for v in vectors {
        let bytes = unhex(&v.hex);
        let decoded = decode_strict::<Any>(&bytes, Limits::default());
        if !v.accepted {
            let rule = v.rule.expect("a rule");
            let e = decoded.expect_err(&v.hex).to_string();
            assert!(e.contains(&rule), "{}: {e}", v.hex);
            continue;
        }
        let written = unhex(v.written.as_ref().unwrap_or(&v.hex));
        assert_eq!(encode(&decoded.expect(&v.hex)).expect(&v.hex), written, "{}", v.hex);
        if let Some(json) = v.json {
            assert_eq!(decode_strict::<Value>(&bytes, Limits::default()).expect(&v.hex), json);
            assert_eq!(encode(&json).expect(&v.hex), written);
        }
    }
}

#[derive(Deserialize)]
struct Cbor2 {
    hex: String,
    json: Value,
}

#[test]
fn what_cbor2_writes_is_what_is_written_here() {
    let text = std::fs::read_to_string(path("vectors/cbor/cbor2.json")).expect("committed");
    let vectors: Vec<Cbor2> = serde_json::from_str(&text).expect("json");
    assert!(vectors.len() >= 60);
    for v in vectors {
        let bytes = unhex(&v.hex);
        assert_eq!(encode(&v.json).expect("encodes"), bytes, "{}", v.json);
        assert_eq!(decode_strict::<Value>(&bytes, Limits::default()).expect("decodes"), v.json);
    }
}

#[test]
fn the_corpus_is_accepted_or_refused_as_named() {
    let mut seen = 0;
    for entry in std::fs::read_dir(path("corpus/cbor")).expect("committed") {
        let file = entry.expect("entry").path();
        let name = file.file_stem().expect("name").to_string_lossy().into_owned();
        let bytes = std::fs::read(&file).expect("readable");
        let accepted = decode_strict::<Any>(&bytes, Limits::default()).is_ok();
        assert_eq!(accepted, name.starts_with("accepted-"), "{name}");
        assert!(accepted || name.starts_with("refused-"), "{name}");
        // And whatever one byte becomes, nothing panics.
        for at in 0..bytes.len().min(64) {
            let mut changed = bytes.clone();
            for byte in 0..=255 {
                changed[at] = byte;
                let _ = decode_strict::<Any>(&changed, Limits::default());
            }
        }
        seen += 1;
    }
    assert!(seen >= 40, "{seen} files");
}

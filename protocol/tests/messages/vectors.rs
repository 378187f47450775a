//! Committed bytes: what is written today is what was written when each vector was made.

use super::examples::{Example, examples};
use super::{docs, hold, read};
use std::collections::BTreeSet;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n"
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex")).collect()
}

#[test]
fn each_vector_is_written_byte_for_byte_and_reads_back() {
    let folder = docs().join("vectors");
    for Example { name, cbor, json, cbor_to_cbor, json_to_cbor, .. } in examples() {
        hold(&folder.join(format!("{name}.hex")), &hex(&cbor));
        hold(&folder.join(format!("{name}.json")), &format!("{json}\n"));
        let committed = unhex(&read(&folder.join(format!("{name}.hex"))));
        assert_eq!(cbor_to_cbor(&committed).expect(name), committed, "{name}");
        let text = read(&folder.join(format!("{name}.json")));
        assert_eq!(json_to_cbor(text.as_bytes()).expect(name), committed, "{name}");
    }
}

#[test]
fn no_vector_is_left_behind() {
    let names: BTreeSet<String> = examples().iter().map(|e| e.name.to_owned()).collect();
    for entry in std::fs::read_dir(docs().join("vectors")).expect("committed") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "hex" || e == "json") {
            let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
            assert!(names.contains(&stem), "{}", path.display());
        }
    }
}

/// Whatever one byte of a message becomes, reading it never panics; and what still reads is a valid message.
#[test]
fn no_mutation_of_a_vector_panics() {
    for Example { name, cbor, cbor_to_cbor, .. } in examples() {
        let values: &[u8] = if cbor.len() < 400 {
            &[
                0x00, 0x17, 0x18, 0x1b, 0x20, 0x3b, 0x40, 0x5b, 0x60, 0x7b, 0x80, 0x9b, 0xa0, 0xbb, 0xc0, 0xf6, 0xf9,
                0xff,
            ]
        } else {
            &[0x00, 0x7b, 0x9b, 0xff]
        };
        for at in 0..cbor.len() {
            for value in values.iter().copied().chain([0, 4, 5].map(|bit| cbor[at] ^ 1 << bit)) {
                let mut changed = cbor.clone();
                changed[at] = value;
                if let Ok(again) = cbor_to_cbor(&changed) {
                    assert_eq!(cbor_to_cbor(&again).expect(name), again, "{name}, byte {at} as {value:02x}");
                }
            }
            assert!(cbor_to_cbor(&cbor[..at]).is_err(), "{name}, the first {at} bytes");
        }
        assert!(cbor_to_cbor(&[cbor.as_slice(), &[0]].concat()).is_err(), "{name} and a byte");
    }
}

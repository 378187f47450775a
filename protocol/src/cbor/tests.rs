use super::*;
use proptest::prelude::*;
use serde_cbor::Value;
use std::collections::BTreeMap;

fn broken(bytes: &[u8]) -> (usize, Rule) {
    match decode_strict::<Value>(bytes, Limits::default()) {
        Err(DecodeError::Malformed { offset, rule }) => (offset, rule),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_rule_is_named_with_its_place() {
    for (bytes, offset, rule) in [
        (&[][..], 0, Rule::Truncated),
        (&[0x19, 0x01], 0, Rule::Truncated),
        (&[0x82, 0x01], 0, Rule::PastTheEnd { claimed: 2, remaining: 1 }),
        (&[0x82, 0x00, 0x43, 0x00], 2, Rule::PastTheEnd { claimed: 3, remaining: 1 }),
        (&[0xa2, 0x61, b'a', 0x00], 0, Rule::PastTheEnd { claimed: 2, remaining: 3 }),
        (&[0xa1, 0x61, b'a'], 3, Rule::Truncated),
        (&[0x00, 0x00, 0x00], 1, Rule::TrailingBytes { count: 2 }),
        (&[0x81, 0x5f, 0xff], 1, Rule::IndefiniteLength),
        (&[0x81, 0xff], 1, Rule::IndefiniteLength),
        (&[0x81, 0xc0], 1, Rule::Tag),
        (&[0x81, 0x1c], 1, Rule::ReservedHeader(0x1c)),
        (&[0x81, 0xdf], 1, Rule::ReservedHeader(0xdf)),
        (&[0x81, 0xf7], 1, Rule::SimpleValue),
        (&[0x82, 0xf8, 0xff], 1, Rule::SimpleValue),
        (&[0xa1, 0x00, 0x00], 1, Rule::KeyNotText),
        (&[0xa2, 0x61, b'a', 0x00, 0x61, b'a', 0x00], 4, Rule::DuplicateKey("a".into())),
        // The same key in a longer form is the same key.
        (&[0xa2, 0x61, b'a', 0x00, 0x78, 0x01, b'a', 0x00], 4, Rule::DuplicateKey("a".into())),
        (&[0x81, 0x61, 0xff], 1, Rule::NotUtf8),
    ] {
        assert_eq!(broken(bytes), (offset, rule), "{bytes:02x?}");
    }
}

#[test]
fn the_same_key_in_two_maps_is_no_duplicate() {
    let nested = [0xa2, 0x61, b'a', 0xa1, 0x61, b'b', 0x00, 0x61, b'b', 0xa1, 0x61, b'a', 0x00];
    assert!(decode_strict::<Value>(&nested, Limits::default()).is_ok());
}

#[test]
fn deep_nesting_is_refused_at_the_limit() {
    for open in [&[0x81][..], &[0xa1, 0x61, b'a'], &[0xd8, 0x40]] {
        let deep = open.repeat(200_000 / open.len());
        let limits = Limits { bytes_max: usize::MAX, depth_max: usize::MAX };
        assert!(decode_strict::<Value>(&deep, limits).is_err());
    }
    let nested = |depth: usize| [vec![0x81; depth], vec![0x00]].concat();
    assert!(decode_strict::<Value>(&nested(16), Limits::default()).is_ok());
    assert_eq!(broken(&nested(17)), (16, Rule::TooDeep { depth_max: 16 }));
}

#[test]
fn claims_of_2_to_the_47_are_refused_before_anything_is_allocated() {
    for major in [2u8, 3, 4, 5] {
        let mut bytes = vec![major << 5 | 27];
        bytes.extend_from_slice(&(1u64 << 47).to_be_bytes());
        bytes.extend_from_slice(&[0x60; 8]);
        assert_eq!(broken(&bytes), (0, Rule::PastTheEnd { claimed: 1 << 47, remaining: 8 }));
    }
}

#[test]
fn the_size_limit_holds() {
    let bytes = encode(&Bytes(vec![0; PACKET_BYTES_MAX])).expect("bytes");
    assert!(matches!(broken(&bytes), (PACKET_BYTES_MAX, Rule::TooLong { .. })));
    assert!(decode_strict::<Bytes>(&bytes, Limits::bytes(bytes.len())).is_ok());
}

#[test]
fn keys_are_sorted_by_their_encodings() {
    #[derive(Serialize)]
    struct Fields {
        zz: u8,
        b: u8,
        aaaaaaaaaaaaaaaaaaaaaaaa: u8,
        a: BTreeMap<&'static str, u8>,
    }
    let value = Fields { zz: 1, b: 2, aaaaaaaaaaaaaaaaaaaaaaaa: 3, a: BTreeMap::from([("y", 1), ("x", 2), ("", 3)]) };
    let mut expected = vec![0xa4, 0x61, b'a', 0xa3, 0x60, 3, 0x61, b'x', 2, 0x61, b'y', 1];
    expected.extend_from_slice(&[0x61, b'b', 2, 0x62, b'z', b'z', 1, 0x78, 24]);
    expected.extend_from_slice(&[b'a'; 24]);
    expected.push(3);
    assert_eq!(encode(&value).expect("encodes"), expected);
}

#[test]
fn what_could_not_be_read_is_not_written() {
    assert_eq!(encode(&BTreeMap::from([(1, 2)])), Err(EncodeError::Refused(Rule::KeyNotText)));
    let deep = (0..17).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
    assert_eq!(encode(&deep), Err(EncodeError::Refused(Rule::TooDeep { depth_max: 16 })));
}

#[test]
fn floats_take_the_shortest_form_and_any_form_is_read() {
    for (value, bytes) in [
        (0.0f64, &[0xf9, 0, 0][..]),
        (-0.0, &[0xf9, 0x80, 0]),
        (1.5, &[0xf9, 0x3e, 0]),
        (65504.0, &[0xf9, 0x7b, 0xff]),
        (5.960464477539063e-8, &[0xf9, 0, 1]),
        (100000.0, &[0xfa, 0x47, 0xc3, 0x50, 0]),
        (1.1, &[0xfb, 0x3f, 0xf1, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a]),
        (f64::INFINITY, &[0xf9, 0x7c, 0]),
        (f64::NAN, &[0xf9, 0x7e, 0]),
    ] {
        assert_eq!(encode(&value).expect("a float"), bytes, "{value}");
    }
    assert_eq!(decode_strict::<f32>(&[0xf9, 0x3c, 0], Limits::default()), Ok(1.0));
    assert_eq!(decode_strict::<f32>(&[0xfb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0], Limits::default()), Ok(1.0));
    // A NaN with a payload is read; the payload is gone when it is written again.
    let nan: f64 = decode_strict(&[0xfa, 0x7f, 0xc0, 0x00, 0x01], Limits::default()).expect("a NaN");
    assert_eq!(encode(&nan).expect("a NaN"), [0xf9, 0x7e, 0]);
}

#[test]
fn longer_forms_and_unsorted_maps_are_read() {
    let unsorted = [0xb8, 0x02, 0x61, b'b', 0x19, 0x00, 0x01, 0x61, b'a', 0x1b, 0, 0, 0, 0, 0, 0, 0, 2];
    let map: BTreeMap<String, u8> = decode_strict(&unsorted, Limits::default()).expect("well-formed");
    assert_eq!(map, BTreeMap::from([("a".into(), 2), ("b".into(), 1)]));
    assert_eq!(encode(&map).expect("a map"), [0xa2, 0x61, b'a', 2, 0x61, b'b', 1]);
}

#[test]
fn byte_strings_are_not_lists() {
    assert_eq!(encode(&Bytes(vec![1, 2])).expect("bytes"), [0x42, 1, 2]);
    assert!(decode_strict::<Bytes>(&[0x82, 1, 2], Limits::default()).is_err());
    assert!(decode_strict::<Bytes>(&[0x62, b'A', b'Q'], Limits::default()).is_err());
    assert_eq!(serde_json::to_string(&Bytes(vec![1])).expect("json"), r#""AQ==""#);
    assert_eq!(serde_json::from_str::<Bytes>(r#""AQ==""#).expect("json"), Bytes(vec![1]));
    assert!(serde_json::from_str::<Bytes>(r#""A""#).is_err());
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<u64>().prop_map(|n| Value::Integer(n.into())),
        any::<u64>().prop_map(|n| Value::Integer(-1 - i128::from(n))),
        any::<f64>().prop_filter("NaN equals nothing", |f| !f.is_nan()).prop_map(Value::Float),
        any::<f32>().prop_filter("NaN equals nothing", |f| !f.is_nan()).prop_map(|f| Value::Float(f.into())),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        ".{0,30}".prop_map(Value::Text),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::btree_map(".{0,30}".prop_map(Value::Text), inner, 0..8).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_and_writes_the_same(value in values()) {
        let bytes = encode(&value).expect("encodes");
        let again: Value = decode_strict(&bytes, Limits::default()).expect("decodes");
        prop_assert_eq!(&again, &value);
        prop_assert_eq!(encode(&again).expect("encodes"), bytes);
    }

    /// Every change of a single byte is refused or is another value; none panics, and none stays within the limits by
    /// claiming what is not there.
    #[test]
    fn no_mutation_panics(value in values(), fill in any::<u8>()) {
        let bytes = encode(&value).expect("encodes");
        for at in 0..bytes.len().min(200) {
            for byte in [fill, bytes[at] ^ 0x01, bytes[at] ^ 0x20, bytes[at] ^ 0x80, 0x00, 0x1b, 0x5b, 0x9b, 0xbb, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = byte;
                let _ = decode_strict::<Value>(&changed, Limits::default());
            }
            let _ = decode_strict::<Value>(&bytes[..at], Limits::default()).expect_err("a part of an item");
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(value) = decode_strict::<Value>(&bytes, Limits::default()) {
            prop_assert!(encode(&value).is_ok());
        }
    }
}

use super::*;
use crate::cbor::Bytes;
use crate::id::{Generation, RequestId};
use crate::limits::{CHUNK_BYTES_MAX, DOCUMENT_BYTES_MAX, PAYLOAD_BYTES_MAX, SEGMENT_BYTES_MAX};
use crate::{BundleDigest, Sha256Digest};
use proptest::prelude::*;

fn digest(n: u8) -> Sha256Digest {
    Sha256Digest::of(&[n])
}

fn request() -> RequestId {
    "q-1".parse().expect("an id")
}

fn index(lengths: &[(u32, u32)]) -> ChunkIndex {
    let entry = |&(length_bytes, stored_bytes)| ChunkEntry { sha256: digest(7), length_bytes, stored_bytes };
    ChunkIndex::new(BundleDigest(digest(1)), digest(2), &lengths.iter().map(entry).collect::<Vec<_>>())
}

fn problem<M: Message>(message: &M) -> String {
    message.validate().expect_err("invalid").to_string()
}

fn desired() -> Desired {
    let director = DirectorMetadata {
        root_version: 1,
        timestamp: Bytes(b"{}".to_vec()),
        snapshot: Bytes(b"{}".to_vec()),
        targets: Bytes(b"{}".to_vec()),
    };
    let publisher =
        PublisherVersions { root_version: 1, timestamp_version: 1, snapshot_version: 1, targets_version: 1 };
    Desired::new(Generation(3), director, publisher)
}

#[test]
fn another_schema_version_is_refused() {
    let json = r#"{"v":2,"request":"q-1","error":{"code":"E_BUSY"}}"#;
    let e = Reply::from_json(json.as_bytes()).expect_err("version 2").to_string();
    assert!(e.contains("schema version 2 is not known here"), "{e}");
    assert!(Reply::from_json(json.replace('2', "1").as_bytes()).is_ok());
}

#[test]
fn what_a_newer_peer_adds_is_ignored_or_kept() {
    let json = r#"{"v":1,"request":"q-1","later":{"a":[1]},"error":{"code":"E_NOVEL","hint":1}}"#;
    let reply = Reply::from_json(json.as_bytes()).expect("additive");
    assert_eq!(reply.error.code.as_str(), "E_NOVEL");
    assert_eq!(reply.error.code.class(), ErrorClass::Internal);
    let command = r#"{"v":1,"request":"q-1","not_after_ts_ms":5,"action":{"kind":"dance","tempo":120}}"#;
    assert_eq!(Command::from_json(command.as_bytes()).expect("additive").action, Action::Unknown);
    let event = r#"{"v":1,"id":"e-1","ts_ms":1,"boot":"b","seq":1,"body":{"kind":"novel","x":{}}}"#;
    assert_eq!(Event::from_json(event.as_bytes()).expect("additive").body, EventBody::Unknown);
}

#[test]
fn a_message_is_a_map_with_names() {
    let reply = Reply { v: V1, request: request(), error: Failure::new(ErrorCode::Busy, ""), retry_after_s: None };
    let positional = cbor::encode(&(1, "q-1", (&reply.error.code, "x"), 1)).expect("an array");
    assert!(Reply::from_cbor(&positional).is_err());
    assert!(Reply::from_json(br#"[1,"q-1",["E_BUSY","x"],1]"#).is_err());
    // A word's number is not the word.
    assert!(serde_json::from_str::<Verdict>("0").is_err());
    assert!("Commit".parse::<Verdict>().is_err());
}

#[test]
fn bounds_hold_on_writing_and_reading() {
    let mut long = desired();
    long.director.targets = Bytes(vec![b' '; Desired::BYTES_MAX - 1024]);
    long.hash = long.director.hash();
    assert!(long.to_cbor().is_ok());
    long.director.snapshot = Bytes(vec![b' '; 1024]);
    long.hash = long.director.hash();
    let e = long.to_cbor().expect_err("too long").to_string();
    assert!(e.starts_with("desired: ") && e.contains("at most 102400"), "{e}");
    assert!(matches!(Ack::from_cbor(&vec![0; 200_000]), Err(MessageError::TooLong { .. })));
}

#[test]
fn the_largest_chunk_and_segment_fit_a_packet() {
    let data = Bytes(vec![0xff; CHUNK_BYTES_MAX]);
    let bundle = BundleDigest(digest(1));
    let chunk = Chunk { v: V1, bundle, index: 65_535, encoding: ChunkEncoding::Zstd, key_id: None, data };
    assert!(chunk.to_cbor().expect("fits").len() <= PAYLOAD_BYTES_MAX);
    let document = vec![1; 3 * SEGMENT_BYTES_MAX];
    let parts = segments(&request(), &Document::ChunkIndex { bundle }, &document, SEGMENT_BYTES_MAX).expect("parts");
    assert!(parts.iter().all(|p| p.to_cbor().expect("fits").len() <= PAYLOAD_BYTES_MAX));
}

#[test]
fn a_desired_state_is_one_piece() {
    let mut d = desired();
    assert_eq!(Desired::from_cbor(&d.to_cbor().expect("valid")).expect("valid"), d);
    d.director.targets.0.push(b' ');
    assert_eq!(problem(&d), "`hash`: is not that of the director's metadata");
    d.hash = d.director.hash();
    d.publisher.root_version = 0;
    assert!(problem(&d).starts_with("`publisher.root_version`"));
    // The lengths are hashed too: bytes that move from one part to the next make another hash.
    let moved =
        DirectorMetadata { timestamp: Bytes(b"{".to_vec()), snapshot: Bytes(b"}{}".to_vec()), ..desired().director };
    assert_ne!(moved.hash(), desired().director.hash());
}

#[test]
fn an_old_will_does_not_end_a_new_session() {
    let birth = |boot: &str, seq| Birth {
        v: V1,
        ts_ms: 1,
        clock_synced: true,
        boot: boot.parse().expect("an id"),
        seq,
        agent_version: crate::Version::new(1, 0, 0),
        target: "x".into(),
        capabilities: Capabilities { protocol_version: 1, journal_version: 1, worker_version: 1, features: vec![] },
    };
    let online = |boot, seq| Status::Online(birth(boot, seq));
    let will = |boot, seq| Status::will_of(&birth(boot, seq));
    assert!(will("b", 2).supersedes(&online("b", 2)));
    assert!(!will("b", 1).supersedes(&online("b", 2)));
    assert!(!will("a", 2).supersedes(&online("b", 2)));
    assert!(online("c", 0).supersedes(&online("b", 2)));
    assert!(online("b", 3).supersedes(&will("b", 2)));
    assert!(!online("b", 1).supersedes(&online("b", 2)));
}

#[test]
fn waiting_and_failing_states_say_why() {
    let report = |json: &str| {
        let json = format!(
            r#"{{"v":1,"ts_ms":1,"boot":"b","seq":9,"generation":4,"components":{{"detector":{{"kind":"model","attempt":2,{json}}}}}}}"#
        );
        Reported::from_json(json.as_bytes()).map_err(|e| e.to_string())
    };
    for (json, expected) in [
        (r#""state":"wait-download""#, "`components.detector.waiting_for`: is needed"),
        (r#""state":"reverted""#, "`components.detector.error`: is needed"),
        (r#""state":"downloading","progress":{"done_bytes":2,"total_bytes":1}"#, "2 of 1"),
        (r#""state":"Downloading""#, "is no deployment state"),
        (r#""state":"rejected","error":{"code":"no code"}"#, "is no error code"),
    ] {
        let e = report(json).expect_err(json);
        assert!(e.contains(expected), "{e}");
    }
    let good = report(r#""state":"reverted","error":{"code":"E_GOLDEN_FAILED"}"#).expect("valid");
    let keys: Vec<ReportKey> = good.keys().map(|(_, key)| key).collect();
    assert_eq!(keys, [ReportKey { generation: Generation(4), attempt: 2, seq: 9 }]);
}

#[test]
fn details_are_cut_at_a_character() {
    let failure = Failure::new(ErrorCode::NoSpace, &format!("a\u{7}{}", "ä".repeat(400)));
    let detail = failure.detail.as_ref().expect("a detail");
    assert!(detail.starts_with("a ä") && detail.len() == 512);
    assert!(failure.validate("error").is_ok());
    assert!(Failure::new(ErrorCode::NoSpace, "").detail.is_none());
}

#[test]
fn error_codes_are_distinct_and_explained() {
    let codes: std::collections::BTreeSet<&str> = ErrorCode::LISTED.iter().map(ErrorCode::as_str).collect();
    assert_eq!(codes.len(), ErrorCode::LISTED.len());
    for code in ErrorCode::LISTED {
        assert!(code.as_str().starts_with("E_") && code.meaning().ends_with('.'), "{code}");
        assert_eq!(&code.as_str().parse::<ErrorCode>().expect("itself"), code);
    }
}

#[test]
fn an_index_agrees_with_itself_and_with_what_is_signed() {
    let good = index(&[(100, 50), (16, 16)]);
    assert_eq!(ChunkIndex::from_cbor(&good.to_cbor().expect("valid")).expect("valid"), good);
    assert_eq!(good.chunks().map(|c| c.encoding()).collect::<Vec<_>>(), [ChunkEncoding::Zstd, ChunkEncoding::None]);
    assert!(good.chunk(2).is_none() && good.chunk(u32::MAX).is_none());
    assert!(good.check_signed(digest(2), 116).is_ok());
    assert!(good.check_signed(digest(3), 116).is_err() && good.check_signed(digest(2), 117).is_err());
    let mut short = good.clone();
    short.packed_bytes = 7;
    for (bad, expected) in [
        (index(&[]), "`length_bytes`: 0 of them"),
        (index(&[(0, 0)]), "`length_bytes[0]`"),
        (index(&[(1, 1), (1, 2)]), "`length_bytes[1]`: chunk of 1 bytes, 2 as sent"),
        (index(&[(CHUNK_BYTES_MAX as u32 + 1, 1)]), "`length_bytes[0]`"),
        (short, "`packed_bytes`: 7, but the chunks have 116"),
    ] {
        let text = problem(&bad);
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn a_chunk_is_held_against_the_index() {
    let index = index(&[(100, 50), (16, 16)]);
    let chunk = |i, encoding, length| Chunk {
        v: V1,
        bundle: BundleDigest(digest(1)),
        index: i,
        encoding,
        key_id: None,
        data: Bytes(vec![0; length]),
    };
    assert!(chunk(0, ChunkEncoding::Zstd, 50).check_index(&index).is_ok());
    for (bad, field) in [
        (chunk(2, ChunkEncoding::None, 16), "`index`: 2 of 2"),
        (chunk(0, ChunkEncoding::None, 50), "`encoding`"),
        (chunk(1, ChunkEncoding::None, 17), "`data`"),
        (Chunk { bundle: BundleDigest(digest(9)), ..chunk(1, ChunkEncoding::None, 16) }, "`bundle`"),
    ] {
        let e = bad.check_index(&index).expect_err(field).to_string();
        assert!(e.starts_with(field), "{e}");
    }
    let sealed = Chunk { key_id: Some("k1".into()), ..chunk(1, ChunkEncoding::None, 16) };
    assert!(problem(&sealed).contains("encrypted"));
}

#[test]
fn an_announcement_carries_a_small_index_and_names_a_large_one() {
    let small = index(&[(100, 50); 3]);
    let announcement = Announcement::of(&small, 1).expect("valid");
    let carried = announcement.index.clone().expect("it fits");
    assert_eq!(announcement.read_index(&carried).expect("the index"), small);
    assert!(announcement.read_index(&carried[1..]).is_err());
    let large = index(&vec![(65_536, 60_000); 10_000]);
    let announcement = Announcement::of(&large, 2).expect("valid");
    assert!(announcement.index.is_none() && announcement.index_bytes > 400_000);
    assert!(announcement.to_cbor().is_ok());
    assert_eq!(announcement.read_index(&large.to_cbor().expect("valid")).expect("the index"), large);
}

#[test]
fn segments_must_be_able_to_make_their_document() {
    let parts =
        segments(&request(), &Document::ChunkIndex { bundle: BundleDigest(digest(1)) }, &[5; 100], 30).expect("parts");
    let part = parts[3].clone();
    assert!(part.validate().is_ok());
    for bad in [
        MetadataSegment { index: 4, ..part.clone() },
        MetadataSegment { count: 0, ..part.clone() },
        MetadataSegment { count: 257, ..part.clone() },
        MetadataSegment { total_bytes: DOCUMENT_BYTES_MAX + 1, ..part.clone() },
        MetadataSegment { total_bytes: 5, ..part.clone() },
        MetadataSegment { total_bytes: 101, ..part.clone() },
        MetadataSegment { index: 2, ..part.clone() },
        MetadataSegment { total_bytes: 90, ..parts[0].clone() },
        MetadataSegment { total_bytes: 121, ..parts[0].clone() },
        MetadataSegment { total_bytes: 12, ..part.clone() },
        MetadataSegment { data: Bytes::default(), ..part.clone() },
    ] {
        assert!(bad.validate().is_err(), "{bad:?}");
    }
    for (length, size) in [(0, 10), (10, 0), (1000, 3), (DOCUMENT_BYTES_MAX as usize + 1, SEGMENT_BYTES_MAX)] {
        assert!(segments(&part.request, &part.document, &vec![0; length], size).is_err(), "{length} by {size}");
    }
}

#[test]
fn segments_of_another_cut_are_foreign_and_damage_is_seen() {
    let document = Document::ChunkIndex { bundle: BundleDigest(digest(1)) };
    let cut = |bytes: &[u8], size| segments(&request(), &document, bytes, size).expect("parts");
    let parts = cut(&[5; 100], 30);
    let mut assembly = Assembly::new(&parts[1]);
    assert_eq!(assembly.add(cut(&[5; 100], 50)[0].clone()), Err(AssemblyError::Foreign));
    assert_eq!(assembly.add(cut(&[6; 100], 30)[0].clone()), Err(AssemblyError::Foreign));
    assert_eq!(assembly.first_missing(), Some(0));
    assert_eq!(assembly.add(parts[1].clone()), Ok(None));
    // Four parts as well, cut at other places.
    assert_eq!(assembly.add(cut(&[5; 100], 25)[0].clone()), Err(AssemblyError::Foreign));
    assert_eq!(assembly.add(cut(&[5; 100], 25)[3].clone()), Err(AssemblyError::Foreign));
    for part in &parts[..3] {
        assert_eq!(assembly.add(part.clone()), Ok(None));
    }
    assert_eq!(assembly.first_missing(), Some(3));
    let damaged = MetadataSegment { data: Bytes(vec![9; 10]), ..parts[3].clone() };
    assert_eq!(assembly.clone().add(damaged), Err(AssemblyError::Damaged));
    let long = MetadataSegment { data: Bytes(vec![5; 11]), ..parts[3].clone() };
    assert_eq!(assembly.clone().add(long), Err(AssemblyError::Foreign));
    assert_eq!(assembly.add(parts[3].clone()), Ok(Some(vec![5; 100])));
}

#[test]
fn telemetry_holds_numbers_only() {
    let json = r#"{"kind":"result","v":1,"ts_ms":1,"dev":"a:b","boot":"b","seq":1,"component":"c","model":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","ver":"1.0.0","source":"s","id":"i","confidence":0.5,"latency_us":1}"#;
    let good = Telemetry::from_json(json.as_bytes()).expect("valid");
    assert_eq!(good.device().to_string(), "a:b");
    for (from, to) in [
        ("0.5", "1.5"),
        (r#""id":"i""#, r#""id":"""#),
        (r#""source":"s""#, r#""source":"a\u0000""#),
        (r#""latency_us":1"#, r#""latency_us":1,"labels":[{"index":0,"label":"x","score":1e39}]"#),
    ] {
        assert!(json.contains(from));
        assert!(Telemetry::from_json(json.replace(from, to).as_bytes()).is_err(), "{to}");
    }
    let Telemetry::Result(mut prediction) = good else { panic!("a result") };
    prediction.confidence = Some(f32::NAN);
    assert!(Telemetry::Result(prediction).to_cbor().is_err());
}

#[test]
fn counters_of_a_bundle_agree_with_each_other() {
    let (running, past) = (BundleDigest(digest(1)), BundleDigest(digest(2)));
    let fares = |bundle| BundleHealth {
        bundle,
        serving_since_ts_ms: 1,
        first_result_ts_ms: Some(2),
        samples: 10,
        errors: 4,
        labelled: 6,
        right: 6,
        latency_p50_us: Some(1),
        latency_p95_us: None,
        latency_p99_us: Some(1),
        confidence_mean: Some(1.0),
    };
    let component = ComponentHealth {
        running,
        samples: 20,
        errors: 8,
        dropped: 12,
        worker_restarts: 0,
        memory_bytes: 0,
        latency_p50_us: None,
        latency_p95_us: None,
        latency_p99_us: None,
        confidence_mean: None,
        labels_late: 0,
        serving: Some(fares(running)),
        past: vec![fares(past)],
    };
    let health = |change: &dyn Fn(&mut ComponentHealth)| {
        let mut component = component.clone();
        change(&mut component);
        Telemetry::Health(Health {
            v: V1,
            ts_ms: 1,
            dev: "acme:cam-7".parse().expect("a principal"),
            boot: "b".parse().expect("an id"),
            seq: 1,
            uptime_s: 1,
            window_s: 60,
            disk_free_bytes: 0,
            outbox_messages: 0,
            outbox_dropped: 0,
            temperature_c: None,
            components: [("detector".parse().expect("a name"), component)].into(),
        })
    };
    assert!(health(&|_| {}).validate().is_ok());
    assert!(health(&|c| c.serving = None).validate().is_ok(), "an older agent");
    type Change = fn(&mut ComponentHealth);
    let wrong: [(Change, &str); 8] = [
        (|c| c.dropped += 1, "errors and drops exceed"),
        (|c| c.past[0].errors = 5, "past.samples`: errors and labels exceed"),
        (|c| c.past[0].errors = u64::MAX, "errors and labels exceed"),
        (|c| c.past[0].right = 7, "more are right than are labelled"),
        (|c| c.past[0].latency_p99_us = Some(0), "quantiles are not in order"),
        (|c| c.past[0].confidence_mean = Some(f32::NAN), "past.confidence_mean"),
        (|c| c.past.push(c.past[0].clone()), "occurs twice"),
        (|c| c.running = c.past[0].bundle, "is not the one that runs"),
    ];
    for (change, expected) in wrong {
        let problem = problem(&health(&change));
        assert!(problem.contains(expected), "{problem}");
    }
    let many = |c: &mut ComponentHealth| c.past = (2..7).map(|n| fares(BundleDigest(digest(n)))).collect();
    assert!(problem(&health(&many)).contains("5 of them; expected 0 to 4"));
}

proptest! {
    #[test]
    fn a_want_says_which_chunks_are_missing(missing in prop::collection::vec(any::<bool>(), 1..200)) {
        let count = missing.len() as u32;
        let want = Want::new(BundleDigest(digest(1)), count, 8, |i| missing[i as usize]);
        let want = Want::from_cbor(&want.to_cbor().expect("valid")).expect("valid");
        let expected: Vec<u32> = (0..count).filter(|&i| missing[i as usize]).collect();
        prop_assert_eq!(want.missing().collect::<Vec<_>>(), expected);
        let mut spare = want.clone();
        spare.missing.0.push(0);
        prop_assert!(spare.validate().is_err());
        if !count.is_multiple_of(8) {
            let mut spare = want;
            *spare.missing.0.last_mut().expect("a byte") |= 0x80;
            prop_assert!(spare.validate().is_err());
        }
    }

    #[test]
    fn documents_survive_segments_in_any_order(
        bytes in prop::collection::vec(any::<u8>(), 1..2000),
        size in 8usize..300,
        order in any::<prop::sample::Index>(),
    ) {
        let document = Document::ChunkIndex { bundle: BundleDigest(digest(1)) };
        let mut parts = segments(&request(), &document, &bytes, size).expect("parts");
        prop_assert!(parts.iter().all(|p| p.validate().is_ok()));
        let turn = order.index(parts.len());
        parts.rotate_left(turn);
        let mut assembly = Assembly::new(&parts[0]);
        let last = parts.pop().expect("a part");
        for part in &parts {
            // Twice, as at least once may be.
            prop_assert_eq!(assembly.add(part.clone()), Ok(None));
            prop_assert_eq!(assembly.add(part.clone()), Ok(None));
        }
        prop_assert_eq!(assembly.add(last), Ok(Some(bytes)));
    }
}

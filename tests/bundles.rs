//! Bundles that were cut, changed, swapped or never signed. Each is refused with one error that names the part.

use sedge_protocol::Sha256Digest;
use sedge_protocol::signature::{SecretKey, TrustPolicy};
use sedge_runtime::bundle::Trust;
use sedge_runtime::pack::Layout;
use sedge_runtime::{BundleError, VerifiedBundle};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const MANIFEST: &str = r#"
schema = "sedge.bundle/1"
bundle = { name = "small", version = "1.0.0", license = "MIT" }
variant = [{ name = "any", file = "model.onnx", format = "onnx" }]
input = [{ name = "x", dtype = "float32", shape = [1, 4] }]
output = [{ name = "y", dtype = "float32", shape = [1, 4] }]
labels = { file = "labels.txt" }
[preprocessor]
component = "builtin:tensor@1"
[postprocessor]
component = "builtin:tensor@1"
"#;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn trust(seeds: &[u8], threshold: usize) -> Trust {
    let keys = seeds.iter().map(|&s| key(s).public()).collect();
    Trust::Signed(TrustPolicy::new(keys, threshold).expect("a policy that can be met"))
}

/// A small bundle signed by `seeds`, in a directory of its own.
struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let this = Self { directory: tempfile::tempdir().expect("a directory") };
        this.source("bundle.toml", MANIFEST.as_bytes());
        this.source("model.onnx", b"not read before it is run");
        this.source("labels.txt", b"a\nb\nc\nd\n");
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn source(&self, name: &str, bytes: &[u8]) {
        let source = self.path("source");
        fs::create_dir_all(&source).and_then(|()| fs::write(source.join(name), bytes)).expect("a source file");
    }

    /// Packs to `name`: a tar file or a directory.
    fn pack(&self, name: &str, seeds: &[u8]) -> PathBuf {
        let mut layout = Layout::pack(&self.path("source")).expect("it packs");
        seeds.iter().for_each(|&s| layout.sign(&key(s)).expect("it is signed"));
        let path = self.path(name);
        layout.write(&path).expect("it is written");
        path
    }
}

fn refusal(path: &Path, trust: &Trust) -> String {
    let error = match VerifiedBundle::open(path, trust) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => anyhow::Error::from(error),
    };
    let text = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    assert!(!text.contains('\n') && text.len() < 800, "not one line: {text}");
    text
}

#[test]
fn a_file_and_a_directory_hold_the_same_bundle() {
    let fixture = Fixture::new();
    let [tar, directory] = ["small.tar", "small"].map(|to| fixture.pack(to, &[1]));
    let [a, b] = [&tar, &directory].map(|p| VerifiedBundle::open(p, &trust(&[1], 1)).expect("it opens"));
    assert_eq!(a.digest(), b.digest());
    assert_eq!(a.labels(), ["a", "b", "c", "d"]);
    assert_eq!(a.signers(), [key(1).public().id()]);
    let again = fs::read(fixture.pack("again.tar", &[1])).expect("packed again");
    assert!(again == fs::read(&tar).expect("packed before"), "the same sources gave other bytes");
}

#[test]
fn one_bit_of_a_packed_file_is_enough_to_refuse_it() {
    let fixture = Fixture::new();
    let path = fixture.pack("small.tar", &[1]);
    let good = fs::read(&path).expect("the packed bundle");
    let trust = trust(&[1], 1);
    let file = fs::OpenOptions::new().write(true).open(&path).expect("the packed bundle");
    let set = |at: usize, byte: u8| file.write_all_at(&[byte], at as u64).expect("written");
    let accepted: Vec<(usize, u32)> = (0..good.len())
        // Every bit of a header, which no digest covers, and one bit of every other byte.
        .flat_map(|at| (0..8).map(move |bit| (at, bit)).filter(|(at, bit)| *at < 512 || at % 8 == *bit as usize))
        .filter(|&(at, bit)| {
            set(at, good[at] ^ 1 << bit);
            let opened = VerifiedBundle::open(&path, &trust).is_ok();
            set(at, good[at]);
            opened
        })
        .collect();
    assert!(VerifiedBundle::open(&path, &trust).is_ok(), "with its own bits it opens");
    assert!(accepted.is_empty(), "a changed bit went unseen at (byte, bit) {accepted:?} of {}", good.len());
}

#[test]
fn a_packed_file_that_was_cut_anywhere_is_refused() {
    let fixture = Fixture::new();
    let path = fixture.pack("small.tar", &[1]);
    let good = fs::read(&path).expect("the packed bundle");
    for length in (0..good.len()).step_by(97) {
        fs::write(&path, &good[..length]).expect("the cut bundle");
        assert!(VerifiedBundle::open(&path, &trust(&[1], 1)).is_err(), "{length} of {} bytes sufficed", good.len());
    }
}

#[test]
fn every_damaged_part_is_named() {
    let fixture = Fixture::new();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Sha256Digest::of(bytes).hex());
    let labels = blob(b"a\nb\nc\nd\n");
    type Damage<'a> = Box<dyn Fn(&Path) + 'a>;
    let write = |name: String, bytes: &'static [u8]| -> Damage<'_> {
        Box::new(move |p| fs::write(p.join(&name), bytes).expect("a changed part"))
    };
    let remove =
        |name: String| -> Damage<'_> { Box::new(move |p| fs::remove_file(p.join(&name)).expect("a removed part")) };
    let cases: Vec<(&str, Damage<'_>)> = vec![
        ("labels.txt is damaged or was changed: its digest is", write(labels.clone(), b"a\nb\nc\nD\n")),
        ("labels.txt is damaged or was changed: it has 3 bytes, signed were 8", write(labels.clone(), b"a\nb")),
        ("labels.txt is damaged or was changed: it has more than 8 bytes", write(labels.clone(), b"a\nb\nc\nd\ne\n")),
        ("labels.txt is missing; the bundle is incomplete", remove(labels)),
        ("index.json is damaged", write("index.json".into(), b"{")),
        ("index.json is missing", remove("index.json".into())),
        ("there is no oci-layout file in it", remove("oci-layout".into())),
        ("oci-layout", write("oci-layout".into(), br#"{"imageLayoutVersion":"9.0.0"}"#)),
    ];
    for (expected, damage) in cases {
        let path = fixture.pack("small", &[1]);
        damage(&path);
        let text = refusal(&path, &trust(&[1], 1));
        assert!(text.contains(expected), "expected `{expected}`, got `{text}`");
        fs::remove_dir_all(&path).expect("cleared away");
    }
}

#[test]
fn trust_is_what_the_caller_says() {
    let fixture = Fixture::new();
    let unsigned = fixture.pack("unsigned.tar", &[]);
    assert!(refusal(&unsigned, &trust(&[1], 1)).contains("it carries no signature; sign it with `sedge bundle sign`"));
    assert!(VerifiedBundle::open(&unsigned, &Trust::Unsigned).is_ok());
    let signed = fixture.pack("signed.tar", &[1, 2]);
    assert!(VerifiedBundle::open(&signed, &trust(&[1, 2, 3], 2)).is_ok());
    assert!(refusal(&signed, &trust(&[1, 3], 2)).contains("1 of 2 trusted signatures"));
    assert!(refusal(&signed, &trust(&[3], 1)).contains("by a key that is not trusted"));
    let digest = VerifiedBundle::open(&signed, &Trust::Unsigned).expect("it opens").digest();
    assert!(VerifiedBundle::open(&signed, &Trust::Digest(digest)).is_ok());
    fixture.source("labels.txt", b"b\na\nc\nd\n");
    let other = fixture.pack("other.tar", &[1]);
    let error = VerifiedBundle::open(&other, &Trust::Digest(digest)).expect_err("another bundle");
    assert!(matches!(error, BundleError::OtherDigest { ordered, .. } if ordered == digest), "{error}");
}

#[test]
fn a_signature_does_not_move_to_another_bundle() {
    let fixture = Fixture::new();
    let ours = fixture.pack("ours", &[1]);
    fixture.source("model.onnx", b"another model");
    let theirs = fixture.pack("theirs", &[]);
    // All of our blobs, signature included, and an index that offers their bundle with our signature.
    for entry in fs::read_dir(ours.join("blobs/sha256")).expect("our blobs") {
        let entry = entry.expect("a blob");
        fs::copy(entry.path(), theirs.join("blobs/sha256").join(entry.file_name())).expect("copied");
    }
    let index = |p: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(p.join("index.json")).expect("an index")).expect("JSON")
    };
    let mut mixed = index(&theirs);
    let signature = index(&ours)["manifests"][1].clone();
    assert_eq!(signature["artifactType"], "application/vnd.sedge.signature.v1");
    mixed["manifests"].as_array_mut().expect("a list").push(signature);
    fs::write(theirs.join("index.json"), mixed.to_string()).expect("the mixed index");
    let text = refusal(&theirs, &trust(&[1], 1));
    assert!(text.contains("not trusted"), "{text}");
}

#[test]
fn what_is_no_packed_bundle_is_told_apart() {
    let fixture = Fixture::new();
    let text = fixture.path("text.tar");
    fs::write(&text, "not a tar file\n".repeat(200)).expect("a text");
    for (path, expected) in [
        (fixture.path("absent.tar"), "cannot be read"),
        (fixture.path("source"), "holds a bundle.toml but is not packed; run `sedge bundle build"),
        (text, "as a tar file, the entry at byte 0 is no tar header"),
        (fixture.directory.path().to_owned(), "there is no oci-layout file in it"),
    ] {
        let text = refusal(&path, &Trust::Unsigned);
        assert!(text.contains(expected), "expected `{expected}`, got `{text}`");
    }
}

#[test]
fn what_cannot_be_packed_is_named() {
    let fixture = Fixture::new();
    let problem = |expected: &str| {
        let error = Layout::pack(&fixture.path("source")).err().map(anyhow::Error::from);
        let text = error.map(|e| e.chain().map(ToString::to_string).collect::<Vec<_>>().join(": "));
        assert!(text.as_ref().is_some_and(|t| t.contains(expected)), "expected `{expected}`, got {text:?}");
    };
    fixture.source("bundle.toml", MANIFEST.replace("labels.txt", "names.txt").as_bytes());
    problem("names.txt cannot be read; bundle.toml names it");
    fixture.source("bundle.toml", MANIFEST.replace("labels.txt", "../labels.txt").as_bytes());
    problem("is not a path inside the bundle");
    fixture.source("bundle.toml", MANIFEST.replace("license", "licence").as_bytes());
    problem("unknown field `licence`");
    fs::remove_file(fixture.path("source").join("bundle.toml")).expect("removed");
    problem("bundle.toml cannot be read; `sedge bundle init` makes one");
    fixture.source("bundle.toml", MANIFEST.as_bytes());
    let taken = fixture.path("taken.tar");
    fs::write(&taken, "somebody's notes").expect("a file in the way");
    let error = Layout::pack(&fixture.path("source")).expect("it packs").write(&taken).expect_err("taken");
    assert!(error.to_string().contains("exists and is no packed bundle"), "{error}");
    assert_eq!(fs::read_to_string(&taken).expect("still there"), "somebody's notes");
}

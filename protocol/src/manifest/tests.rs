use super::*;
use crate::Sha256Digest;

const GOOD: &str = r#"
schema = "sedge.bundle/1"
[bundle]
name = "digits"
version = "1.0.0"
license = "MIT"
[[variant]]
name = "int8"
file = "model.onnx"
format = "onnx"
[[input]]
name = "image"
dtype = "float32"
shape = [1, 1, 16, 16]
[[output]]
name = "logits"
dtype = "float32"
shape = [1, 10]
[confidence]
output = "logits"
kind = "logits"
[preprocessor]
component = "pre.wasm"
config = { color = "gray" }
[postprocessor]
component = "builtin:classify@1"
[labels]
file = "labels.txt"
[[golden]]
input = "golden/0.png"
label = "0"
expect = { logits = "golden/0.npy" }
[sources]
"pre.wasm" = "../pre.wasm"
"#;

#[test]
fn a_good_manifest_names_its_files() {
    let m = Manifest::parse(GOOD.as_bytes()).expect("good");
    let files: Vec<_> = m.files().into_iter().collect();
    assert_eq!(files, ["golden/0.npy", "golden/0.png", "labels.txt", "model.onnx", "pre.wasm"]);
    assert_eq!(m.limits, Limits::default());
}

#[test]
fn each_fault_is_named_with_its_place() {
    for (from, to, expected) in [
        ("sedge.bundle/1", "sedge.bundle/9", "schema: `sedge.bundle/9` is not known"),
        ("name = \"digits\"", "name = \"Digits!\"", "`Digits!` is not a bundle name"),
        ("license = \"MIT\"", "license = \"MIT\"\ndescription = \"\\u001b[2Ksigned\"", "bundle.description"),
        ("version = \"1.0.0\"", "version = \"one\"", "version"),
        ("license = \"MIT\"", "license = \" \"", "bundle.license"),
        ("license = \"MIT\"", "licence = \"MIT\"", "unknown field `licence`"),
        ("file = \"model.onnx\"", "file = \"../model.onnx\"", "variant[0].file: `../model.onnx`"),
        ("file = \"model.onnx\"", "file = \"/etc/passwd\"", "variant[0].file"),
        ("format = \"onnx\"", "format = \"pickle\"", "pickle"),
        ("shape = [1, 1, 16, 16]", "shape = [1, 1, 16, -1]", "input[0].shape: a dimension is -1"),
        ("shape = [1, 1, 16, 16]", "shape = [65536, 65536, 16, 16]", "input[0].shape"),
        ("output = \"logits\"\n", "output = \"probs\"\n", "confidence.output: there is no output `probs`"),
        ("builtin:classify@1", "builtin:classify", "postprocessor.component"),
        ("component = \"pre.wasm\"", "component = \"pre.wasm\"\ngrants = [\"files\"]", "files"),
        ("label = \"0\"\nexpect = { logits = \"golden/0.npy\" }", "", "golden[0]: expects nothing"),
        ("[labels]", "[limits]\nsandbox_memory_mib = 4096\n[labels]", "limits.sandbox_memory_mib: 4096"),
        ("\"pre.wasm\" = ", "\"other.wasm\" = ", "sources: no part of the manifest names the file `other.wasm`"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let e = Manifest::parse(text.as_bytes()).expect_err(to);
        assert!(e.to_string().contains(expected), "{to}: {e}");
    }
}

#[test]
fn a_packed_manifest_lists_exactly_its_files() {
    let mut manifest = Manifest::parse(GOOD.as_bytes()).expect("good");
    manifest.sources.clear();
    let entry = |path: &str| FileEntry { path: path.into(), size: 1, digest: Sha256Digest::of(path.as_bytes()) };
    let files = manifest.files().into_iter().map(entry).collect();
    let mut packed = PackedManifest { manifest, files };
    let bytes = packed.to_bytes().expect("json");
    assert_eq!(PackedManifest::parse(&bytes).as_ref(), Ok(&packed));
    packed.files.push(entry("z-extra.bin"));
    let e = PackedManifest::parse(&packed.to_bytes().expect("json")).expect_err("one file too many");
    assert!(e.to_string().contains("z-extra.bin"), "{e}");
}

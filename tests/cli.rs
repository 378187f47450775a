//! The `sedge` command as a person or a script uses it: the real program, its output and its exit codes.

#[path = "src/requirement.rs"]
#[allow(unreachable_pub)]
mod requirement;

use requirement::reference_models;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DIGITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/digits");

struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Done {
    /// The JSON object on the last line of standard output.
    fn json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {last}\n{}", self.stderr))
    }
}

fn sedge(arguments: &[&str]) -> Done {
    let out = Command::new(env!("CARGO_BIN_EXE_sedge"))
        .args(arguments)
        .env_remove("SEDGE_TRUSTED_KEYS")
        .output()
        .expect("sedge starts");
    Done {
        code: out.status.code().expect("it was not killed"),
        stdout: String::from_utf8(out.stdout).expect("UTF-8"),
        stderr: String::from_utf8(out.stderr).expect("UTF-8"),
    }
}

fn succeed(arguments: &[&str]) -> Done {
    let done = sedge(arguments);
    assert_eq!(done.code, 0, "{arguments:?}: {}{}", done.stdout, done.stderr);
    done
}

/// A key pair and the digits bundle, signed with it.
struct Signed {
    directory: tempfile::TempDir,
    bundle: String,
    public: String,
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("UTF-8")
}

impl Signed {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| text(directory.path().join(name));
        succeed(&["keys", "new", &at("publisher")]);
        let bundle = at("digits.tar");
        succeed(&["bundle", "build", &format!("{DIGITS}/v1"), "--to", &bundle, "--sign", &at("publisher.key")]);
        let public = at("publisher.pub");
        Self { directory, bundle, public }
    }

    fn path(&self, name: &str) -> String {
        text(self.directory.path().join(name))
    }
}

#[test]
fn a_signed_bundle_reads_the_digits() {
    let signed = Signed::new();
    let field = format!("{DIGITS}/images/field");
    let run =
        succeed(&["run", &signed.bundle, "--trusted-key", &signed.public, "--input", &field, "-o", "json"]).json();
    assert_eq!(run["samples"].as_array().map(Vec::len), Some(540));
    assert_eq!(run["failures"], 0);
    let accuracy = run["accuracy"].as_f64().expect("an accuracy");
    assert!((0.92..0.94).contains(&accuracy), "{accuracy}");
    let first = &run["samples"][0];
    let prediction = &first["predictions"][0];
    assert_eq!(prediction["id"], "run-0");
    assert!(prediction["model"].as_str().is_some_and(|m| m.starts_with("sha256:")), "{prediction}");
    assert_eq!(prediction["labels"].as_array().map(Vec::len), Some(3));
    let one = format!("{field}/{}", first["file"].as_str().expect("a file name"));
    let table = succeed(&["run", &signed.bundle, "--trusted-key", &signed.public, "--input", &one]).stdout;
    assert!(table.contains("prediction") && table.contains("confidence"), "{table}");
    assert!(!table.contains('\u{1b}'), "colours where nobody looks: {table:?}");
}

#[test]
fn from_a_model_to_a_checked_bundle() {
    let signed = Signed::new();
    let model = format!("{DIGITS}/v1/model.int8.onnx");
    let mine = signed.path("mine");
    succeed(&["bundle", "init", &mine, "--model", &model]);
    let again = sedge(&["bundle", "init", &mine, "--model", &model]);
    assert!(again.code == 1 && again.stderr.contains("exists already"), "{}", again.stderr);
    let packed = signed.path("mine.tar");
    let built = succeed(&["bundle", "build", &mine, "--to", &packed, "-o", "json"]).json();
    assert_eq!(built["signatures"], 0);
    let checked = succeed(&["bundle", "check", &packed, "-o", "json"]).json();
    assert_eq!(checked["result"], "ok");
    assert!(checked["advice"].to_string().contains("no golden samples"), "{checked}");
    let signing = succeed(&["bundle", "sign", &packed, "--key", &signed.path("publisher.key"), "-o", "json"]).json();
    assert_eq!(signing["digest"], built["digest"], "a signature does not change what is signed");
    let looked = succeed(&["bundle", "inspect", &packed, "--trusted-key", &signed.public, "-o", "json"]).json();
    assert_eq!(looked["signers"][0], signing["key_id"]);
    assert_eq!(looked["model"]["opset"], 13);
    let digits = succeed(&["bundle", "check", &signed.bundle]).stdout;
    assert!(digits.contains("12 golden samples come out as promised"), "{digits}");
}

#[test]
fn a_bundle_that_breaks_its_promise_fails_the_check() {
    let signed = Signed::new();
    let source = signed.path("source");
    let from = Path::new(DIGITS).join("v1");
    fs::create_dir_all(format!("{source}/golden")).expect("made");
    for part in ["", "golden"] {
        for entry in fs::read_dir(from.join(part)).expect("the bundle's files") {
            let entry = entry.expect("an entry");
            if entry.path().is_file() {
                fs::copy(entry.path(), Path::new(&source).join(part).join(entry.file_name())).expect("copied");
            }
        }
    }
    let manifest = fs::read_to_string(from.join("bundle.toml")).expect("the manifest");
    let runtime = Path::new(DIGITS).join("../../runtime");
    let manifest = manifest.replace("../../../runtime", &runtime.display().to_string());
    let packed = signed.path("source.tar");
    let check = |manifest: &str| {
        fs::write(format!("{source}/bundle.toml"), manifest).expect("written");
        succeed(&["bundle", "build", &source, "--to", &packed]);
        sedge(&["bundle", "check", &packed, "-o", "json"])
    };
    let wrong = check(&manifest.replacen("label = \"0\"", "label = \"1\"", 1));
    assert_eq!(wrong.code, 1);
    let message = wrong.json()["message"].to_string();
    assert!(message.contains("golden sample golden/0.png: expected label `1`, got `0`"), "{message}");
    let strict = check(&manifest.replacen("golden/0.logits.npy", "golden/1.logits.npy", 1));
    let message = strict.json()["message"].to_string();
    assert!(message.contains("output `logits`, element") && message.contains("within 0.19"), "{message}");
    let slow = check(&manifest.replace("default = 50.0", "default = 0.000001"));
    assert_eq!((slow.code, slow.json()["result"].clone()), (1, "too-slow".into()));
    let large = check(&manifest.replace("shape = [1, 1, 16, 16]", "shape = [1, 1, 32, 32]"));
    let message = large.json()["message"].to_string();
    assert!(message.contains("input `image` must be") && message.contains("32"), "{message}");
}

#[test]
fn failures_tell_what_and_where_and_exit_as_documented() {
    let signed = Signed::new();
    let field = format!("{DIGITS}/images/field");
    let run = |bundle: &str, more: &[&str]| sedge(&[&["run", bundle, "--input", &field][..], more].concat());
    let untrusted = run(&signed.bundle, &[]);
    assert_eq!(untrusted.code, 1);
    assert!(untrusted.stderr.contains("no key is trusted; name one with --trusted-key"), "{}", untrusted.stderr);
    succeed(&["keys", "new", &signed.path("stranger")]);
    let stranger = signed.path("stranger.pub");
    let other = run(&signed.bundle, &["--trusted-key", &stranger, "-o", "json"]);
    assert_eq!(other.code, 9, "{}", other.stderr);
    assert_eq!(other.json()["code"], "verification_failed");
    let mut bytes = fs::read(&signed.bundle).expect("the bundle");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let changed = signed.path("changed.tar");
    fs::write(&changed, bytes).expect("written");
    let refused = run(&changed, &["--trusted-key", &signed.public]);
    assert_eq!(refused.code, 9, "{}", refused.stderr);
    assert!(refused.stderr.starts_with("error: "), "{}", refused.stderr);
    assert_eq!(sedge(&["run"]).code, 2);
    let usage = sedge(&["bench", &signed.bundle, "--seconds=0", "-o", "json"]);
    assert_eq!((usage.code, usage.json()["code"].clone()), (2, "usage".into()));
    assert_eq!(run(&signed.path("absent.tar"), &["--trusted-key", &signed.public]).code, 1);
    // One bad sample among good ones.
    let samples = signed.path("samples");
    fs::create_dir(&samples).expect("made");
    let good = fs::read_dir(&field).expect("images").map(|e| e.expect("an entry").path());
    let good = good.into_iter().find(|p| p.extension().is_some_and(|e| e == "png")).expect("an image");
    fs::copy(good, format!("{samples}/a.png")).expect("copied");
    fs::write(format!("{samples}/b.png"), "no image").expect("written");
    let mixed = sedge(&["run", &signed.bundle, "--trusted-key", &signed.public, "--input", &samples, "-o", "json"]);
    assert_eq!((mixed.code, mixed.json()["failures"].clone()), (8, 1.into()));
    assert!(mixed.json()["samples"][1]["error"].to_string().contains("not a readable PNG"), "{}", mixed.stdout);
}

#[test]
fn a_bench_says_where_the_time_goes() {
    let signed = Signed::new();
    let bench = succeed(&["bench", &signed.bundle, "--seconds", "0.2", "-o", "json"]).json();
    let figure = |key: &str| bench[key].as_f64().unwrap_or_else(|| panic!("{key} in {bench}"));
    assert!(figure("min_ms") > 0.0 && figure("min_ms") <= figure("p50_ms") && figure("p50_ms") <= figure("p95_ms"));
    assert!(figure("throughput_per_s") > 0.0 && figure("peak_rss_bytes") > 1e6);
    let stages = bench["stages"].as_object().expect("stages");
    let shares: f64 = stages.values().map(|s| s["share"].as_f64().expect("a share")).sum();
    assert_eq!(stages.len(), 5);
    assert!((0.8..=1.001).contains(&shares), "the stages make up {shares} of the whole: {bench}");
    let model = format!("{DIGITS}/v1/model.int8.onnx");
    let model = succeed(&["bench", &model, "--seconds", "0.1", "--threads", "2", "-o", "json"]).json();
    assert_eq!((&model["threads"], &model["golden"]), (&2.into(), &Value::Array(vec![])));
}

/// docs/models.md gives the tolerances and their reasons.
#[test]
fn reference_models_agree_with_the_engines_they_come_from() {
    let Some(models) = reference_models("mlperf-tiny") else { return };
    for (model, tolerance) in [
        ("ad_int8", "1"),
        ("ic_int8", "11"),
        ("kws_int8", "0"),
        ("sww_int8", "0"),
        ("vww_int8", "0"),
        ("ad_f32", "1e-4"),
        ("ic_f32", "1e-4"),
        ("kws_f32", "5e-3"),
        ("vww_f32", "1e-4"),
    ] {
        let path = text(models.join(format!("{model}.onnx")));
        let done = sedge(&["bench", &path, "--seconds", "0.05", "--tolerance", tolerance, "-o", "json"]);
        let golden = done.json()["golden"].clone();
        assert_eq!(done.code, 0, "{model}: {golden}");
        let references: Vec<_> = golden.as_array().expect("a list").iter().map(|g| &g["reference"]).collect();
        assert!(references.iter().any(|r| *r == "onnxruntime") && references.len() == 2, "{model}: {references:?}");
        let eight = |g: &Value| g["inputs"] == 8 && g["same_best"] == 8;
        assert!(golden.as_array().is_some_and(|g| g.iter().all(eight)), "{model}: {golden}");
    }
    // In float, and held to what the command accepts by itself.
    let path = text(models.join("ic_int8.onnx"));
    let done = sedge(&["bench", &path, "--seconds", "0.05", "--engine", "tract", "-o", "json"]);
    assert_eq!(done.code, 0, "{}", done.stdout);
}

#[test]
fn a_model_is_measured_whenever_a_script_says_so() {
    for more in [&[][..], &["--from-saved"]] {
        measured_on_command(more);
    }
}

fn measured_on_command(more: &[&str]) {
    let model = format!("{DIGITS}/v1/model.int8.onnx");
    let mut child = Command::new(env!("CARGO_BIN_EXE_sedge"))
        .args(["bench", &model, "--serve"])
        .args(more)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, b"run 0.01\nwalk\nrun 0.01\n").expect("written");
    drop(input);
    let output = child.wait_with_output().expect("it ends with its input");
    assert!(output.status.success());
    let answers: Vec<Value> =
        String::from_utf8_lossy(&output.stdout).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let [ready, first, error, second] = answers.as_slice() else { panic!("{answers:?}") };
    assert!(ready["ready"] == true && ready["load_ms"].as_f64() > Some(0.0), "{ready}");
    assert!(ready["rss_bytes"].as_u64() > Some(1 << 20), "{ready}");
    assert!(ready["rss_base_bytes"].as_u64() <= ready["rss_bytes"].as_u64(), "{ready}");
    for measured in [first, second] {
        let [p10, median, p90] = ["p10_us", "median_us", "p90_us"].map(|k| measured[k].as_f64().expect("a number"));
        assert!(0.0 < p10 && p10 <= median && median <= p90, "{measured}");
        assert!(measured["iterations"].as_u64() > Some(0) && measured["rss_peak_bytes"].as_u64() > Some(1 << 20));
    }
    assert_eq!(error["error"], "the only command is `run SECONDS`");
}

#[test]
fn the_time_to_load_is_told_with_and_without_the_saved_form() {
    let model = format!("{DIGITS}/v1/model.int8.onnx");
    let told = succeed(&["bench", &model, "--seconds", "0.05", "-o", "json"]).json();
    assert!(told["saved"]["load_ms"].as_f64() > Some(0.0), "{told}");
    assert!(told["saved"]["bytes"].as_u64() > Some(1000), "{told}");
    let text = succeed(&["bench", &model, "--seconds", "0.05"]).stdout;
    assert!(text.contains(" ms from the saved form, peak memory "), "{text}");
    let tract = ["bench", &model, "--seconds", "0.05", "--engine", "tract"];
    let told = succeed(&[&tract[..], &["-o", "json"]].concat()).json();
    assert_eq!(told["saved"], Value::Null);
    assert!(!succeed(&tract).stdout.contains("saved form"));
}

#[test]
fn what_is_fused_is_told() {
    let model = format!("{DIGITS}/v1/model.int8.onnx");
    let fused = succeed(&["bench", &model, "--seconds", "0.05", "-o", "json"]).json();
    assert_eq!(
        (&fused["engine"], &fused["fusion"]["whole"], &fused["fusion"]["left"]),
        (&"fused".into(), &true.into(), &0.into())
    );
    let tract = succeed(&["bench", &model, "--seconds", "0.05", "--engine", "tract", "-o", "json"]).json();
    assert_eq!((&tract["engine"], &tract["fusion"]["fused"]), (&"tract".into(), &0.into()));
    let signed = Signed::new();
    let inspected = succeed(&["bundle", "inspect", &signed.bundle, "-o", "json"]).json();
    let nodes = inspected["fusion"]["nodes"].as_array().expect("every node");
    assert_eq!(nodes.len() as u64, inspected["model"]["nodes"].as_u64().expect("a number"));
    assert!(nodes.iter().any(|n| n["fate"] == "fused" && n["operator"] == "Conv" && n["region"] == 0), "{nodes:?}");
    let listed = succeed(&["bundle", "inspect", &signed.bundle, "--nodes"]).stdout;
    assert!(
        listed.contains("fused into 1 region, which are the whole model") && listed.contains("region 0"),
        "{listed}"
    );
}

#[test]
fn each_operator_is_timed_and_held_against_the_core() {
    let model = format!("{DIGITS}/v1/model.int8.onnx");
    let told = succeed(&["bench", &model, "--layers", "--seconds", "0.05", "-o", "json"]).json();
    let layers = told["layers"].as_array().expect("layers");
    let conv = layers.iter().find(|l| l["operator"] == "Conv" && l["region"] == 0).expect("a convolution");
    let figure = |key: &str| conv[key].as_f64().unwrap_or_else(|| panic!("{key} in {conv}"));
    let rate = figure("products") / figure("time_us") * 1e6;
    assert!((figure("products_per_s") / rate - 1.0).abs() < 1e-6 && conv["shape"][0] == 1, "{conv}");
    if let Some(peak) = told["peak_products_per_s"].as_f64() {
        assert!((figure("peak_share") * peak / rate - 1.0).abs() < 1e-6 && rate < 1.5 * peak, "{conv}");
    }
    let sum: f64 = layers.iter().filter_map(|l| l["time_us"].as_f64()).sum();
    let (whole, between) = (told["whole_us"].as_f64().expect("a time"), told["between_us"].as_f64().expect("a time"));
    assert!((sum + between - whole).abs() < 0.01 * whole || between == 0.0, "{sum} + {between} of {whole}");
    let tract = succeed(&["bench", &model, "--layers", "--by-time", "--seconds", "0.05", "--engine", "tract"]).stdout;
    assert!(tract.contains("tract OptMatMul") && tract.contains("between operators"), "{tract}");
    let bundle = sedge(&["bench", &format!("{DIGITS}/absent.tar"), "--layers"]);
    assert!(bundle.code == 1 && bundle.stderr.contains("--layers measures a model"), "{}", bundle.stderr);
    let threads = sedge(&["bench", &model, "--layers", "--threads", "2"]);
    assert!(threads.code == 1 && threads.stderr.contains("on one thread"), "{}", threads.stderr);
}

#[test]
fn a_model_without_a_bundle_is_inspected() {
    let model = format!("{DIGITS}/v1/model.int8.onnx");
    let told = succeed(&["bundle", "inspect", &model, "-o", "json"]).json();
    let nodes = told["fusion"]["nodes"].as_array().expect("every node");
    assert_eq!(nodes.len() as u64, told["model"]["nodes"].as_u64().expect("a number"));
    assert_eq!(told["inputs"][0]["name"], "image");
    let listed = succeed(&["bundle", "inspect", &model, "--nodes"]).stdout;
    assert!(listed.contains("which are the whole model") && listed.contains("region 0"), "{listed}");
}

#[test]
fn a_disagreement_is_a_failure() {
    let Some(models) = reference_models("mlperf-tiny") else { return };
    let path = text(models.join("ic_int8.onnx"));
    let done = sedge(&["bench", &path, "--seconds", "0.05", "--tolerance", "1"]);
    assert_eq!(done.code, 1, "{}", done.stdout);
    assert!(done.stdout.contains("DISAGREES with tflite"), "{}", done.stdout);
    assert!(done.stdout.contains("agrees with onnxruntime: largest difference 0"), "{}", done.stdout);
}

#[test]
fn a_quantized_model_starts_with_its_own_scales() {
    let Some(models) = reference_models("mlperf-tiny") else { return };
    let signed = Signed::new();
    let start = |model: &str| {
        let directory = signed.path(model);
        succeed(&["bundle", "init", &directory, "--model", &text(models.join(format!("{model}.onnx")))]);
        let manifest = fs::read_to_string(format!("{directory}/bundle.toml")).expect("a manifest");
        (directory, manifest)
    };
    let (directory, manifest) = start("ic_int8");
    assert_eq!(manifest.matches("quantization = { scale = ").count(), 2, "{manifest}");
    assert!(manifest.contains("kind = \"scores\""), "the model ends in a softmax: {manifest}");
    let packed = signed.path("ic.tar");
    fs::write(format!("{directory}/bundle.toml"), manifest.replace("zero_point = -128", "zero_point = 0"))
        .expect("written");
    succeed(&["bundle", "build", &directory, "--to", &packed]);
    let wrong = sedge(&["bundle", "check", &packed]);
    assert!(wrong.code == 1 && wrong.stderr.contains("disagree on the quantization of"), "{}", wrong.stderr);
    // A model that is not for images: raw bytes in, raw bytes out, and shown.
    let (directory, _) = start("ad_int8");
    let packed = signed.path("ad.tar");
    succeed(&["bundle", "build", &directory, "--to", &packed]);
    let sample = signed.path("sound.bin");
    fs::write(&sample, [3; 640]).expect("written");
    let run = succeed(&["run", &packed, "--allow-unsigned", "--input", &sample, "-o", "json"]).json();
    let payload = &run["samples"][0]["payloads"][0];
    assert_eq!(payload["bytes"], 640, "{run}");
    assert!(payload["body"]["base64"].as_str().is_some_and(|b| b.len() == 856), "{run}");
}

#[test]
fn a_key_that_cannot_be_read_is_never_taken_for_none() {
    let signed = Signed::new();
    for command in ["bench", "inspect"] {
        let command: &[&str] = if command == "bench" { &["bench"] } else { &["bundle", "inspect"] };
        let absent = sedge(&[command, &[&signed.bundle, "--trusted-key", "/absent.pub"]].concat());
        assert!(absent.code == 1 && absent.stderr.contains("/absent.pub cannot be read"), "{}", absent.stderr);
        let untrusted = [command, &[&signed.bundle, "-o", "json"]].concat();
        assert_eq!(succeed(&untrusted).json()["signatures_checked"], false);
        let trusted = [&untrusted[..], &["--trusted-key", &signed.public]].concat();
        assert_eq!(succeed(&trusted).json()["signatures_checked"], true);
    }
}

#[test]
fn a_publisher_signs_offline_with_two_of_three() {
    let signed = Signed::new();
    let repository = signed.path("repository");
    for name in ["root-a", "root-b", "targets-a", "targets-b", "refresh"] {
        succeed(&["keys", "new", &signed.path(name)]);
    }
    let key = |name: &str| signed.path(&format!("{name}.key"));
    let public = |name: &str| signed.path(&format!("{name}.pub"));
    let [root_a, root_b, targets_a, targets_b, refresh] =
        ["root-a", "root-b", "targets-a", "targets-b", "refresh"].map(public);
    let init = [
        &["publisher", "init", &repository, "--root-threshold", "2", "--targets-threshold", "2"][..],
        &["--root-key", &root_a, "--root-key", &root_b, "--refresh-key", &refresh],
        &["--targets-key", &targets_a, "--targets-key", &targets_b, "-o", "json"],
    ];
    let made = succeed(&init.concat()).json();
    assert_eq!(made["missing_signatures"].as_array().map(Vec::len), Some(2), "{made}");
    let again = sedge(&init.concat());
    assert!(again.code == 1 && again.json()["message"].to_string().contains("holds a repository already"));
    succeed(&["publisher", "release", &repository, &signed.bundle]);
    let sign = |name: &str| sedge(&["publisher", "sign", &repository, "--key", &key(name), "-o", "json"]);
    let early = sedge(&["publisher", "refresh", &repository, "--key", &key("refresh")]);
    assert!(early.code == 1 && early.stderr.contains("of 2 signatures; have it signed first"), "{}", early.stderr);
    let stranger = sign("refresh");
    assert!(stranger.json()["message"].to_string().contains("this key may sign nothing"), "{}", stranger.stdout);
    for name in ["root-a", "root-b", "targets-a"] {
        assert_eq!(sign(name).code, 0, "{name}");
    }
    let twice = sign("targets-a").json();
    assert_eq!(twice["missing_signatures"][0]["valid"], 1, "once is all that one key counts: {twice}");
    assert_eq!(sign("targets-b").json()["missing_signatures"], Value::Array(vec![]));
    let done = succeed(&["publisher", "refresh", &repository, "--key", &key("refresh"), "-o", "json"]).json();
    assert_eq!(done["problem"], Value::Null, "{done}");
    let bundles = done["targets"]["bundles"].as_array().expect("bundles");
    assert!(bundles.len() == 1 && bundles[0].as_str().is_some_and(|b| b.starts_with("digits/")), "{done}");
    let status = succeed(&["publisher", "status", &repository]).stdout;
    assert!(status.contains("devices accept it"), "{status}");
    fs::write(format!("{repository}/7.targets.json"), "{}").expect("written");
    let broken = sedge(&["publisher", "status", &repository]);
    assert!(broken.code == 1 && broken.stderr.contains("targets"), "{}", broken.stderr);
}

#[test]
fn help_teaches() {
    let help = succeed(&["--help"]).stdout;
    for command in ["demo", "run", "bench", "bundle", "keys", "publisher", "processor"] {
        assert!(help.contains(command), "{help}");
        assert!(succeed(&[command, "--help"]).stdout.len() > 200, "{command}");
    }
    assert!(!help.contains("internal"), "{help}");
}

#[test]
fn a_float_model_becomes_a_small_one_with_a_report() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| text(folder.path().join(name));
    let Some(models) = reference_models("mlperf-tiny") else { return };
    let of = |name: &str| text(models.join(name));
    let (model, samples, to, picture) = (of("ad_f32.onnx"), of("ad_f32.golden.npz"), at("ad.onnx"), at("ad.svg"));
    let quantize = |more: &[&str]| {
        sedge(&[&["bundle", "quantize", &model, "--calibrate", &samples, "--to", &to][..], more].concat())
    };
    let done = quantize(&["--report", &picture, "-o", "json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let report = done.json();
    assert_eq!((report["samples"].clone(), report["outputs"][0]["same_best"].clone()), (8.into(), 8.into()));
    assert_eq!(report["layers"].as_array().map(Vec::len), Some(10));
    assert_eq!(report["bytes_after"].as_u64(), Some(fs::metadata(&to).expect("the model").len()));
    let svg = fs::read_to_string(&picture).expect("the picture");
    assert!(svg.starts_with("<svg ") && svg.matches("<rect class=").count() == 11, "{svg}");
    let table = quantize(&["--method", "percentile", "--percentile", "99.9"]).stdout;
    assert!(table.contains("MatMul, Add, Relu") && table.contains("the best class is the same in "), "{table}");
    assert!(table.contains(" bytes, ") && table.contains(" % of 1067924"), "{table}");
    let again = sedge(&["bundle", "quantize", &to, "--calibrate", &samples, "--to", &at("twice.onnx")]);
    assert!(again.code == 1 && again.stderr.contains("is quantized already"), "{}", again.stderr);
    let mixed = quantize(&["--percentile", "99.9", "-o", "json"]);
    assert!(mixed.code == 1 && mixed.json()["message"].to_string().contains("goes with --method percentile"));
    assert_eq!(quantize(&["--method", "percentile", "--percentile", "12"]).code, 2);
    let unknown = quantize(&["--keep-float", "conv1", "-o", "json"]);
    assert!(unknown.code == 1 && unknown.json()["message"].to_string().contains("no node `conv1`"));
}

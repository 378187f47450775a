//! The digits bundle over its images: sandboxed and built-in processors give the same answers, as often right as its
//! page says, and what is no image of the right kind is refused by name.

use sedge_runtime::api::{Input, Meta};
use sedge_runtime::bundle::Trust;
use sedge_runtime::pack::Layout;
use sedge_runtime::pipeline::PipelineOptions;
use sedge_runtime::sandbox::MemoryProfile;
use sedge_runtime::{Outcome, Pipeline, Sample, VerifiedBundle, golden};
use std::fs;
use std::path::{Path, PathBuf};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits")
}

/// A version of the bundle, with its manifest changed by `edit`.
fn bundle(version: &str, edit: impl Fn(&str) -> String) -> VerifiedBundle {
    let directory = tempfile::tempdir().expect("a directory");
    let source = example().join(version);
    let copy = |from: PathBuf, to: PathBuf| fs::copy(&from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    let manifest = fs::read_to_string(source.join("bundle.toml")).expect("the manifest");
    // Processors lie outside the directory of the bundle.
    let manifest = manifest.replace("../../../runtime", &example().join("../../runtime").display().to_string());
    fs::write(directory.path().join("bundle.toml"), edit(&manifest)).expect("written");
    fs::create_dir(directory.path().join("golden")).expect("made");
    for part in [".", "golden"] {
        for entry in fs::read_dir(source.join(part)).expect("the bundle's files") {
            let entry = entry.expect("an entry");
            if entry.path().is_file() && entry.file_name() != "bundle.toml" {
                copy(entry.path(), directory.path().join(part).join(entry.file_name()));
            }
        }
    }
    let packed = directory.path().join("digits.tar");
    Layout::pack(directory.path()).expect("it packs").write(&packed).expect("it is written");
    VerifiedBundle::open(&packed, &Trust::Unsigned).expect("it opens")
}

fn builtin(manifest: &str) -> String {
    let manifest = manifest.replace("\"image.wasm\"\n", "\"builtin:image@1\"\n");
    let manifest = manifest.replace("component = \"classify.wasm\"", "component = \"builtin:classify@1\"");
    manifest.split("[sources]").next().expect("a first part").to_owned()
}

fn load(bundle: &VerifiedBundle, profile: MemoryProfile) -> Pipeline {
    Pipeline::load(bundle, &PipelineOptions { profile, ..PipelineOptions::default() }).expect("it loads")
}

fn run(pipeline: &mut Pipeline, sample: &Sample) -> Outcome {
    pipeline.process(&Meta::default(), &sample.input()).expect("it runs").expect("an answer")
}

/// File name and right answer of every field image.
fn images() -> Vec<(String, String)> {
    let text = fs::read_to_string(example().join("images/field/labels.csv")).expect("the labels");
    let pair = |line: &str| line.split_once(',').map(|(file, label)| (file.to_owned(), label.to_owned()));
    text.lines().skip(1).filter_map(pair).collect()
}

#[test]
fn sandboxed_and_built_in_processors_are_one() {
    let (sandboxed, native) = (bundle("v1", str::to_owned), bundle("v1", builtin));
    assert_eq!(native.manifest().preprocessor.file(), None, "the twin is built in");
    let mut profiles = vec![MemoryProfile::Tight];
    profiles.extend((MemoryProfile::probe() == MemoryProfile::Roomy).then_some(MemoryProfile::Roomy));
    let mut pipelines: Vec<Pipeline> = profiles.into_iter().map(|p| load(&sandboxed, p)).collect();
    let mut twin = load(&native, MemoryProfile::Tight);
    for (file, _) in images() {
        let sample = Sample::read(&example().join("images/field").join(&file)).expect("an image");
        let expected = run(&mut twin, &sample);
        for pipeline in &mut pipelines {
            let found = run(pipeline, &sample);
            for (f, e) in found.predictions[0].labels.iter().zip(&expected.predictions[0].labels) {
                assert_eq!((f.index, &f.label), (e.index, &e.label), "{file}");
                assert!((f.score - e.score).abs() < 1e-6, "{file}: {} and {}", f.score, e.score);
            }
        }
    }
}

#[test]
fn versions_are_as_good_and_as_bad_as_their_page_says() {
    // Of 540; examples/digits/README.md has the shares. Engines round differently inside, so two images either way.
    for (version, expected) in [("v1", 500i64), ("v2", 524), ("v3", 254)] {
        let bundle = bundle(version, str::to_owned);
        let mut pipeline = load(&bundle, MemoryProfile::probe());
        let golden = golden::check(&mut pipeline, &bundle).expect("golden samples come out as promised");
        assert_eq!(golden.len(), 12);
        let images = images();
        let right = images.iter().filter(|(file, label)| {
            let sample = Sample::read(&example().join("images/field").join(file)).expect("an image");
            run(&mut pipeline, &sample).predictions[0].labels[0].label == *label
        });
        let right = right.count() as i64;
        assert!((right - expected).abs() <= 2, "{version}: {right} right, the page says {expected}");
    }
}

/// A PNG header and nothing behind it that would have to be read to see how large it claims to be.
fn png_claiming(width: u32, height: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    drop(encoder.write_header().expect("a header"));
    out
}

/// A whole PNG of one colour: few bytes that become many.
fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(&vec![200; width as usize * height as usize * 3]).expect("the pixels");
    drop(writer);
    out
}

#[test]
fn the_largest_images_that_are_let_in_fit_into_the_sandbox() {
    let bundle = bundle("v1", str::to_owned);
    let mut pipeline = load(&bundle, MemoryProfile::probe());
    for (width, height) in [(1920, 1080), (1, 1 << 19), (1 << 19, 1)] {
        let sample = Sample::new("large.png", png_of(width, height));
        assert_eq!(run(&mut pipeline, &sample).predictions.len(), 1, "{width} x {height}");
    }
}

#[test]
fn what_is_no_image_of_the_right_kind_is_refused_by_name() {
    let good = fs::read(example().join("images/field").join(&images()[0].0)).expect("an image");
    let pages = [b"\x89PNG\r\n\x1a\n".to_vec(), b"GIF89a".to_vec(), b"\xff\xd8\xff\xe0 not a JPEG".to_vec()];
    for bundle in [bundle("v1", str::to_owned), bundle("v1", builtin)] {
        let mut pipeline = load(&bundle, MemoryProfile::probe());
        for (name, data, expected) in [
            ("text.png", b"hello".to_vec(), "not a readable PNG"),
            ("signature-only.png", pages[0].clone(), "not a readable PNG"),
            ("picture.gif", pages[1].clone(), "this processor takes images, the sample is raw bytes"),
            ("broken.jpg", pages[2].clone(), "not a readable JPEG"),
            ("cut.png", good[..good.len() / 2].to_vec(), "not a readable PNG"),
            ("wide.png", png_claiming(1 << 20, 1 << 10), "the image is 1048576 x 1024 pixels, more than pixels_max"),
            ("camera.png", png_of(4000, 3000), "the image is 4000 x 3000 pixels, more than pixels_max = 2097152"),
            ("sound.wav", b"RIFF....WAVEfmt ".to_vec(), "this processor takes images, the sample is raw bytes"),
        ] {
            let sample = Sample::new(name, data);
            let error = pipeline.process(&Meta::default(), &sample.input()).expect_err(name);
            assert!(error.to_string().contains(expected), "{name}: expected `{expected}`, got `{error}`");
            assert!(error.is_sample_failure(), "{name} cost the pipeline more than this sample: {error}");
        }
        let text = pipeline.process(&Meta::default(), &Input::Text("seven")).expect_err("a text");
        assert!(text.to_string().contains("the sample is text"), "{text}");
        let answer = run(&mut pipeline, &Sample::new("good.png", good.clone()));
        assert_eq!(answer.predictions[0].labels[0].label, images()[0].1, "and the next image is read as ever");
    }
}

#[test]
fn files_that_are_no_samples_are_told_apart() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, bytes: usize| {
        let path = directory.path().join(name);
        fs::write(&path, vec![7; bytes]).expect("a file");
        path
    };
    for (path, expected) in [
        (file("empty.png", 0), "the file is empty"),
        (file("huge.bin", (16 << 20) + 1), "the file has 16777217 bytes; samples have at most 16777216"),
        (directory.path().join("absent.png"), "the file cannot be read"),
        (directory.path().to_owned(), "the file cannot be read"),
    ] {
        let error = Sample::read(&path).expect_err(expected).to_string();
        assert!(error.contains(expected), "expected `{expected}`, got `{error}`");
    }
}

//! Sources over real files.

use sedge_agent::source::{Incoming, PathLines, Replay, Source, SourceError, Watch, feed};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

async fn next(source: &mut impl Source) -> Result<Option<Incoming>, SourceError> {
    timeout(Duration::from_secs(60), source.next()).await.expect("in time")
}

async fn name(source: &mut impl Source) -> Option<String> {
    next(source).await.expect("taken").map(|s| s.name)
}

fn write(directory: &Path, names: &[&str]) {
    for name in names {
        fs::write(directory.join(name), name.as_bytes()).expect("written");
    }
}

#[tokio::test]
async fn a_directory_is_replayed_by_name_over_and_over_with_its_labels() {
    let directory = tempfile::tempdir().expect("directory");
    write(directory.path(), &["b.png", "a.png", ".hidden", "c.png.tmp"]);
    fs::write(directory.path().join("labels.csv"), "file,label\na.png,7\n").expect("written");
    fs::create_dir(directory.path().join("d.png")).expect("made");
    let mut replay = Replay::new(directory.path().to_owned(), 0.0, true);
    let first = next(&mut replay).await.expect("taken").expect("there");
    assert_eq!(
        (first.name.as_str(), first.label.as_deref(), first.data.as_slice()),
        ("a.png", Some("7"), &b"a.png"[..])
    );
    assert!(first.ts_ms > 1_600_000_000_000);
    assert_eq!(name(&mut replay).await.as_deref(), Some("b.png"));
    write(directory.path(), &["aa.png"]);
    for expected in ["a.png", "aa.png", "b.png", "a.png"] {
        assert_eq!(name(&mut replay).await.as_deref(), Some(expected), "each round sees what is there by then");
    }
    let mut once = Replay::new(directory.path().to_owned(), 1e6, false);
    for expected in [Some("a.png"), Some("aa.png"), Some("b.png"), None] {
        assert_eq!(name(&mut once).await.as_deref(), expected);
    }
}

#[tokio::test]
async fn the_same_share_of_samples_is_labelled_each_time_it_is_replayed() {
    let directory = tempfile::tempdir().expect("directory");
    let names: Vec<String> = (0..200).map(|n| format!("{n:03}.png")).collect();
    write(directory.path(), &names.iter().map(String::as_str).collect::<Vec<_>>());
    let labels: String = names.iter().map(|name| format!("{name},7\n")).collect();
    fs::write(directory.path().join("labels.csv"), labels).expect("written");
    let labelled = async |permille: u16| {
        let mut replay = Replay::new(directory.path().to_owned(), 0.0, true).with_label_share(permille);
        let mut labelled = Vec::new();
        for _ in 0..400 {
            let sample = next(&mut replay).await.expect("taken").expect("there");
            labelled.extend(sample.label.map(|_| sample.name));
        }
        labelled
    };
    let third = labelled(333).await;
    let (first, second) = third.split_at(third.len() / 2);
    assert!(first == second && (45..90).contains(&first.len()), "{} of 200", first.len());
    let half = labelled(500).await;
    assert!(first.iter().all(|name| half.contains(name)), "a larger share has them too");
    assert_eq!((labelled(0).await.len(), labelled(1000).await.len()), (0, 400));
}

#[tokio::test]
async fn what_cannot_be_replayed_is_named() {
    let directory = tempfile::tempdir().expect("directory");
    let mut replay = Replay::new(directory.path().to_owned(), 0.0, true);
    assert!(matches!(next(&mut replay).await, Err(SourceError::Empty { .. })));
    write(directory.path(), &["a.png", "b.png"]);
    fs::write(directory.path().join("labels.csv"), "a.png,7\nb.png\n").expect("written");
    let error = next(&mut replay).await.expect_err("a bad line").to_string();
    assert!(error.contains("labels.csv, line 2"), "{error}");
    fs::remove_file(directory.path().join("labels.csv")).expect("removed");
    assert_eq!(name(&mut replay).await.as_deref(), Some("a.png"));
    fs::remove_file(directory.path().join("b.png")).expect("removed");
    assert!(matches!(next(&mut replay).await, Err(SourceError::Read { .. })));
    assert_eq!(name(&mut replay).await.as_deref(), Some("a.png"), "one that vanished does not hold up the others");
    let mut nowhere = Replay::new(directory.path().join("no"), 0.0, true);
    assert!(matches!(next(&mut nowhere).await, Err(SourceError::Read { .. })));
}

#[tokio::test]
async fn each_file_that_appears_is_taken_once_when_it_is_complete() {
    let directory = tempfile::tempdir().expect("directory");
    write(directory.path(), &["a.png"]);
    let mut watch = Watch::new(directory.path().to_owned(), 10, false);
    assert_eq!(name(&mut watch).await.as_deref(), Some("a.png"));
    write(directory.path(), &["c.png.part", "b.png"]);
    assert_eq!(name(&mut watch).await.as_deref(), Some("b.png"), "neither the old one nor the incomplete one");
    fs::rename(directory.path().join("c.png.part"), directory.path().join("c.png")).expect("renamed");
    assert_eq!(name(&mut watch).await.as_deref(), Some("c.png"));
    fs::write(directory.path().join("a.png"), "another sample").expect("written");
    let again = next(&mut watch).await.expect("taken").expect("there");
    assert_eq!((again.name.as_str(), again.data.as_slice()), ("a.png", &b"another sample"[..]));

    let mut deleting = Watch::new(directory.path().to_owned(), 10, true);
    for expected in ["a.png", "b.png", "c.png"] {
        assert_eq!(name(&mut deleting).await.as_deref(), Some(expected));
    }
    assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 0);
}

#[tokio::test]
async fn a_list_of_paths_is_followed_line_by_line() {
    let directory = tempfile::tempdir().expect("directory");
    write(directory.path(), &["a.png", "b.png"]);
    let of = |name: &str| directory.path().join(name).display().to_string();
    let text = format!("{}\n\n{}\n{}", of("b.png"), of("gone.png"), of("a.png"));
    let mut lines = PathLines::from_reader(move || std::io::Cursor::new(text)).expect("started");
    assert_eq!(name(&mut lines).await.as_deref(), Some("b.png"));
    assert!(matches!(next(&mut lines).await, Err(SourceError::Read { path, .. }) if path.ends_with("gone.png")));
    assert_eq!(name(&mut lines).await.as_deref(), Some("a.png"));
    assert_eq!(name(&mut lines).await, None);
    let mut endless = PathLines::from_reader(|| std::io::BufReader::new(std::io::repeat(b'x'))).expect("started");
    assert!(next(&mut endless).await.is_err(), "a line without an end");
}

#[tokio::test]
async fn a_full_feed_says_so() {
    let (pushing, mut source) = feed(2);
    let sample = |name: &str| Incoming { ts_ms: 0, name: name.to_owned(), data: vec![], label: None };
    let pushed: Vec<bool> = ["a", "b", "c"].iter().map(|n| pushing.push_or_drop(sample(n))).collect();
    assert_eq!((pushed, pushing.dropped()), (vec![true, true, false], 1));
    assert_eq!(name(&mut source).await.as_deref(), Some("a"));
    drop(pushing);
    assert_eq!(name(&mut source).await.as_deref(), Some("b"));
    assert_eq!(name(&mut source).await, None);
}

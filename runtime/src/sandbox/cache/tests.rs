use super::*;
use crate::cache::LEFT_BEHIND;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

fn cache() -> (TempDir, CodeCache) {
    let directory = tempfile::tempdir().expect("directory");
    let cache = CodeCache::new(directory.path().join("code"));
    (directory, cache)
}

fn key(component: &str) -> CodeKey {
    CodeKey::of(Sha256Digest::of(component.as_bytes()), Sha256Digest::of(b"engine"))
}

fn names(cache: &CodeCache) -> Vec<String> {
    let listed = fs::read_dir(cache.dir()).expect("listed").flatten();
    let mut names: Vec<_> = listed.map(|e| e.file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}

fn used_at(cache: &CodeCache, key: CodeKey, seconds: u64) {
    let file = File::open(cache.0.path(key.0)).expect("there");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).expect("set");
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
}

#[test]
fn what_was_put_is_got() {
    let (_directory, cache) = cache();
    assert!(cache.get(key("a")).expect("trusted").is_none());
    cache.put(key("a"), b"code of a").expect("kept");
    let found = cache.get(key("a")).expect("sound").expect("there");
    assert_eq!((found.bytes.as_slice(), found.digest), (b"code of a".as_slice(), Sha256Digest::of(b"code of a")));
    assert!(cache.get(key("b")).expect("trusted").is_none());
    assert_eq!(names(&cache), [format!("{}.code", key("a").0.hex())]);
    let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o777;
    assert_eq!((mode(cache.dir()), mode(&cache.0.path(key("a").0))), (0o700, 0o600));
}

#[test]
fn component_and_engine_both_make_the_key() {
    let [a, b] = [b"a", b"b"].map(|bytes| Sha256Digest::of(bytes));
    let keys = [CodeKey::of(a, a), CodeKey::of(a, b), CodeKey::of(b, a), CodeKey::of(b, b)];
    for (i, key) in keys.iter().enumerate() {
        assert!(!keys[..i].contains(key));
    }
}

#[test]
fn every_changed_byte_and_every_truncation_is_damage() {
    let (_directory, cache) = cache();
    cache.put(key("a"), b"code").expect("kept");
    let path = cache.0.path(key("a").0);
    let sound = fs::read(&path).expect("read");
    assert_eq!(sound.len(), HEADER_BYTES + 4);
    let damaged = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        match cache.get(key("a")) {
            Err(e) => e.is_damage() && e.to_string().contains(&path.display().to_string()),
            Ok(_) => false,
        }
    };
    for at in 0..sound.len() {
        let mut changed = sound.clone();
        changed[at] ^= 1;
        assert!(damaged(&changed), "byte {at}");
        assert!(damaged(&sound[..at]), "first {at} bytes");
    }
    assert!(damaged(&[sound.as_slice(), b"!"].concat()), "longer");
    // Whoever compiles again mends it.
    cache.put(key("a"), b"code").expect("kept");
    assert_eq!(fs::read(&path).expect("read"), sound);
}

#[test]
fn an_entry_of_another_key_is_damage() {
    let (_directory, cache) = cache();
    cache.put(key("a"), b"code").expect("kept");
    fs::rename(cache.0.path(key("a").0), cache.0.path(key("b").0)).expect("renamed");
    let Err(error) = cache.get(key("b")) else { panic!("it was taken") };
    assert!(error.is_damage() && error.to_string().contains("another component"), "{error}");
}

#[test]
fn a_place_that_others_can_write_to_is_refused() {
    let (_directory, cache) = cache();
    cache.put(key("a"), b"code").expect("kept");
    let refused = || {
        let Err(error) = cache.get(key("a")) else { panic!("it was taken") };
        assert!(matches!(error, CacheError::Untrusted { .. }) && !error.is_damage(), "{error}");
        error.to_string()
    };
    for mode in [0o770, 0o707, 0o1777] {
        chmod(cache.dir(), mode);
        assert!(refused().contains(&format!("its mode is {mode:o}")), "{mode:o}");
        assert!(matches!(cache.put(key("b"), b"code"), Err(CacheError::Untrusted { .. })), "{mode:o}");
        assert!(matches!(cache.lock(key("b")), Err(CacheError::Untrusted { .. })), "{mode:o}");
    }
    chmod(cache.dir(), 0o755);
    let path = cache.0.path(key("a").0);
    for mode in [0o620, 0o602] {
        chmod(&path, mode);
        assert!(refused().contains(&format!("its mode is {mode:o}")), "{mode:o}");
    }
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    assert!(refused().contains("it is no file"));
}

#[test]
fn a_place_of_another_user_is_refused() {
    let (_directory, cache) = cache();
    cache.put(key("a"), b"code").expect("kept");
    // Only root can give files away; others run this for nothing.
    if std::os::unix::fs::chown(cache.dir(), Some(4711), None).is_ok() {
        let Err(error) = cache.get(key("a")) else { panic!("it was taken") };
        assert!(error.to_string().contains("it belongs to user 4711"), "{error}");
    }
}

#[test]
fn a_link_is_not_followed() {
    let (directory, cache) = cache();
    cache.put(key("a"), b"code").expect("kept");
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(cache.0.path(key("a").0), &elsewhere).expect("moved");
    std::os::unix::fs::symlink(&elsewhere, cache.0.path(key("a").0)).expect("linked");
    assert!(cache.get(key("a")).is_err());
}

#[test]
fn what_was_not_used_for_longest_gives_way() {
    let (_directory, cache) = cache();
    let cache = cache.with_bytes_max(3 * (HEADER_BYTES as u64 + 100));
    for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
        cache.put(key(name), &[7; 100]).expect("kept");
        used_at(&cache, key(name), 1_000 + at as u64);
    }
    assert!(cache.get(key("a")).expect("sound").is_some());
    cache.put(key("d"), &[7; 100]).expect("kept");
    let there = |name: &str| cache.0.path(key(name).0).exists();
    assert_eq!(["a", "b", "c", "d"].map(there), [true, false, true, true]);
    // Replacing one takes no more room than it had.
    cache.put(key("d"), &[8; 100]).expect("kept");
    assert_eq!(["a", "b", "c", "d"].map(there), [true, false, true, true]);
}

#[test]
fn code_that_is_too_long_is_not_kept_and_nothing_gives_way_for_it() {
    let (_directory, cache) = cache();
    let small = cache.clone().with_bytes_max(HEADER_BYTES as u64 + 100);
    small.put(key("a"), &[7; 100]).expect("kept");
    assert!(matches!(small.put(key("b"), &[7; 101]), Err(CacheError::TooLong { bytes: 101, bytes_max: 100, .. })));
    let long = vec![7; CACHED_CODE_BYTES_MAX + 1];
    assert!(matches!(cache.put(key("b"), &long), Err(CacheError::TooLong { .. })));
    assert_eq!(names(&cache), [format!("{}.code", key("a").0.hex())]);
    // Nor is it read.
    let entry = [header(key("b"), &long), long].concat();
    fs::write(cache.0.path(key("b").0), entry).expect("written");
    chmod(&cache.0.path(key("b").0), 0o600);
    assert!(cache.get(key("b")).is_err_and(|e| e.is_damage()));
}

#[test]
fn one_compiles_and_the_next_may_when_it_is_gone() {
    let (_directory, cache) = cache();
    let lock = cache.lock(key("a")).expect("opened").expect("free");
    assert!(cache.lock(key("a")).expect("opened").is_none());
    let other = cache.lock(key("b")).expect("opened");
    assert!(other.is_some(), "another key is another lock");
    drop((lock, other));
    assert!(names(&cache).is_empty());
    assert!(cache.lock(key("a")).expect("opened").is_some());
}

#[test]
fn what_dead_processes_left_is_swept_up() {
    let (_directory, cache) = cache();
    cache.put(key("a"), b"code").expect("kept");
    let left = ["x.lock", "x.7-0.part", "x.7-1.part"].map(|name| cache.dir().join(name));
    let files = left.each_ref().map(|path| File::create_new(path).expect("written"));
    // One is still being written.
    files[2].lock().expect("free");
    cache.put(key("b"), b"code").expect("kept");
    assert_eq!(left.each_ref().map(|path| path.exists()), [true, false, true], "what may still be in use stays");
    for file in &files {
        file.set_modified(SystemTime::now() - LEFT_BEHIND * 2).expect("set");
    }
    cache.put(key("c"), b"code").expect("kept");
    assert!(!left.iter().any(|path| path.exists()));
}

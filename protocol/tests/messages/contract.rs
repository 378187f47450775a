//! The documents and the code name the same things.

use super::examples::{COMPONENTS, Example, examples};
use super::{docs, hold, read};
use sedge_protocol::limits::*;
use sedge_protocol::message::*;
use sedge_protocol::topic::{RULES, markdown_table};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Rules of the CDDL: each one's text without comments.
fn rules() -> BTreeMap<String, String> {
    let mut rules: BTreeMap<String, String> = BTreeMap::new();
    let mut current = String::new();
    for line in read(&docs().join("telemetry.cddl")).lines() {
        let line = line.split(';').next().unwrap_or_default();
        let body = match line.split_once(" = ") {
            Some((name, body)) if name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') => {
                current = name.to_owned();
                assert!(!rules.contains_key(name), "two rules are called {name}");
                body
            }
            _ => line,
        };
        let rule = rules.entry(current.clone()).or_default();
        rule.push_str(body);
        rule.push('\n');
    }
    rules
}

/// Words of a rule in order, each with whether a colon makes it a key; strings left out.
fn words(body: &str) -> Vec<(String, bool)> {
    let bare: String = body.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut words = Vec::new();
    let mut rest = bare.as_str();
    while let Some(start) = rest.find(is_word) {
        let tail = &rest[start..];
        let end = tail.find(|c| !is_word(c)).unwrap_or(tail.len());
        words.push((tail[..end].to_owned(), tail[end..].starts_with(':')));
        rest = &tail[end..];
    }
    words
}

/// Keys that a rule and those it refers to name.
fn keys(rules: &BTreeMap<String, String>, rule: &str, seen: &mut BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if !seen.insert(rule.to_owned()) {
        return found;
    }
    let body = rules.get(rule).unwrap_or_else(|| panic!("the CDDL has no rule {rule}"));
    for (word, is_key) in words(body) {
        if is_key {
            found.insert(word);
        } else if rules.contains_key(&word) {
            found.extend(keys(rules, &word, seen));
        }
    }
    found
}

fn keys_of(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                // Names of components are keys too, but not of the schema.
                if !COMPONENTS.contains(&key.as_str()) {
                    found.insert(key.clone());
                }
                keys_of(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys_of(item, found)),
        _ => {}
    }
}

#[test]
fn the_cddl_names_every_key_and_no_other() {
    let rules = rules();
    let mut written: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for Example { rule, json, .. } in examples() {
        let value: Value = serde_json::from_str(&json).expect("json");
        keys_of(&value, written.entry(rule).or_default());
    }
    for (rule, written) in &mut written {
        let mut named = keys(&rules, rule, &mut BTreeSet::new());
        if *rule == "chunk" {
            // Reserved: named, and never written.
            assert!(named.remove("key_id"));
        }
        assert_eq!(named, *written, "rule {rule}");
    }
    // Every message of the table has examples.
    for rule in RULES {
        assert!(written.contains_key(rule.message.replace('-', "_").as_str()), "{}", rule.message);
    }
}

#[test]
fn every_rule_of_the_cddl_is_used() {
    let rules = rules();
    let mut seen = BTreeSet::new();
    for Example { rule, .. } in examples() {
        keys(&rules, rule, &mut seen);
    }
    let unused: Vec<&String> = rules.keys().filter(|r| !r.is_empty() && !seen.contains(*r)).collect();
    assert!(unused.is_empty(), "{unused:?}");
    for (name, body) in &rules {
        for (word, is_key) in words(body) {
            let known = ["text", "uint", "float", "bool", "bytes", "any", "size", "regexp"].contains(&word.as_str());
            // Allowed, but some tools take such a key for the type.
            assert!(!is_key || !(known || rules.contains_key(&word)), "`{word}` is a key and a type");
            let number = word.chars().all(|c| c.is_ascii_digit());
            assert!(is_key || known || number || rules.contains_key(&word), "{name} refers to `{word}`");
        }
    }
}

#[test]
fn the_cddl_lists_every_word() {
    let rules = rules();
    let all =
        |rule: &str| -> BTreeSet<String> { rules[rule].split('"').skip(1).step_by(2).map(str::to_owned).collect() };
    fn of<T: std::fmt::Display>(words: &[T]) -> BTreeSet<String> {
        words.iter().map(ToString::to_string).collect()
    }
    assert_eq!(all("deployment_state"), of(DeploymentState::ALL));
    assert_eq!(all("component_kind"), of(ComponentKind::ALL));
    assert_eq!(all("wait_reason"), of(WaitReason::LISTED));
    assert_eq!(all("repository_word"), of(Repository::ALL));
    assert_eq!(all("role_word"), of(Role::LISTED));
    assert_eq!(all("log_level"), of(LogLevel::ALL));
    assert_eq!(all("chunk_encoding"), of(ChunkEncoding::ALL));
    assert!(all("verdict_action").is_superset(&of(Verdict::ALL)));
}

#[test]
fn the_cddl_has_the_bounds_of_the_code() {
    let rules = rules();
    for (rule, text) in [
        ("chunk", format!("bytes .size (1..{CHUNK_BYTES_MAX})")),
        ("chunk", format!("index: 0..{}", CHUNKS_MAX - 1)),
        ("want", format!("chunk_count: 1..{CHUNKS_MAX}")),
        ("chunk_index", format!("[1*{CHUNKS_MAX} 1..{CHUNK_BYTES_MAX}]")),
        ("metadata_segment", format!("bytes .size (1..{SEGMENT_BYTES_MAX})")),
        ("metadata_segment", format!("count: 1..{SEGMENTS_MAX}")),
        ("metadata_segment", format!("total_bytes: 1..{DOCUMENT_BYTES_MAX}")),
        ("announcement", format!("lanes: 1..{LANES_MAX}")),
    ] {
        assert!(rules[rule].contains(&text), "{rule} should say `{text}`");
    }
}

/// Replaces what stands between two markers of a page.
fn between(page: &str, marker: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- {marker}: written by a test -->\n"), format!("<!-- end of {marker} -->\n"));
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no {end}"));
    format!("{before}{begin}{text}{end}{after}")
}

#[test]
fn the_pages_show_the_tables_of_the_code() {
    let path = docs().join("topics.md");
    hold(&path, &between(&read(&path), "topics", &markdown_table()));
    let mut codes = String::from("| code | class | meaning |\n| --- | --- | --- |\n");
    for code in ErrorCode::LISTED {
        let class = format!("{:?}", code.class()).to_lowercase();
        writeln!(codes, "| `{code}` | {class} | {} |", code.meaning()).expect("a string");
    }
    let path = docs().join("errors.md");
    hold(&path, &between(&read(&path), "codes", &codes));
}

#[test]
fn the_asyncapi_document_has_every_topic_and_its_message() {
    let text = read(&docs().join("asyncapi.yaml"));
    let mut channels = BTreeSet::new();
    let mut address = None;
    for line in text.lines().map(str::trim) {
        if let Some(found) = line.strip_prefix("address: ") {
            address = Some(found.trim_matches('\'').to_owned());
        } else if let Some(message) = line.strip_prefix("messages: { ")
            && let (Some(address), Some((name, _))) = (address.take(), message.split_once(':'))
        {
            channels.insert((address, name.to_owned()));
        }
    }
    let expected: BTreeSet<(String, String)> = RULES
        .iter()
        .map(|rule| {
            let topic =
                rule.pattern().replace("<project>:<device>", "{device}").replace("<project>:<digest>", "{bundle}");
            (topic.replace('<', "{").replace('>', "}"), rule.message.to_owned())
        })
        .collect();
    assert_eq!(channels, expected);
}

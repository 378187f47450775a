//! Which role answers for which paths.
//!
//! A pattern never reaches past a `/`, and a role answers only for paths that every role above it has given it.

use super::error::Role;
use super::key::{Key, KeyId, RoleKeys};
use crate::Sha256Digest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// To whom a targets role hands paths, in order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Delegations {
    /// Keys of the roles below.
    pub keys: BTreeMap<KeyId, Key>,
    /// The roles; the first that knows a path wins.
    pub roles: Vec<DelegatedRole>,
}

/// A role that answers for some paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegatedRole {
    /// Its name, which may hold anything but a top-level role's.
    pub name: String,
    /// Whether a path that this role does not know is sought no further.
    pub terminating: bool,
    /// Patterns of the paths it answers for; `*`, `?` and `[…]` within a part of a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// First hex digits of the SHA-256 of the paths it answers for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_hash_prefixes: Option<Vec<String>>,
    /// Whose signatures count for it.
    #[serde(flatten)]
    pub keys: RoleKeys,
}

impl Delegations {
    pub(super) fn check(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        for role in &self.roles {
            let name: String = role.name.chars().take(80).flat_map(char::escape_default).collect();
            if role.name.is_empty() || !matches!(Role::named(&role.name), Role::Delegated(_)) {
                return Err(format!("`{name}` cannot be the name of a delegated role"));
            }
            if !names.insert(&role.name) {
                return Err(format!("role `{name}` is delegated to twice"));
            }
            if role.paths.is_some() == role.path_hash_prefixes.is_some() {
                return Err(format!("role `{name}` needs either `paths` or `path_hash_prefixes`"));
            }
            role.keys.check().map_err(|e| format!("role `{name}`: {e}"))?;
        }
        Ok(())
    }

    pub(super) fn role(&self, name: &str) -> Option<&RoleKeys> {
        self.roles.iter().find(|r| r.name == name).map(|r| &r.keys)
    }
}

impl DelegatedRole {
    /// Whether it answers for `path`.
    pub fn answers_for(&self, path: &str) -> bool {
        if let Some(prefixes) = &self.path_hash_prefixes {
            let hash = Sha256Digest::of(path.as_bytes()).hex();
            return prefixes.iter().any(|prefix| hash.starts_with(prefix.as_str()));
        }
        self.paths.iter().flatten().any(|pattern| path_matches(path, pattern))
    }
}

/// Part by part, so that no wildcard matches a `/`.
fn path_matches(path: &str, pattern: &str) -> bool {
    path.split('/').count() == pattern.split('/').count()
        && path.split('/').zip(pattern.split('/')).all(|(part, pattern)| part_matches(part, pattern))
}

enum Glob {
    Any,
    One,
    Set { negated: bool, ranges: Vec<(char, char)> },
    Char(char),
}

/// Reads a pattern as Python's `fnmatch` does: a `[` without its `]` stands for itself.
fn globs(pattern: &str) -> Vec<Glob> {
    let mut out = Vec::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '*' => out.push(Glob::Any),
            '?' => out.push(Glob::One),
            '[' => match set(rest) {
                Some((glob, after)) => {
                    out.push(glob);
                    rest = after;
                }
                None => out.push(Glob::Char('[')),
            },
            c => out.push(Glob::Char(c)),
        }
    }
    out
}

fn set(text: &str) -> Option<(Glob, &str)> {
    let (negated, body) = text.strip_prefix('!').map_or((false, text), |body| (true, body));
    // A `]` that comes first belongs to the set.
    let first = body.chars().next()?.len_utf8();
    let end = first + body.get(first..)?.find(']')?;
    let (inside, after) = (body.get(..end)?, body.get(end + 1..)?);
    let mut ranges = Vec::new();
    let mut chars = inside.chars().peekable();
    while let Some(low) = chars.next() {
        let mut ahead = chars.clone();
        match (ahead.next(), ahead.next()) {
            (Some('-'), Some(high)) => {
                ranges.push((low, high));
                chars = ahead;
            }
            _ => ranges.push((low, low)),
        }
    }
    Some((Glob::Set { negated, ranges }, after))
}

impl Glob {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Set { negated, ranges } => ranges.iter().any(|&(low, high)| (low..=high).contains(&c)) != *negated,
            Self::Char(expected) => c == *expected,
        }
    }
}

/// Goes back to the last `*` only: time is bounded by the product of both lengths, whatever the pattern.
fn part_matches(part: &str, pattern: &str) -> bool {
    let globs = globs(pattern);
    let chars: Vec<char> = part.chars().collect();
    let (mut c, mut g) = (0, 0);
    let mut last_star = None;
    while let Some(&current) = chars.get(c) {
        match globs.get(g) {
            Some(Glob::Any) => {
                last_star = Some((c, g));
                g += 1;
            }
            Some(glob) if glob.matches(current) => {
                c += 1;
                g += 1;
            }
            _ => match last_star {
                Some((from, star)) => {
                    last_star = Some((from + 1, star));
                    c = from + 1;
                    g = star + 1;
                }
                None => return false,
            },
        }
    }
    globs.iter().skip(g).all(|glob| matches!(glob, Glob::Any))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_the_specification() {
        for (path, pattern, expected) in [
            // TUF specification, PATHPATTERN.
            ("targets/foo.tgz", "targets/*.tgz", true),
            ("targets/foo.txt", "targets/*.tgz", false),
            ("foo-version-2.tgz", "foo-version-?.tgz", true),
            ("foo-version-alpha.tgz", "foo-version-?.tgz", false),
            ("foo.tgz", "*.tgz", true),
            ("targets/foo.tgz", "*.tgz", false),
            ("foo.tgz", "foo.tgz", true),
            ("bar.tgz", "foo.tgz", false),
            // No wildcard passes a `/`.
            ("a/b", "*", false),
            ("a/b", "a?b", false),
            ("a/b", "a[/]b", false),
            ("a/b/c", "a/*", false),
            ("a", "a/*", false),
            // fnmatch, case by case.
            ("", "", true),
            ("", "*", true),
            ("", "?", false),
            ("abc", "a*c", true),
            ("abcbd", "a*b*c", false),
            ("aXbXc", "a*b*c", true),
            ("ab", "a**b", true),
            ("A", "a", false),
            ("b", "[a-c]", true),
            ("d", "[a-c]", false),
            ("d", "[!a-c]", true),
            ("]", "[]]", true),
            ("-", "[a-]", true),
            ("[", "[", true),
            ("[a", "[a", true),
            ("ü", "?", true),
        ] {
            assert_eq!(path_matches(path, pattern), expected, "{path} against {pattern}");
        }
    }

    #[test]
    fn a_pattern_cannot_take_for_ever() {
        let part = "a".repeat(2_000);
        let pattern = "*a".repeat(1_000) + "b";
        assert!(!part_matches(&part, &pattern));
    }

    #[test]
    fn bins_are_found_by_hash() {
        let role = |prefix: &str| DelegatedRole {
            name: "bin".to_owned(),
            terminating: true,
            paths: None,
            path_hash_prefixes: Some(vec![prefix.to_owned()]),
            keys: RoleKeys { keyids: vec![], threshold: 1, extra: serde_json::Map::new() },
        };
        // printf digits/1 | sha256sum
        let hash = Sha256Digest::of(b"digits/1").hex();
        assert!(role(&hash[..2]).answers_for("digits/1"));
        assert!(role("").answers_for("digits/1"));
        assert!(!role(&hash[1..3]).answers_for("digits/1") || hash[..2] == hash[1..3]);
    }
}

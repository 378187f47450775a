//! Who may publish, subscribe and connect as whom, for a broker that asks on each packet.
//!
//! A subscription is a set of topics. It is allowed when every row of [`RULES`] that the set touches is one that the
//! caller may read, and the set stays within the topics of one device or bundle that the caller may read, which must be
//! spelled out: an MQTT wildcard stands for whole levels and cannot say "all bundles of this project", and `b/+/m`
//! would show the bundles of every tenant. A device is told which bundle it is to run before it subscribes, so it can
//! spell it out. Only servers may put `+` in place of the device.

use super::rules::{Family, RULES, Rule};
use super::{BundleLevel, TOPIC_BYTES_MAX, Topic};
use crate::id::{Principal, ServerName};
use crate::limits::TOPIC_SLASHES_MAX;
use std::fmt;

/// What a server's common name begins with. No project may be called `server`, or its devices would have such names;
/// enrolment must refuse it.
const SERVER: &str = "server";

/// Who is connected, by the common name of the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A device.
    Device(Principal),
    /// A fleet server, or a service that acts for it.
    Server(ServerName),
}

/// A common name that is neither a device's nor a server's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the common name `{0}` is neither `<project>:<device>` nor `server:<name>`")]
pub struct CallerError(String);

impl Caller {
    /// Reads a certificate's common name.
    ///
    /// # Errors
    /// When it is neither a device's nor a server's.
    pub fn from_common_name(name: &str) -> Result<Self, CallerError> {
        let error = || CallerError(name.chars().take(140).map(|c| if c.is_control() { ' ' } else { c }).collect());
        match name.split_once(':') {
            Some((SERVER, server)) => server.parse().map(Self::Server).map_err(|_| error()),
            _ => name.parse().map(Self::Device).map_err(|_| error()),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(principal) => principal.fmt(f),
            Self::Server(name) => write!(f, "{SERVER}:{name}"),
        }
    }
}

/// Whether `caller` may publish to `topic`, or have it as the topic of its will.
pub fn may_publish(caller: &Caller, topic: &str) -> bool {
    published(caller, topic).is_some()
}

/// Whether a message of `caller` to `topic` may be retained. Brokers keep such messages in memory for ever.
pub fn may_retain(caller: &Caller, topic: &str) -> bool {
    published(caller, topic).is_some_and(|rule| rule.retained)
}

/// The row that lets `caller` publish to `topic`.
fn published(caller: &Caller, topic: &str) -> Option<&'static Rule> {
    let (family, levels) = match &topic.parse::<Topic>().ok()? {
        Topic::Device(principal, _) if !is_own(caller, principal) => return None,
        Topic::Device(_, t) => (Family::Device, t.to_string()),
        Topic::Bundle(_, t) => (Family::Bundle, t.to_string()),
    };
    let levels: Vec<&str> = levels.split('/').collect();
    rules(family).find(|rule| {
        let access = if matches!(caller, Caller::Device(_)) { rule.device } else { rule.server };
        access.publishes() && touches(&levels, rule)
    })
}

/// Whether `caller` may subscribe to `filter`. `$share/…` and `$SYS/…` are refused like everything that does not begin
/// with `sedge/1/`.
pub fn may_subscribe(caller: &Caller, filter: &str) -> bool {
    if filter.len() > TOPIC_BYTES_MAX || filter.matches('/').count() > TOPIC_SLASHES_MAX || filter.contains('\0') {
        return false;
    }
    let levels: Vec<&str> = filter.split('/').collect();
    let ["sedge", "1", kind, owner, rest @ ..] = levels.as_slice() else { return false };
    let own = match (*kind, *owner, caller) {
        ("d", "+", caller) => matches!(caller, Caller::Server(_)),
        ("d", owner, caller) => owner.parse().is_ok_and(|device: Principal| is_own(caller, &device)),
        ("b", owner, Caller::Device(device)) => {
            owner.parse().is_ok_and(|bundle: BundleLevel| bundle.project == device.project)
        }
        // Servers only publish there.
        _ => false,
    };
    if !own || !is_filter(rest) {
        return false;
    }
    let family = if *kind == "d" { Family::Device } else { Family::Bundle };
    let mut touched = rules(family).filter(|rule| touches(rest, rule)).peekable();
    let readable = |rule: &Rule| match caller {
        Caller::Device(_) => rule.device.subscribes(),
        Caller::Server(_) => rule.server.subscribes(),
    };
    touched.peek().is_some() && touched.all(readable)
}

/// Whether `caller` may connect as `client_id`: its common name, or that and `/` and a name for a further connection.
/// A mere prefix would let `acme:cam-1` take over the session of `acme:cam-10`.
pub fn may_use_client_id(caller: &Caller, client_id: &str) -> bool {
    let name = caller.to_string();
    match client_id.strip_prefix(name.as_str()) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('/').is_some_and(|n| n.parse::<ServerName>().is_ok()),
        None => false,
    }
}

fn is_own(caller: &Caller, device: &Principal) -> bool {
    match caller {
        Caller::Device(own) => own == device,
        Caller::Server(_) => true,
    }
}

fn rules(family: Family) -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(move |rule| rule.family == family)
}

/// Whether the levels are those of a filter: a wildcard fills its level, and `#` is the last.
fn is_filter(levels: &[&str]) -> bool {
    let last = levels.len().saturating_sub(1);
    levels.iter().enumerate().all(|(i, level)| match *level {
        "+" => true,
        "#" => i == last,
        level => !level.is_empty() && !level.contains(['+', '#']),
    })
}

/// Whether a topic of the rule is one of the filter's.
fn touches(filter: &[&str], rule: &Rule) -> bool {
    let mut filter = filter.iter();
    let mut levels = rule.levels.split('/');
    loop {
        match (filter.next(), levels.next()) {
            (Some(&"#"), _) | (None, None) => return true,
            (Some(&"+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(a), Some(b)) if *a == b => {}
            _ => return false,
        }
    }
}

//! From what is signed to an order that a deployment can follow.

use super::Refusal;
use sedge_protocol::deployment::{ColdSwap, CommitRule, Deadlines, Order, ShadowLimits};
use sedge_protocol::id::Generation;
use sedge_protocol::message::ErrorCode;
use sedge_protocol::uptane::{Kind, Target};
use serde::Deserialize;
use serde_json::Value;

/// The key of the settings that says how to deploy; the rest is the pipeline's.
const DEPLOYMENT: &str = "deployment";

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Rules {
    commit: Option<CommitRule>,
    shadow: Option<ShadowLimits>,
    probation_s: Option<u32>,
    attempts_max: Option<u8>,
    download_bytes_max: Option<u64>,
    deadlines: Option<Deadlines>,
    not_after_unix_s: Option<u64>,
    cold_swap: Option<ColdSwap>,
}

/// The order for a target of this generation.
///
/// # Errors
/// When this agent cannot follow it, or its rules are malformed.
pub fn order(generation: Generation, target: &Target) -> Result<Order, Refusal> {
    if target.kind != Kind::Model {
        let detail = format!("{} is a bundle of kind {}; this agent deploys models only", target.bundle, target.kind);
        return Err(Refusal { code: ErrorCode::RequirementUnmet, detail });
    }
    let mut settings = target.settings.clone();
    let rules = match settings.remove(DEPLOYMENT) {
        None => Rules::default(),
        Some(rules) => serde_json::from_value(rules).map_err(|e| Refusal {
            code: ErrorCode::SettingsInvalid,
            detail: format!("settings of {}, key `{DEPLOYMENT}`: {e}", target.bundle),
        })?,
    };
    let order = Order::new(generation, target.digest, target.bytes);
    Ok(Order {
        settings: if settings.is_empty() { Value::Null } else { Value::Object(settings) },
        rollout: target.rollout.clone(),
        commit: rules.commit.unwrap_or(order.commit),
        shadow: rules.shadow.unwrap_or(order.shadow),
        probation_s: rules.probation_s.unwrap_or(order.probation_s),
        attempts_max: rules.attempts_max.unwrap_or(order.attempts_max),
        download_bytes_max: rules.download_bytes_max.or(order.download_bytes_max),
        deadlines: rules.deadlines.unwrap_or(order.deadlines),
        not_after_unix_s: rules.not_after_unix_s.or(order.not_after_unix_s),
        cold_swap: rules.cold_swap.unwrap_or(order.cold_swap),
        ..order
    })
}

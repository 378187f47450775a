//! What the types of a declaration cannot say. Each error names the field as it is written.

use super::{CRITERIA_MAX, Commit, Criterion, Metric, REST, RolloutSpec, Size, SpecError, WAVES_MAX, WaveRules};
use crate::rollout::policy::{DEPLOYMENT, DevicePolicy};
use crate::rollout::selector::Selector;
use sedge_protocol::deployment::{CommitRule, DURATION_S_MAX, SETTINGS_BYTES_MAX};
use sedge_protocol::id::NAME_LENGTH_MAX;
use sedge_protocol::tuf::canonical::canonical;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Display;

/// What a verdict may take on its way, beyond deadline and soak.
pub(in crate::rollout) const VERDICT_MARGIN_S: u32 = 300;

fn wrong(field: impl Display, problem: impl Display) -> SpecError {
    SpecError::Field { field: field.to_string(), problem: problem.to_string() }
}

fn permille(field: impl Display, value: u32) -> Result<(), SpecError> {
    if value <= 1000 {
        return Ok(());
    }
    Err(wrong(field, format_args!("{value} per thousand is more than all; use 0 to 1000")))
}

fn seconds(field: impl Display, value: u32) -> Result<(), SpecError> {
    if (1..=DURATION_S_MAX).contains(&value) {
        return Ok(());
    }
    Err(wrong(field, format_args!("{value} s; use 1 to {DURATION_S_MAX} s, which is 30 days")))
}

impl RolloutSpec {
    /// Checks all of it.
    ///
    /// # Errors
    /// The first field that makes no sense.
    pub fn check(&self) -> Result<(), SpecError> {
        if let Selector::Listed(devices) = &self.devices {
            if devices.is_empty() {
                return Err(wrong("devices", "an empty list; name devices, or write \"all\""));
            }
            let mut seen = BTreeSet::new();
            if let Some(twice) = devices.iter().find(|device| !seen.insert(*device)) {
                return Err(wrong("devices", format_args!("`{twice}` is listed twice")));
            }
        }
        self.check_waves()?;
        permille("errors.max_permille", self.errors.max_permille)?;
        if self.errors.executed_min == 0 {
            return Err(wrong("errors.executed_min", "0; at least 1 device must have come to an end"));
        }
        permille("unreachable_max_permille", self.unreachable_max_permille)?;
        if self.in_flight_max == 0 {
            return Err(wrong("in_flight_max", "0 lets no device begin; use at least 1"));
        }
        seconds("back_deadline_s", self.back_deadline_s)?;
        if self.criteria.len() > CRITERIA_MAX {
            return Err(wrong("criteria", format_args!("{} of them; at most {CRITERIA_MAX}", self.criteria.len())));
        }
        self.criteria.iter().enumerate().try_for_each(|(i, criterion)| criterion.check(&format!("criteria[{i}]")))?;
        self.check_settings()
    }

    fn check_waves(&self) -> Result<(), SpecError> {
        if self.waves.len() > WAVES_MAX {
            return Err(wrong("waves", format_args!("{} waves; at most {WAVES_MAX}", self.waves.len())));
        }
        let (mut names, mut percent) = (BTreeSet::new(), 0u32);
        for (i, wave) in self.waves.iter().enumerate() {
            let field = |part: &str| format!("waves[{i}].{part}");
            let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
            if !(1..=NAME_LENGTH_MAX).contains(&wave.name.len()) || !wave.name.bytes().all(plain) {
                return Err(wrong(field("name"), "use 1 to 64 of A-Z, a-z, 0-9, `_` and `-`"));
            }
            if wave.name == REST {
                return Err(wrong(field("name"), "`rest` is the last wave, which takes what the others leave over"));
            }
            if !names.insert(wave.name.as_str()) {
                return Err(wrong(field("name"), format_args!("`{}` names two waves", wave.name)));
            }
            match wave.size {
                Size::Count(0) => return Err(wrong(field("size"), "a wave of nobody; use at least 1")),
                Size::Percent(0) => return Err(wrong(field("size"), "a wave of nobody; use at least 1%")),
                Size::Percent(of @ 101..) => return Err(wrong(field("size"), format_args!("{of}% is more than all"))),
                Size::Percent(of) => percent += of,
                Size::Count(_) => {}
            }
            if percent > 100 {
                return Err(wrong(field("size"), format_args!("the waves up to here take {percent}% of the devices")));
            }
            self.check_rules(&wave.rules(), &format!("waves[{i}]"))?;
        }
        self.check_rules(&self.rest_rules(), "rest")
    }

    fn check_rules(&self, rules: &WaveRules, at: &str) -> Result<(), SpecError> {
        permille(format_args!("{at}.success_min_permille"), rules.success_min_permille)?;
        seconds(format_args!("{at}.soak_s"), rules.soak_s)?;
        seconds(format_args!("{at}.deadline_s"), rules.deadline_s)
    }

    fn rules(&self) -> impl Iterator<Item = (String, WaveRules)> {
        let declared = self.waves.iter().enumerate().map(|(i, wave)| (format!("waves[{i}]"), wave.rules()));
        declared.chain([(REST.to_owned(), self.rest_rules())])
    }

    fn check_settings(&self) -> Result<(), SpecError> {
        // What a device is to run is signed, and only canonical JSON can be.
        let json = canonical(&Value::Object(self.settings.clone())).map_err(|e| wrong("settings", e))?;
        if json.len() > SETTINGS_BYTES_MAX {
            return Err(wrong("settings", format_args!("{} bytes; at most {SETTINGS_BYTES_MAX}", json.len())));
        }
        let policy = DevicePolicy::of(&self.settings, self.digest)?;
        let probation_s = policy.probation_s(self.digest);
        for (at, rules) in self.rules() {
            if rules.deadline_s <= probation_s {
                let problem = format!(
                    "{} s; a device needs longer than its probation of {probation_s} s (`settings.{DEPLOYMENT}.probation_s`)",
                    rules.deadline_s
                );
                return Err(wrong(format_args!("{at}.deadline_s"), problem));
            }
        }
        let field = format!("settings.{DEPLOYMENT}.commit");
        match (self.commit, policy.commit) {
            (_, None) | (Commit::Auto, Some(CommitRule::Auto)) => {}
            (Commit::Held, Some(CommitRule::Held { deadline_s })) => {
                let (at, least) = self.verdict_least();
                if deadline_s < least {
                    let problem = format!(
                        "{deadline_s} s until a device goes back without a verdict; `{at}` may need {least} s: deadline, \
                         soak and {VERDICT_MARGIN_S} s for the way"
                    );
                    return Err(wrong(format_args!("{field}.held.deadline_s"), problem));
                }
            }
            (Commit::Held, Some(CommitRule::Auto)) => {
                return Err(wrong(field, "`auto` contradicts `commit = \"held\"` of the rollout; leave it out here"));
            }
            (Commit::Auto, Some(CommitRule::Held { .. })) => {
                return Err(wrong(field, "`held` contradicts `commit = \"auto\"` of the rollout; leave it out here"));
            }
        }
        let (at, least) = self.verdict_least();
        if self.commit == Commit::Held && least > DURATION_S_MAX {
            let problem = format!("devices would hold for {least} s, with soak; the longest is {DURATION_S_MAX} s");
            return Err(wrong(format_args!("{at}.deadline_s"), problem));
        }
        Ok(())
    }

    /// The wave that needs longest between the first device that holds and its verdict, and how long.
    pub(in crate::rollout) fn verdict_least(&self) -> (String, u32) {
        let needs = |rules: &WaveRules| rules.deadline_s.saturating_add(rules.soak_s).saturating_add(VERDICT_MARGIN_S);
        let all = self.rules().map(|(at, rules)| (at, needs(&rules)));
        all.max_by_key(|(_, needs)| *needs).unwrap_or((REST.to_owned(), 0))
    }
}

impl Criterion {
    fn check(&self, at: &str) -> Result<(), SpecError> {
        let field = |part: &str| format!("{at}.{part}");
        let metric = self.metric.name();
        match (self.metric, self.limit_permille, self.limit_us, self.drop_max_permille) {
            (_, None, None, Some(drop)) => permille(field("drop_max_permille"), drop)?,
            (Metric::LatencyP95, None, Some(limit), None) => {
                if limit == 0 {
                    return Err(wrong(field("limit_us"), "0 µs; no model is that fast"));
                }
            }
            (Metric::LatencyP95, Some(_), ..) => {
                return Err(wrong(field("limit_permille"), "a latency is limited by `limit_us`"));
            }
            (Metric::ErrorRate | Metric::Accuracy | Metric::Confidence, Some(limit), None, None) => {
                permille(field("limit_permille"), limit)?;
            }
            (Metric::ErrorRate | Metric::Accuracy | Metric::Confidence, _, Some(_), _) => {
                return Err(wrong(field("limit_us"), format_args!("`{metric}` is limited by `limit_permille`")));
            }
            (_, None, None, None) => {
                return Err(wrong(
                    at,
                    format_args!("`{metric}` has no limit; give an absolute one or `drop_max_permille`"),
                ));
            }
            _ => return Err(wrong(at, "an absolute limit and `drop_max_permille`; make two criteria of them")),
        }
        if self.samples_min == 0 {
            return Err(wrong(field("samples_min"), "0; a share of no samples says nothing, use at least 1"));
        }
        Ok(())
    }
}

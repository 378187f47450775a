//! Plans, and what is read back of them.

use super::fleet::{candidate, declared, salt};
use crate::rollout::*;
use sedge_protocol::Sha256Digest;
use serde_json::json;

fn fleet(count: u32) -> Vec<Candidate> {
    (0..count).map(|n| candidate(format!("cam-{n}").parse().expect("id"))).collect()
}

#[test]
fn a_plan_depends_on_nothing_but_declaration_devices_and_salt() {
    let spec = || declared("waves = [{ name = \"canary\", size = \"10%\" }]").expect("spec");
    let mut inventory = fleet(25);
    let planned = plan(spec(), &inventory, salt()).expect("plan");
    assert_eq!(planned.waves.iter().map(|w| w.devices).collect::<Vec<_>>(), [3, 22], "shares are rounded up");
    inventory.reverse();
    let again = plan(spec(), &inventory, salt()).expect("plan");
    assert_eq!((&planned, planned.digest()), (&again, again.digest()));
    let salted = plan(spec(), &inventory, Sha256Digest::of(b"other")).expect("plan");
    assert_ne!(planned.devices, salted.devices);
    assert_ne!(planned.digest(), salted.digest());
    let read: Plan = serde_json::from_str(&serde_json::to_string(&planned).expect("json")).expect("plan");
    assert_eq!(read.digest(), planned.digest());
    inventory.push(inventory[0].clone());
    assert!(matches!(plan(spec(), &inventory, salt()), Err(PlanError::Twice { .. })));
}

#[test]
fn devices_are_selected_by_list_and_pattern() {
    let listed = declared("devices = [\"cam-3\", \"cam-1\", \"cam-99\"]").expect("spec");
    let planned = plan(listed, &fleet(5), salt()).expect("plan");
    let mut names: Vec<_> = planned.devices.iter().map(|id| id.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["cam-1", "cam-3"]);
    assert_eq!(planned.skipped.values().collect::<Vec<_>>(), [&Ineligible::Unknown]);
    let planned = plan(declared("devices = \"cam-1*\"").expect("spec"), &fleet(12), salt()).expect("plan");
    assert_eq!(planned.devices.len(), 3);
}

#[test]
fn devices_get_the_settings_with_who_decides() {
    let settings = "settings = { zone = \"a\", deployment = { probation_s = 5 } }\n";
    let rules = "waves = [{ name = \"canary\", size = 4, soak_s = 60, deadline_s = 600 }]\nin_flight_max = 2\n";
    let planned = plan(declared(&(settings.to_owned() + rules)).expect("spec"), &fleet(4), salt()).expect("plan");
    // Two batches of ten minutes, the soak, and the way.
    let commit = json!({ "held": { "deadline_s": 2 * 600 + 60 + 300 } });
    let expected = json!({ "zone": "a", "deployment": { "probation_s": 5, "commit": commit } });
    assert_eq!(serde_json::Value::Object(planned.settings()), expected);
    let auto = plan(declared("commit = \"auto\"").expect("spec"), &fleet(1), salt()).expect("plan");
    assert_eq!(serde_json::Value::Object(auto.settings()), json!({ "deployment": { "commit": "auto" } }));
}

#[test]
fn a_declaration_reads_the_same_in_both_languages() {
    let spec = declared("waves = [{ name = \"canary\", size = \"10%\", gate = \"manual\" }]\ndevices = \"cam-*\"")
        .expect("spec");
    let json = serde_json::to_vec(&spec).expect("json");
    assert_eq!(RolloutSpec::from_json(&json), Ok(spec));
    assert!(matches!(RolloutSpec::from_json(&vec![b' '; SPEC_BYTES_MAX + 1]), Err(SpecError::Read { .. })));
}

#[test]
fn what_is_not_of_this_plan_is_not_restored() {
    let planned = |count| plan(declared("").expect("spec"), &fleet(count), salt()).expect("plan");
    let mut rollout = Rollout::new(planned(3));
    rollout.handle(Event::Start { actor: "a".into() }, 1);
    let saved = rollout.saved();
    assert!(matches!(Rollout::restore(planned(1), saved.clone()), Err(RestoreError::Mismatch { .. })));
    let other = Saved { format: 2, ..saved.clone() };
    assert_eq!(Rollout::restore(planned(3), other).err(), Some(RestoreError::Format { format: 2 }));
    assert_eq!(Rollout::restore(planned(3), saved.clone()).expect("restored").saved(), saved);
}

//! What a device does not take, whoever offers it.

use super::publisher::{Bundle, flip_chunks};
use super::{First, Fleet, PROJECT, settings};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// Offers the first device a bundle whose chunks were changed on the server, and one that is signed by everybody and does
/// not do what it promises. Both must be refused, and the device must go on.
pub(super) fn run(fleet: &mut Fleet, first: &First) -> Result<Vec<Value>> {
    let tell = fleet.tell;
    tell.heading("Bad bundles: refused on the device, which keeps running what it ran");
    let mut refused = Vec::new();

    let packed = fleet.publisher.release(&["v2"])?;
    let bundles = fleet.publisher.publish(&fleet.server, PROJECT, &packed)?;
    let corrupt = newest(&bundles, first)?;
    flip_chunks(&fleet.server.data)?;
    tell.say(format!(
        "corrupt      somebody changes a byte of every chunk of digits {} on the server",
        corrupt.version
    ));
    refused.push(offer(fleet, first, "corrupt", &corrupt, "E_DIGEST_MISMATCH")?);
    flip_chunks(&fleet.server.data)?;

    let wrong = fleet.publisher.wrong_golden()?;
    let packed = fleet.publisher.release(&[wrong])?;
    let before: Vec<String> = bundles.iter().map(|b| b.digest.clone()).collect();
    let bundles = fleet.publisher.publish(&fleet.server, PROJECT, &packed)?;
    let wrong = bundles.iter().find(|b| !before.contains(&b.digest)).context("the bundle is not there")?;
    tell.say(format!("wrong golden digits {} is signed, and takes an 8 for what is a 3", wrong.version));
    refused.push(offer(fleet, first, "wrong-golden", wrong, "E_GOLDEN_FAILED")?);
    Ok(refused)
}

fn newest(bundles: &[Bundle], first: &First) -> Result<Bundle> {
    bundles.iter().rfind(|b| b.digest != first.bundle.digest).cloned().context("the server has no newer bundle")
}

/// Offers a bundle that must be refused with this code, and takes the offer back.
fn offer(fleet: &mut Fleet, first: &First, what: &str, bundle: &Bundle, expected: &str) -> Result<Value> {
    let device = fleet.devices.first().map(|device| device.name.clone()).context("there is no device")?;
    let generation = fleet.desire(&device, bundle, &settings(1000))?;
    let report = fleet.ended(&device, generation)?;
    let (code, detail) = (report["error"]["code"].clone(), report["error"]["detail"].as_str().unwrap_or_default());
    if code != expected || report["running"] != first.bundle.digest.as_str() {
        bail!("{device} should have refused {} with {expected}, and said {report}", bundle.reference());
    }
    let state = report["state"].as_str().unwrap_or_default();
    fleet.tell.say(format!("             {device}: {state}, {expected}: {detail}"));
    let latest = fleet.devices.first().map(super::Device::results).unwrap_or_default().pop();
    if latest.is_none_or(|latest| latest["bundle"] != first.bundle.digest.as_str()) {
        bail!("{device} does not run digits {} any more", first.bundle.version);
    }
    fleet.tell.say(format!("             and goes on with digits {}", first.bundle.version));
    let generation = fleet.desire(&device, &first.bundle, &settings(1000))?;
    fleet.ended(&device, generation)?;
    Ok(json!({"what": what, "device": device, "code": code, "state": state, "runs": first.bundle.version}))
}

//! A fleet for the console to show: 24 devices, and a rollout that was halted in its canary wave.

use std::sync::Mutex;

use async_trait::async_trait;
use sedge_fleet_server::clock;
use sedge_fleet_server::console::ConsoleData;
use sedge_fleet_server::console::view::{
    BundleLabel, DeviceGroup, DeviceQuery, DeviceRow, DeviceState, DevicesPage, Dot, FailureView, FleetView, GateView,
    Members, Moment, Online, ROWS_MAX, RolloutState, RolloutView, RunsShare, Served, Tone, Verdict, WaitingView,
    WaveState, WaveView,
};
use sedge_fleet_server::service::AnyError;
use sedge_protocol::id::ProjectId;
use sedge_protocol::time::UnixSeconds;
use tokio::sync::watch;

pub struct Shown {
    pub devices: Vec<DeviceRow>,
    pub waves: Vec<(&'static str, usize)>,
    pub rollout: Option<RolloutView>,
}

pub struct FleetShown {
    pub shown: Mutex<Shown>,
    changes: watch::Sender<u64>,
}

pub fn bundle(version: &str) -> BundleLabel {
    let digest = if version == "1.4.0" { "4f09c21ab7" } else { "c83d5e90f1" };
    BundleLabel { name: "digits".into(), version: version.into(), digest: digest.repeat(7)[..64].into() }
}

fn device(i: usize, now: UnixSeconds) -> DeviceRow {
    let place = ["dock", "gate", "belt"][i % 3];
    let mut row = DeviceRow {
        id: format!("{place}-cam-{:02}", i + 1),
        online: Online::Online,
        runs: Some(bundle("1.4.0")),
        served: Some(Served { samples: 1_204, errors: 2, labelled: 62, right: 60 }),
        wanted: Some(bundle("1.4.0")),
        state: DeviceState::NotStarted,
        reason: "wave 1 has not passed".into(),
        heard_at: Some(now.plus(-(i as i64 % 7))),
    };
    match i {
        0 => {
            row.state = DeviceState::Back;
            row.reason = "E_VERDICT: the accuracy gate failed".into();
        }
        1 => {
            row.runs = Some(bundle("1.5.0"));
            row.state = DeviceState::GoingBack;
            row.reason = "the accuracy gate failed".into();
        }
        2 => {
            row.state = DeviceState::Failed;
            row.reason = "E_GOLDEN_FAILED: sample 17 answers 3 and not 8".into();
        }
        17 => {
            row.online = Online::Offline;
            row.heard_at = Some(now.plus(-3 * 3600));
            row.state = DeviceState::Unreachable;
            row.reason = "not heard of for 3 h; it will be told when it connects".into();
        }
        _ => {}
    }
    row
}

fn gate(name: &str, limit: &str, measured: Option<&str>, sample: u64, minimum: u64, verdict: Verdict) -> GateView {
    GateView {
        name: name.into(),
        wave: "canary".into(),
        limit: limit.into(),
        measured: measured.map(Into::into),
        sample,
        minimum,
        verdict,
    }
}

fn rollout(now: UnixSeconds) -> RolloutView {
    let wave = |name: &str, state, devices, states: &[(DeviceState, u64)], soak| WaveView {
        name: name.into(),
        state,
        devices,
        states: states.to_vec(),
        soak,
    };
    let moment = |s: i64, text: &str, actor: &str, tone| Moment {
        at: now.plus(-s),
        text: text.into(),
        actor: actor.into(),
        tone,
    };
    let canary = [(DeviceState::Failed, 1), (DeviceState::GoingBack, 1), (DeviceState::Back, 1)];
    let rest = [(DeviceState::NotStarted, 14), (DeviceState::Unreachable, 1)];
    let failure = FailureView { code: "E_GOLDEN_FAILED".into(), devices: 1, named: vec!["belt-cam-03".into()] };
    RolloutView {
        id: "r-0007".into(),
        bundle: bundle("1.5.0"),
        state: RolloutState::RollingBack,
        sentence: "Halted in wave 1 of 3 by the accuracy gate: 41 of 62 labelled samples were right (66.1 %); \
                   limit 90 %. 3 devices were touched, 1 has gone back, 21 were never touched."
            .into(),
        started_at: Some(now.plus(-94)),
        ended_at: None,
        waves: vec![
            wave("canary", WaveState::Failed, 3, &canary, Some((18, 30))),
            wave("early", WaveState::Skipped, 6, &[(DeviceState::NotStarted, 6)], None),
            wave("everyone", WaveState::Skipped, 15, &rest, None),
        ],
        gates: vec![
            gate("accuracy on labels", "≥ 90 %", Some("66.1 %"), 62, 40, Verdict::Fail),
            gate("failed devices", "≤ 34 %", Some("33.3 %"), 3, 3, Verdict::Pass),
            gate("latency p95", "≤ 40 ms", Some("11.8 ms"), 1_204, 200, Verdict::Pass),
            gate("mean confidence", "drop ≤ 10 %", None, 62, 200, Verdict::NotEnoughData),
        ],
        histogram: vec![
            (DeviceState::Failed, 1),
            (DeviceState::GoingBack, 1),
            (DeviceState::Back, 1),
            (DeviceState::Unreachable, 1),
            (DeviceState::NotStarted, 20),
        ],
        failures: vec![failure],
        waiting: vec![
            WaitingView {
                what: "gate-cam-02".into(),
                reason: "was told to go back and has not answered".into(),
                until: Some(now.plus(26)),
            },
            WaitingView {
                what: "early, everyone".into(),
                reason: "never begin: the rollout is halted".into(),
                until: None,
            },
        ],
        timeline: vec![
            moment(4, "dock-cam-01 runs digits 1.4.0 again, 9.2 s after its first bad result", "", Tone::Good),
            moment(12, "3 devices are told to go back to digits 1.4.0", "", Tone::Waiting),
            moment(12, "The accuracy gate failed: 66.1 %, limit 90 %, 62 samples of at least 40", "", Tone::Bad),
            moment(30, "The canary wave is watched for 30 s", "", Tone::Busy),
            moment(33, "belt-cam-03 refused the bundle: E_GOLDEN_FAILED", "", Tone::Bad),
            moment(92, "Wave 1, canary: 3 devices are told to run digits 1.5.0", "", Tone::Busy),
            moment(94, "The rollout of digits 1.5.0 began", "ci", Tone::Quiet),
        ],
    }
}

impl FleetShown {
    /// The halted rollout over 24 devices.
    pub fn halted() -> Self {
        let now = clock::now();
        let devices = (0..24).map(|i| device(i, now)).collect();
        let waves = vec![("canary", 3), ("early", 6), ("everyone", 15)];
        Self::of(Shown { devices, waves, rollout: Some(rollout(now)) })
    }

    /// Devices without a rollout.
    pub fn of_devices(devices: Vec<DeviceRow>) -> Self {
        Self::of(Shown { waves: vec![("", devices.len())], devices, rollout: None })
    }

    fn of(shown: Shown) -> Self {
        Self { shown: Mutex::new(shown), changes: watch::channel(7).0 }
    }

    /// Something happens, and pages are told.
    pub fn change(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.shown.lock().unwrap());
        self.changes.send_modify(|number| *number += 1);
    }
}

#[async_trait]
impl ConsoleData for FleetShown {
    async fn projects(&self) -> Result<Vec<ProjectId>, AnyError> {
        Ok(vec!["default".parse()?, "workshop".parse()?])
    }

    async fn fleet(&self, project: &ProjectId) -> Result<Option<FleetView>, AnyError> {
        if !["default", "workshop"].contains(&project.as_str()) {
            return Ok(None);
        }
        let shown = self.shown.lock().unwrap();
        let all = &shown.devices;
        let mut runs: Vec<RunsShare> = Vec::new();
        for row in all {
            match runs.iter_mut().find(|share| share.bundle == row.runs) {
                Some(share) => share.devices += 1,
                None => runs.push(RunsShare { bundle: row.runs.clone(), devices: 1, colour: runs.len() }),
            }
        }
        let dot = |row: &DeviceRow| Dot {
            id: row.id.clone(),
            runs: runs.iter().position(|share| share.bundle == row.runs).unwrap(),
            online: row.online == Online::Online,
            state: row.state,
        };
        let mut rest = all.iter();
        let groups = shown.waves.iter().map(|(name, size)| DeviceGroup {
            name: (*name).into(),
            members: Members::Dots(rest.by_ref().take(*size).map(dot).collect()),
        });
        let groups = groups.collect();
        let of = |wanted: &dyn Fn(&&DeviceRow) -> bool| all.iter().filter(|row| wanted(row)).count() as u64;
        Ok(Some(FleetView {
            devices: all.len() as u64,
            online: of(&|row| row.online == Online::Online),
            settled: of(&|row| row.state.tone() == Tone::Good),
            bad: of(&|row| row.state.tone() == Tone::Bad),
            groups,
            runs,
        }))
    }

    async fn rollout(&self, _: &ProjectId) -> Result<Option<RolloutView>, AnyError> {
        Ok(self.shown.lock().unwrap().rollout.clone())
    }

    async fn devices(&self, _: &ProjectId, query: &DeviceQuery) -> Result<DevicesPage, AnyError> {
        let shown = self.shown.lock().unwrap();
        let matches = |row: &&DeviceRow| {
            row.id.contains(&query.search) && query.facet.is_none_or(|facet| facet.holds(row.online, row.state))
        };
        let mut rows: Vec<DeviceRow> = shown.devices.iter().filter(matches).cloned().collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        let total = Some(rows.len() as u64);
        rows.retain(|row| query.after.as_ref().is_none_or(|after| row.id > *after));
        let more = rows.len() > ROWS_MAX as usize;
        rows.truncate(ROWS_MAX as usize);
        let next = rows.last().filter(|_| more).map(|row| row.id.clone());
        Ok(DevicesPage { rows, next, total })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

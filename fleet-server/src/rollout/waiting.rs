//! What a rollout, its waves and its devices wait for.

use super::gate::{Evidence, GateVerdict, Halt};
use super::machine::Rollout;
use super::state::{Asked, PausedBy, Presence, Scope, State, Step, WaveState};
use sedge_protocol::id::DeviceId;
use serde::{Deserialize, Serialize};

/// Something that does not move, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "of")]
#[allow(missing_docs)]
pub enum Waiting {
    Rollout { why: RolloutWaits },
    Wave { wave: usize, why: WaveWaits },
    Device { device: DeviceId, why: DeviceWaits },
}

/// What a rollout waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum RolloutWaits {
    /// Somebody to start it.
    Start,
    /// A wave.
    Wave {
        /// Which, from 0.
        wave: usize,
    },
    /// Devices of waves that have passed: their verdicts are on the way.
    Verdicts {
        /// How many.
        devices: u32,
    },
    /// Somebody to resume or abort it.
    Resume {
        /// Why it was paused.
        by: PausedBy,
    },
    /// Somebody to abort it: a gate has failed, and what has committed stays.
    Decision {
        /// The gate.
        halt: Halt,
    },
    /// Devices that go back.
    Back {
        /// How many.
        devices: u32,
        /// Which.
        scope: Scope,
    },
}

/// What a wave waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum WaveWaits {
    /// The wave before it.
    Before {
        /// Which, from 0.
        wave: usize,
    },
    /// Somebody to open its gate.
    ManualGate,
    /// Devices on their way, or not begun.
    Devices {
        /// Not begun.
        not_started: u32,
        /// On their way.
        in_flight: u32,
    },
    /// The end of its soak.
    Soak {
        /// When.
        until_ms: u64,
    },
    /// Data. Missing data hold a gate and never pass it.
    Data {
        /// The first gate that lacks some.
        gate: Evidence,
    },
    /// The rollout, which is not running.
    Rollout,
}

/// What a device waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum DeviceWaits {
    /// Its wave.
    Wave {
        /// Which, from 0.
        wave: usize,
    },
    /// Others on their way: as many as may be.
    InFlight {
        /// How many may be.
        max: u32,
    },
    /// The rollout, which is not running.
    Rollout,
    /// The server, to assign it something.
    Server {
        /// How often it could not.
        tries: u8,
        /// When it tries again.
        retry_ms: Option<u64>,
    },
    /// Its first answer, or its end.
    Device {
        /// Whether it is connected.
        presence: Presence,
        /// Until when.
        deadline_ms: Option<u64>,
    },
    /// The wave's verdict.
    Verdict {
        /// Which, from 0.
        wave: usize,
    },
    /// To be heard of again.
    Return {
        /// Whether it goes back then.
        goes_back: bool,
    },
    /// Its way back.
    Back {
        /// Whether it is connected.
        presence: Presence,
        /// Until when.
        deadline_ms: Option<u64>,
    },
    /// Somebody to resume the rollout: it went back for want of a verdict.
    Resume,
    /// Help: it could not go back.
    Help,
}

impl Rollout {
    /// Everything that does not move: the rollout, each wave, each device. Looks at every device.
    pub fn waiting(&self) -> Vec<Waiting> {
        let rollout = self.rollout_waits().map(|why| Waiting::Rollout { why });
        let waves =
            (0..self.core.waves.len()).filter_map(|wave| self.wave_waits(wave).map(|why| Waiting::Wave { wave, why }));
        let devices = (0..self.devices.len()).filter_map(|number| {
            self.number_waits(number).map(|why| Waiting::Device { device: self.ids[number].clone(), why })
        });
        rollout.into_iter().chain(waves).chain(devices).collect()
    }

    /// What a device waits for; nothing when it rests.
    pub fn device_waits(&self, device: &DeviceId) -> Option<DeviceWaits> {
        self.number(device).and_then(|number| self.number_waits(number))
    }

    /// What the rollout waits for; nothing when it has ended.
    pub fn rollout_waits(&self) -> Option<RolloutWaits> {
        Some(match &self.core.state {
            State::Scheduled => RolloutWaits::Start,
            State::Running if self.core.wave < self.core.waves.len() => RolloutWaits::Wave { wave: self.core.wave },
            State::Running => RolloutWaits::Verdicts {
                devices: self.count(Step::Holding) + self.count(Step::Assigned) + self.count(Step::Progress),
            },
            State::Paused { by } => RolloutWaits::Resume { by: by.clone() },
            State::Halted(halt) => RolloutWaits::Decision { halt: halt.clone() },
            State::RollingBack { scope, .. } => {
                RolloutWaits::Back { devices: self.count(Step::GoingBack), scope: *scope }
            }
            _ => return None,
        })
    }

    /// What a wave waits for; nothing when it is over.
    pub fn wave_waits(&self, wave: usize) -> Option<WaveWaits> {
        let state = self.core.waves.get(wave)?;
        let over = matches!(state, WaveState::Passed { .. } | WaveState::Failed { .. } | WaveState::Skipped);
        if over || self.core.state.is_final() {
            return None;
        }
        if matches!(self.core.state, State::Scheduled | State::Halted(_) | State::RollingBack { .. }) {
            return Some(WaveWaits::Rollout);
        }
        let tally = &self.tallies[wave];
        Some(match state {
            WaveState::Pending if wave > 0 && self.core.wave < wave => WaveWaits::Before { wave: wave - 1 },
            WaveState::AwaitingGate => WaveWaits::ManualGate,
            WaveState::Dispatching if !tally.is_settled() => {
                WaveWaits::Devices { not_started: tally.of(Step::NotStarted), in_flight: tally.count(Step::in_flight) }
            }
            WaveState::Soaking { until_ms } => WaveWaits::Soak { until_ms: *until_ms },
            WaveState::Judging => {
                let lacks = self.gates(wave).into_iter().find(|gate| gate.verdict != GateVerdict::Pass);
                lacks.map_or(WaveWaits::Rollout, |gate| WaveWaits::Data { gate })
            }
            _ => WaveWaits::Rollout,
        })
    }

    fn number_waits(&self, number: usize) -> Option<DeviceWaits> {
        let (device, wave) = (&self.devices[number], self.wave_of(number));
        let over = self.core.state.is_final();
        if device.released {
            return None;
        }
        if let Some(asked) = device.asked
            && !(over && asked == Asked::Assign)
        {
            let retry_ms = device.deadline_ms.filter(|_| device.tries > 0);
            return Some(DeviceWaits::Server { tries: device.tries, retry_ms });
        }
        Some(match device.step {
            Step::NotStarted if over => return None,
            Step::NotStarted if self.core.state != State::Running => DeviceWaits::Rollout,
            Step::NotStarted if self.core.waves[wave] == WaveState::Dispatching || wave < self.core.wave => {
                DeviceWaits::InFlight { max: self.plan.spec.in_flight_max }
            }
            Step::NotStarted => DeviceWaits::Wave { wave },
            Step::Assigned | Step::Progress => {
                DeviceWaits::Device { presence: device.presence, deadline_ms: device.deadline_ms }
            }
            Step::Holding => DeviceWaits::Verdict { wave },
            Step::GoingBack => DeviceWaits::Back { presence: device.presence, deadline_ms: device.deadline_ms },
            Step::Unreachable => DeviceWaits::Return { goes_back: device.called_back() },
            Step::Back if device.lapsed && !over => DeviceWaits::Resume,
            Step::Failed if device.is_stuck() => DeviceWaits::Help,
            _ => return None,
        })
    }
}

//! The machine's books: devices, and counts, sums and deadlines that change with each of them, so that an event costs the
//! same in every size of fleet, but for commands and a halt, which look at every device once.

use super::effect::Effect;
use super::event::Event;
use super::health::Sums;
use super::plan::Plan;
use super::state::{Core, Device, State, Step, WaveState};
use super::turn::Turn;
use sedge_protocol::id::DeviceId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};

pub(super) const STEPS: usize = Step::ALL.len();

/// Why a rollout wants to be woken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum DeadlineReason {
    /// A device should have come to an end.
    Device {
        /// Which.
        device: DeviceId,
    },
    /// What the server could not do for a device is tried again.
    Retry {
        /// Which.
        device: DeviceId,
    },
    /// A device should have gone back.
    Back {
        /// Which.
        device: DeviceId,
    },
    /// A wave has been watched long enough.
    Soak {
        /// Which, from 0.
        wave: usize,
    },
}

/// A wave, added up.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tally {
    pub(super) steps: [u32; STEPS],
    pub(super) lapsed: u32,
    pub(super) sums: Sums,
}

impl Tally {
    pub(super) fn count(&self, wanted: impl Fn(Step) -> bool) -> u32 {
        Step::ALL.iter().filter(|step| wanted(**step)).map(|step| self.steps[*step as usize]).sum()
    }

    /// All that may still be judged.
    pub(super) fn members(&self) -> u32 {
        self.count(|step| !matches!(step, Step::Superseded | Step::Skipped))
    }

    /// All that may come to an end. Devices that cannot be reached, and those that went back for want of a verdict, say
    /// nothing of the bundle.
    pub(super) fn able(&self) -> u32 {
        let silent = |step| matches!(step, Step::Unreachable | Step::Back | Step::GoingBack);
        self.members() - self.count(silent)
    }

    pub(super) fn of(&self, step: Step) -> u32 {
        self.steps[step as usize]
    }

    /// Whether nobody is still to come.
    pub(super) fn is_settled(&self) -> bool {
        self.count(|step| step == Step::NotStarted || step.in_flight()) == 0
    }
}

/// A rollout under way.
#[derive(Debug, Clone)]
pub struct Rollout {
    pub(super) plan: Plan,
    pub(super) core: Core,
    pub(super) ids: Vec<DeviceId>,
    pub(super) devices: Vec<Device>,
    pub(super) dirty: Vec<u32>,
    pub(super) tallies: Vec<Tally>,
    pub(super) total: [u32; STEPS],
    pub(super) stuck: u32,
    pub(super) touched: u32,
    /// Devices before the cursor that are to be assigned once more.
    pub(super) again: BTreeSet<u32>,
    numbers: HashMap<DeviceId, u32>,
    starts: Vec<u32>,
    deadlines: BTreeSet<(u64, u32)>,
}

impl Rollout {
    /// A rollout that has not begun.
    pub fn new(plan: Plan) -> Self {
        let core = Core {
            state: State::Scheduled,
            waves: vec![WaveState::Pending; plan.waves.len()],
            wave: 0,
            next: 0,
            unreachable_accepted: 0,
            control: None,
            first_result_ts_ms: None,
            last_back_ms: None,
            joined: 0,
        };
        let (ids, devices) = (plan.devices.clone(), vec![Device::default(); plan.devices.len()]);
        Self::build(plan, core, ids, devices)
    }

    pub(super) fn assemble(plan: Plan, core: Core, ids: Vec<DeviceId>, devices: Vec<Device>) -> Option<Self> {
        let rollout = Self::build(plan, core, ids, devices);
        (rollout.numbers.len() == rollout.ids.len()).then_some(rollout)
    }

    fn build(plan: Plan, core: Core, ids: Vec<DeviceId>, devices: Vec<Device>) -> Self {
        let sizes = plan.waves.iter().scan(0, |start, wave| {
            let this = *start;
            *start += wave.devices;
            Some(this)
        });
        let numbers = ids.iter().zip(0..).map(|(id, number)| (id.clone(), number)).collect();
        let mut rollout = Self {
            starts: sizes.collect(),
            tallies: vec![Tally::default(); plan.waves.len()],
            total: [0; STEPS],
            stuck: 0,
            touched: 0,
            dirty: Vec::new(),
            again: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            numbers,
            plan,
            core,
            ids,
            devices,
        };
        for number in 0..rollout.devices.len() {
            rollout.count_in(number);
            if number < rollout.core.next as usize && rollout.devices[number].step == Step::NotStarted {
                rollout.again.insert(number as u32);
            }
        }
        rollout
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where it is.
    pub fn state(&self) -> &State {
        &self.core.state
    }

    /// Where its waves are.
    pub fn waves(&self) -> &[WaveState] {
        &self.core.waves
    }

    /// A device, and the number of its wave from 0.
    pub fn device(&self, id: &DeviceId) -> Option<(&Device, usize)> {
        self.number(id).map(|number| (&self.devices[number], self.wave_of(number)))
    }

    /// Every device with its wave, in the order of the plan, then of joining.
    pub fn devices(&self) -> impl Iterator<Item = (&DeviceId, &Device, usize)> {
        self.ids.iter().zip(&self.devices).enumerate().map(|(number, (id, device))| (id, device, self.wave_of(number)))
    }

    /// How many devices are at a step.
    pub fn count(&self, step: Step) -> u32 {
        self.total[step as usize]
    }

    /// Takes an event and says what to do. What changed is to be stored before it is done: [`Rollout::take_changes`].
    pub fn handle(&mut self, event: Event, now_ms: u64) -> Vec<Effect> {
        let mut turn = Turn { rollout: self, now_ms, effects: Vec::new(), wave: None };
        turn.take(event);
        turn.settle();
        turn.effects
    }

    /// What a server that was down is to do: everything that nobody has answered.
    pub fn resume(&mut self, now_ms: u64) -> Vec<Effect> {
        let mut turn = Turn { rollout: self, now_ms, effects: Vec::new(), wave: None };
        turn.resume();
        turn.effects
    }

    /// When [`Event::Deadline`] is due, and for what. Changes with every event.
    pub fn next_deadline(&self) -> Option<(u64, DeadlineReason)> {
        if self.core.state.is_final() {
            return None;
        }
        let device = self.deadlines.first().map(|&(at_ms, number)| (at_ms, self.deadline_reason(number as usize)));
        let soak = match (&self.core.state, self.core.waves.get(self.core.wave)) {
            (State::Running, Some(WaveState::Soaking { until_ms })) => {
                Some((*until_ms, DeadlineReason::Soak { wave: self.core.wave }))
            }
            _ => None,
        };
        [device, soak].into_iter().flatten().min_by_key(|(at_ms, _)| *at_ms)
    }

    fn deadline_reason(&self, number: usize) -> DeadlineReason {
        let device = self.ids[number].clone();
        let of = &self.devices[number];
        match of.step {
            _ if of.tries > 0 => DeadlineReason::Retry { device },
            Step::GoingBack => DeadlineReason::Back { device },
            _ => DeadlineReason::Device { device },
        }
    }

    pub(super) fn number(&self, id: &DeviceId) -> Option<usize> {
        self.numbers.get(id).map(|number| *number as usize)
    }

    pub(super) fn wave_of(&self, number: usize) -> usize {
        self.starts.partition_point(|start| *start as usize <= number).saturating_sub(1)
    }

    /// First device of a wave, and the first after it.
    pub(super) fn range(&self, wave: usize) -> std::ops::Range<usize> {
        let all = self.devices.len();
        let start = self.starts.get(wave).map_or(all, |start| *start as usize);
        start..self.starts.get(wave + 1).map_or(all, |start| *start as usize)
    }

    pub(super) fn add(&mut self, id: DeviceId) {
        let number = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        self.numbers.insert(id.clone(), number);
        self.ids.push(id);
        self.devices.push(Device::default());
        self.core.joined += 1;
        self.count_in(number as usize);
        self.dirty.push(number);
    }

    fn count_in(&mut self, number: usize) {
        let wave = self.wave_of(number);
        let device = &self.devices[number];
        let tally = &mut self.tallies[wave];
        tally.steps[device.step as usize] += 1;
        self.total[device.step as usize] += 1;
        tally.lapsed += u32::from(device.lapsed);
        self.stuck += u32::from(device.is_stuck());
        self.touched += u32::from(device.touched);
        if let Some(counters) = &device.counters {
            tally.sums.replace(None, counters);
        }
        if let Some(at_ms) = device.deadline_ms {
            self.deadlines.insert((at_ms, number as u32));
        }
    }

    /// Changes a device and all that is counted of it.
    pub(super) fn change(&mut self, number: usize, change: impl FnOnce(&mut Device)) {
        let wave = self.wave_of(number);
        let device = &mut self.devices[number];
        let before = device.clone();
        change(device);
        if *device == before {
            return;
        }
        if device.step != Step::NotStarted {
            self.again.remove(&(number as u32));
        }
        let tally = &mut self.tallies[wave];
        tally.steps[before.step as usize] -= 1;
        tally.steps[device.step as usize] += 1;
        self.total[before.step as usize] -= 1;
        self.total[device.step as usize] += 1;
        tally.lapsed = tally.lapsed + u32::from(device.lapsed) - u32::from(before.lapsed);
        self.stuck = self.stuck + u32::from(device.is_stuck()) - u32::from(before.is_stuck());
        self.touched = self.touched + u32::from(device.touched) - u32::from(before.touched);
        if let Some(counters) = &device.counters
            && device.counters != before.counters
        {
            tally.sums.replace(before.counters.as_ref(), counters);
        }
        if device.deadline_ms != before.deadline_ms {
            if let Some(at_ms) = before.deadline_ms {
                self.deadlines.remove(&(at_ms, number as u32));
            }
            if let Some(at_ms) = device.deadline_ms {
                self.deadlines.insert((at_ms, number as u32));
            }
        }
        if self.dirty.last() != Some(&(number as u32)) {
            self.dirty.push(number as u32);
        }
    }

    pub(super) fn due(&self, now_ms: u64) -> Vec<usize> {
        self.deadlines.iter().take_while(|(at_ms, _)| *at_ms <= now_ms).map(|(_, number)| *number as usize).collect()
    }
}

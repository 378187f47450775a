//! A simulated device: what happens to it, effect by effect, with the [`Auditor`] looking on.

use crate::auditor::Auditor;
use crate::world::{LENGTH_BYTES, World, bad_answer, bundle, digest, good_answer};
use sedge_protocol::deployment::*;
use sedge_protocol::id::Generation;

/// How power goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cut {
    Before,
    Torn,
    After,
}

/// When power goes next: at this effect, counted from now.
pub(crate) type Fate = Option<(usize, Cut)>;

pub(crate) struct Device {
    pub(crate) world: World,
    pub(crate) auditor: Auditor,
    /// Effects so far.
    pub(crate) performed: usize,
    /// At which of them, and how, power can go with a result of its own: after an effect is before the next.
    pub(crate) cuts: Vec<(usize, Cut)>,
    pub(crate) fate: Fate,
}

impl Device {
    pub(crate) fn new(provisioned: bool, fate: Fate) -> Self {
        let active = provisioned.then(|| Active { slot: Slot::A, bundle: bundle("v1", 1) });
        let world = World::new(active);
        let mut device = Self { auditor: Auditor::new(&world), world, performed: 0, cuts: Vec::new(), fate };
        device.handle(Event::Booted { running: None });
        device
    }

    pub(crate) fn answer(&mut self, at: usize, answer: Answer) {
        let (ticket, ask) = self.world.memory.open[at].clone();
        self.auditor.answered(&self.world, &ask, &answer);
        let event = self.world.answer(ticket, &ask, answer);
        self.handle(event);
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.auditor.told(&self.world, &event);
        self.handle(event);
    }

    pub(crate) fn handle(&mut self, event: Event) {
        let effects = self.world.machine.handle(event, self.world.now);
        for at in 0..effects.len() {
            let fate = self.fate.filter(|&(when, _)| when == self.performed).map(|(_, cut)| cut);
            self.cuts.push((self.performed, Cut::Before));
            if let Effect::Persist(_) = &effects[at] {
                self.cuts.push((self.performed, Cut::Torn));
            }
            if at + 1 == effects.len() {
                self.cuts.push((self.performed, Cut::After));
            }
            self.performed += 1;
            match (fate, &effects[at]) {
                (Some(Cut::Before), _) => return self.lose_power(),
                (Some(Cut::Torn), Effect::Persist(record)) => {
                    self.world.tear(record, self.performed as u64 * 37 % 1000);
                    return self.lose_power();
                }
                _ => {}
            }
            self.auditor.about_to(&self.world, &effects, at);
            self.world.perform(&effects[at]);
            self.auditor.look(&self.world);
            let once = self.world.seen();
            self.world.perform(&effects[at]);
            assert_eq!(once, self.world.seen(), "{:?} done twice is not the same as once", effects[at]);
            if fate == Some(Cut::After) {
                return self.lose_power();
            }
        }
    }

    pub(crate) fn lose_power(&mut self) {
        self.fate = None;
        self.auditor.power_lost(&self.world);
        self.world.lose_power();
        self.auditor.look(&self.world);
        let before = self.world.seen();
        let mut again = self.world.clone();
        again.lose_power();
        assert_eq!(before, again.seen(), "restoring twice is not the same as once");
        self.handle(Event::Booted { running: None });
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.world.now.boot_ms += ms;
        self.world.now.unix_s = self.world.now.unix_s.map(|s| s + ms / 1000);
        self.tell(Event::Deadline);
    }

    pub(crate) fn pass_to_deadline(&mut self) -> bool {
        let Some((at, _)) = self.world.machine.next_deadline() else { return false };
        let left = at.saturating_sub(self.world.now.boot_ms);
        self.pass(left);
        true
    }

    /// No more faults from outside: says yes, or no, to all that is asked until nothing moves.
    pub(crate) fn settle(&mut self, good: bool) {
        self.world.offline = false;
        for step in 0..2_000 {
            let phase = self.world.machine.phase();
            let quiet = phase.is_resting() && self.world.machine.record().anchor.reports.is_empty();
            let serves = phase != Phase::Quarantined && self.world.memory.route.is_some() || self.is_empty();
            if quiet && self.world.memory.open.is_empty() && (!good || serves) {
                return;
            }
            self.forward(good, step);
        }
        panic!("never came to rest: {:?}", self.world.machine.state());
    }

    /// One step that lets a deployment go on, well or badly.
    pub(crate) fn forward(&mut self, good: bool, step: usize) {
        let phase = self.world.machine.phase();
        let active = self.world.machine.active().map_or(Slot::B, |active| active.slot);
        let reports = &self.world.machine.record().anchor.reports;
        let received = reports.iter().map(|report| report.seq).find(|seq| self.world.server.contains_key(seq));
        if let Some(seq) = received {
            self.tell(Event::ReportAcked { seq });
        } else if let Some((_, ask)) = self.world.memory.open.first() {
            let answer = if good { good_answer(ask) } else { bad_answer(ask) };
            self.answer(0, answer);
        } else if good && phase == Phase::Probation {
            self.tell(Event::HealthOk { slot: active.other() });
            let generation = self.world.machine.state().subject().map_or(Generation(0), |s| s.generation);
            if step.is_multiple_of(2) {
                self.tell(Event::Verdict { generation, verdict: Verdict::Commit });
            }
            self.pass_to_deadline();
        } else if phase == Phase::WaitDownload && step.is_multiple_of(2) {
            self.tell(Event::DownloadWindowOpen);
        } else if phase == Phase::WaitApply && step.is_multiple_of(2) {
            self.tell(Event::ApplyAllowed);
        } else {
            self.pass_to_deadline();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.world.machine.active().is_none()
    }

    pub(crate) fn audit_rest(&self, good: bool) {
        self.auditor.rested(&self.world);
        if good {
            self.auditor.serves(&self.world);
        }
    }
}

pub(crate) fn order(generation: u64, name: &str) -> Order {
    let mut order = Order::new(Generation(generation), digest(name), LENGTH_BYTES);
    order.shadow.samples_min = 50;
    order.deadlines.download_s = 4 * 3600;
    order
}

/// Runs, and on a failure says first how to run it again.
pub(crate) fn explain<T>(what: &str, run: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(done) => done,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
            panic!("{what}: {text}");
        }
    }
}

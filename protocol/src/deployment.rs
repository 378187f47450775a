//! One device's way to one bundle, for one component.
//!
//! [`Deployment`] is a value: events and the time go in, effects come out, and a shell performs them. It exists so that
//! every decision about a slot, a worker or a download can be replayed, simulated and interrupted at every point.
//!
//! What always holds:
//! - The first effect of every change is [`Effect::Persist`]: a change is written down before it is acted on.
//! - The active slot holds the committed bundle and is never written to or deleted. Only a commit changes it, or a step
//!   back to the bundle committed before.
//! - Nothing is committed that has not answered its golden samples, shadowed live ones where an old worker could run
//!   beside it, and served through its probation.
//! - An order that nobody has authorised disturbs nothing that is.
//! - Generations never fall, and the report of an end is kept until the server acknowledges it.
//!
//! When power dies, [`record::scan`] finds the last record, [`Deployment::restore`] takes it, and [`Event::Booted`]
//! performs the one recovery action of its state (`docs/protocol/deployment.md` lists them). An unconfirmed trial goes
//! back.

mod boot;
mod deadline;
mod effect;
mod event;
mod order;
mod phase;
mod prepare;
pub mod record;
mod report;
mod revert;
mod state;
mod time;
mod trial;
mod turn;
mod waiting;

pub use deadline::DeadlineReason;
pub use effect::{Ask, Effect, Ignored, IgnoredWhy};
pub use event::{Answer, Event, ShadowVerdict, Ticket, Verdict};
pub use order::{
    ATTEMPTS_MAX, Active, Bundle, ColdSwap, CommitRule, DURATION_S_MAX, Deadlines, Inactive, Order, SETTINGS_BYTES_MAX,
    ShadowLimits, Slot,
};
pub use phase::Phase;
pub use record::{Found, Record};
pub use report::{Cause, Code, DETAIL_CHARS_MAX, REPORTS_MAX, Report, Subject};
pub use state::{DownloadWait, Ended, ProbationStep, RevertStep, State, Swap, Then, TrialStep, Work};
pub use time::{BACKOFF_FIRST_MS, BACKOFF_MS_MAX, Budget, Now, RESTART_CHARGE_MS, backoff};
pub use waiting::Waiting;

use crate::id::Generation;
use record::{Anchor, Next};
use turn::{Session, Turn};

/// The machine.
#[derive(Debug, Clone)]
pub struct Deployment {
    record: Record,
    session: Session,
    jitter_seed: u64,
}

impl Deployment {
    /// A machine on a device that holds nothing, or the bundle that it was made with. `jitter_seed` should differ
    /// between devices and stay the same on each, such as a hash of the device's name.
    pub fn new(provisioned: Option<Active>, jitter_seed: u64) -> Self {
        let committed = provisioned.as_ref().map_or(Generation(0), |active| active.bundle.generation);
        let anchor = Anchor { active: provisioned, authorized: committed, committed, ..Anchor::default() };
        Self { record: Record { anchor, ..Record::default() }, session: Session::unwritten(), jitter_seed }
    }

    /// The machine as a journal left it. A record of another version becomes a way back to the active slot.
    pub fn restore(found: Found, jitter_seed: u64) -> Self {
        let (record, session) = match found {
            Found::Nothing => return Self::new(None, jitter_seed),
            Found::Record(record) => (*record, Session::default()),
            Found::Foreign { format, anchor } => (boot::from_foreign(format, *anchor), Session::unwritten()),
        };
        Self { record, session, jitter_seed }
    }

    /// Takes an event and says what to do. Deadlines that are due come first, whatever the event is, so that the order
    /// in which a late timer and a late answer arrive decides nothing.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Effect> {
        Turn::begin(self, now).run(event)
    }

    /// When [`Event::Deadline`] is due, in milliseconds since boot, and for what. Changes with every event.
    pub fn next_deadline(&self) -> Option<(u64, DeadlineReason)> {
        deadline::next(&self.record, &self.session)
            .map(|(left_ms, why)| (self.session.clock_ms.saturating_add(left_ms), why))
    }

    /// What the deployment waits for; nothing when it rests.
    pub fn waiting(&self) -> Option<Waiting> {
        waiting::of(&self.record, &self.session)
    }

    /// Where the deployment is.
    pub fn state(&self) -> &State {
        &self.record.state
    }

    /// The state's name.
    pub fn phase(&self) -> Phase {
        self.record.state.phase()
    }

    /// The committed bundle and its place.
    pub fn active(&self) -> Option<&Active> {
        self.record.anchor.active.as_ref()
    }

    /// What the other slot holds.
    pub fn inactive(&self) -> &Inactive {
        &self.record.inactive
    }

    /// A later order that waits.
    pub fn next(&self) -> Option<&Next> {
        self.record.next.as_ref()
    }

    /// All that is written down.
    pub fn record(&self) -> &Record {
        &self.record
    }
}

//! One component: its machine, its journal, and what works for it.

use super::{Control, window_event};
use crate::download::Download;
use crate::journal::{Journal, JournalError};
use crate::plane::Command;
use crate::transport::Transport;
use sedge_protocol::deployment::{Deployment, Event, Ignored, Slot, Ticket};
use sedge_protocol::id::ComponentName;
use sedge_protocol::{BundleDigest, Sha256Digest};
use std::collections::BTreeMap;
use tracing::{error, info, warn};

/// Pause after a journal could not be written.
const PARKED_MS: u64 = 5_000;
/// Tickets begin anew when a machine is restored; what still answers the old one is told apart by these bits.
const EPOCH_SHIFT: u32 = 40;

pub(super) struct Component {
    pub(super) machine: Deployment,
    pub(super) journal: Journal,
    epoch: u64,
    pub(super) download: Option<Download>,
    /// Whose samples are answered, as the data plane has said.
    pub(super) serving: Option<BundleDigest>,
    /// What was started in each slot.
    pub(super) started: BTreeMap<Slot, BundleDigest>,
    /// Open questions about who serves.
    pub(super) taking_over: BTreeMap<Ticket, Slot>,
    /// The journal could not be written: until then nothing happens.
    parked_until_ms: Option<u64>,
    /// When the deployment at work began.
    pub(super) began_ms: u64,
}

impl Component {
    /// The machine's ticket as others see it.
    pub(super) fn outside(&self, ticket: Ticket) -> Ticket {
        Ticket(ticket.0 | self.epoch << EPOCH_SHIFT)
    }

    /// The machine's ticket, if it is of this machine and not of one before it was restored.
    pub(super) fn inside(&self, ticket: Ticket) -> Option<Ticket> {
        (ticket.0 >> EPOCH_SHIFT == self.epoch).then_some(Ticket(ticket.0 & ((1 << EPOCH_SHIFT) - 1)))
    }

    pub(super) fn is_parked(&self) -> bool {
        self.parked_until_ms.is_some()
    }

    pub(super) fn deadline_ms(&self) -> Option<u64> {
        self.machine.next_deadline().map(|(due, _)| due)
    }

    pub(super) fn wake_ms(&self, line_is_up: bool) -> Option<u64> {
        if self.is_parked() {
            return self.parked_until_ms;
        }
        let download = self.download.as_ref().filter(|_| line_is_up).and_then(Download::due_ms);
        download.into_iter().chain(self.deadline_ms()).min()
    }
}

impl<T: Transport> Control<T> {
    /// Two devices pause differently, and each always in the same way.
    fn jitter_seed(&self, name: &ComponentName) -> u64 {
        let digest = Sha256Digest::of(format!("{}/{name}", self.device).as_bytes());
        digest.as_bytes().iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
    }

    fn open_journal(&self, name: &ComponentName) -> Result<(Journal, Deployment), JournalError> {
        let path = self.config.state_dir.join("journal").join(format!("{name}.journal"));
        let (journal, found) = Journal::open(self.disk.clone(), path)?;
        Ok((journal, Deployment::restore(found, self.jitter_seed(name))))
    }

    /// Adds a component as its journal left it, or a new one.
    pub(super) fn add(&mut self, name: ComponentName) -> Result<(), JournalError> {
        let (journal, machine) = self.open_journal(&name)?;
        let component = Component {
            machine,
            journal,
            epoch: 0,
            download: None,
            serving: None,
            started: BTreeMap::new(),
            taking_over: BTreeMap::new(),
            parked_until_ms: None,
            began_ms: self.now_ms(),
        };
        self.components.insert(name, component);
        Ok(())
    }

    /// The first events of a machine.
    pub(super) fn boot(&mut self, name: &ComponentName) {
        self.event(name, Event::Booted { running: None });
        self.event(name, Event::ApplyAllowed);
        if self.window_open {
            self.event(name, window_event(true));
        }
    }

    /// Brings an event, and performs all that follows from it.
    pub(super) fn event(&mut self, name: &ComponentName, event: Event) {
        // Whether it was heeded matters to commands only.
        let _ = self.event_heard(name, event);
    }

    /// As [`Control::event`]; says whether anything heeded it.
    pub(super) fn event_heard(&mut self, name: &ComponentName, event: Event) -> Result<(), Option<Ignored>> {
        let mut events = std::collections::VecDeque::from([event]);
        let mut ignored = Ok(());
        let mut first = true;
        while let Some(event) = events.pop_front() {
            let now = self.clock.deployment_now();
            let Some(component) = self.components.get_mut(name).filter(|component| !component.is_parked()) else {
                return Err(None);
            };
            for effect in component.machine.handle(event, now) {
                if let sedge_protocol::deployment::Effect::Ignored(why) = &effect
                    && first
                {
                    ignored = Err(Some(*why));
                }
                match self.perform(name, effect) {
                    Ok(more) => events.extend(more),
                    Err(e) => {
                        error!(component = %name, error = crate::error::chain(&e), "nothing is done that is not written down");
                        self.park(name);
                        return Err(None);
                    }
                }
            }
            first = false;
        }
        ignored
    }

    /// Ends all that works for the component, as power loss would.
    fn park(&mut self, name: &ComponentName) {
        let until = self.now_ms() + PARKED_MS;
        let Some(component) = self.components.get_mut(name) else { return };
        component.parked_until_ms = Some(until);
        component.epoch += 1;
        component.taking_over.clear();
        let active = component.machine.active().map(|active| active.slot);
        let download = component.download.take();
        self.slots.release(name);
        if let Some(mut download) = download {
            let steps = download.stop(&self.slots);
            self.download_steps(name, steps);
        }
        for slot in [Slot::A, Slot::B].into_iter().filter(|slot| Some(*slot) != active) {
            self.command(name, Command::StopWorker { slot });
        }
        self.status_changed = true;
    }

    /// After a pause: the machine as the journal has it.
    pub(super) fn restore(&mut self, name: &ComponentName) {
        let until = self.now_ms() + PARKED_MS;
        let opened = self.open_journal(name);
        let Some(component) = self.components.get_mut(name) else { return };
        match opened {
            Ok((journal, machine)) => {
                info!(component = %name, "restored from the journal");
                (component.journal, component.machine, component.parked_until_ms) = (journal, machine, None);
                self.boot(name);
                // What is desired comes again with the next connection only.
                self.order_again(name);
            }
            Err(e) => {
                warn!(component = %name, error = crate::error::chain(&e), "the journal cannot be read");
                component.parked_until_ms = Some(until);
            }
        }
    }

    /// Gives the command to the data plane; says whether it was taken.
    pub(super) fn command(&mut self, name: &ComponentName, command: Command) -> bool {
        let taken = self.plane.try_send((name.clone(), command)).is_ok();
        if !taken {
            warn!(component = %name, "the data plane takes no commands");
        }
        taken
    }
}

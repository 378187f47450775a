//! Effects, one by one. Each may be performed twice with the result of once.

use super::Control;
use crate::download::{Download, Job, Step};
use crate::journal::JournalError;
use crate::plane::Command;
use crate::transport::Transport;
use sedge_protocol::deployment::{Answer, Ask, Effect, Event, Slot, Ticket};
use sedge_protocol::id::ComponentName;
use sedge_protocol::topic::BundleLevel;
use tracing::{debug, info, warn};

impl<T: Transport> Control<T> {
    /// Performs an effect. Events that follow from it at once are returned, to be brought after all other effects.
    ///
    /// # Errors
    /// When the record could not be written; nothing after it may be done then.
    pub(super) fn perform(&mut self, name: &ComponentName, effect: Effect) -> Result<Vec<Event>, JournalError> {
        match effect {
            Effect::Persist(record) => {
                if let Some(component) = self.components.get_mut(name) {
                    component.journal.write(&record)?;
                    let phase = record.state.phase();
                    let subject = record.state.subject();
                    let generation = subject.as_ref().map_or(record.anchor.committed, |s| s.generation);
                    let rollout = subject.and_then(|s| s.rollout).map(|rollout| rollout.to_string());
                    info!(device = %self.device, component = %name, %generation, rollout, %phase, "written down");
                }
                self.status_changed = true;
            }
            Effect::Ask { ticket, ask } => return Ok(self.ask(name, ticket, ask)),
            Effect::CancelDownload { .. } => self.cancel_download(name),
            Effect::DeleteSlot { slot } => {
                self.cancel_download(name);
                if let Err(e) = self.slots.delete(name, slot) {
                    warn!(component = %name, error = crate::error::chain(&e), "a slot could not be emptied");
                }
            }
            Effect::HoldSamples { bytes_max } => {
                self.command(name, Command::HoldSamples { bytes_max });
            }
            Effect::StopWorker { slot } => {
                self.command(name, Command::StopWorker { slot });
            }
            Effect::StartProbation { slot, .. } => {
                self.command(name, Command::WatchHealth { slot });
            }
            Effect::Commit { slot, digest, generation } => {
                info!(component = %name, %generation, %digest, "this is what the device goes back to");
                self.command(name, Command::WatchHealth { slot });
            }
            Effect::Report(report) => self.push_report(name, &report),
            Effect::Ignored(ignored) => debug!(component = %name, ?ignored, "nothing to do"),
        }
        Ok(Vec::new())
    }

    fn cancel_download(&mut self, name: &ComponentName) {
        let download = self.components.get_mut(name).and_then(|component| component.download.take());
        if let Some(mut download) = download {
            let steps = download.stop(&self.slots);
            self.download_steps(name, steps);
        }
    }

    fn ask(&mut self, name: &ComponentName, ticket: Ticket, ask: Ask) -> Vec<Event> {
        let Some(component) = self.components.get_mut(name) else { return Vec::new() };
        let outside = component.outside(ticket);
        let answer = |answer| vec![Event::Answer { ticket, answer }];
        let command = match ask {
            Ask::Authorize { order } => {
                return answer(match self.updater.check(name, &order) {
                    Ok(()) => Answer::Authorized,
                    Err(refusal) => Answer::Refused { code: refusal.code.to_string(), detail: refusal.detail },
                });
            }
            Ask::ReserveSpace { slot, bytes } => {
                return answer(match self.slots.promise(name, slot, bytes) {
                    Ok(true) => Answer::SpaceReserved,
                    Ok(false) => Answer::NoSpace,
                    Err(e) => {
                        warn!(component = %name, error = crate::error::chain(&e), "space cannot be reserved");
                        Answer::NoSpace
                    }
                });
            }
            Ask::Download { slot, digest, length_bytes, bytes_max } => {
                component.began_ms = self.clock.elapsed_ms();
                let job = Job {
                    ticket: outside,
                    component: name.clone(),
                    slot,
                    level: BundleLevel { project: self.device.project.clone(), bundle: digest },
                    length_bytes,
                    bytes_max,
                    bytes_per_s_max: self.config.download.bytes_per_s_max,
                };
                let (download, steps) = Download::new(job, &mut self.slots);
                component.download = Some(download);
                return self.download_answers(name, steps);
            }
            Ask::VerifyStaged { slot, digest, length_bytes } => {
                let (path, verify, to) = (self.slots.bundle(name, slot), self.verify.clone(), self.answer_to.clone());
                let name = name.clone();
                tokio::task::spawn_blocking(move || {
                    let answer = match verify(&path, digest, length_bytes) {
                        Ok(()) => Answer::StagedVerified,
                        Err(detail) => Answer::StagedCorrupt { detail },
                    };
                    // The loop may have ended; it verifies again at its next start.
                    let _ = to.blocking_send((name, outside, answer));
                });
                return Vec::new();
            }
            Ask::StartWorker { slot, digest, settings } => {
                component.started.insert(slot, digest);
                let bundle = self.slots.bundle(name, slot);
                Command::StartWorker { ticket: outside, slot, bundle, digest, settings }
            }
            Ask::RunGolden { slot } => Command::RunGolden { ticket: outside, slot },
            Ask::BeginShadow { slot, limits } => Command::BeginShadow { ticket: outside, slot, limits },
            Ask::TakeOver { slot } => {
                component.taking_over.insert(ticket, slot);
                Command::TakeOver { ticket: outside, slot }
            }
            Ask::Serve { slot, digest, settings } => {
                component.started.insert(slot, digest);
                component.taking_over.insert(ticket, slot);
                let bundle = self.slots.bundle(name, slot);
                Command::Serve { ticket: outside, slot, bundle, digest, settings }
            }
        };
        if self.command(name, command) {
            return Vec::new();
        }
        answer(Answer::WorkerFailed { detail: "the data plane takes no commands".to_owned() })
    }

    /// An answer from beside the loop.
    pub(super) fn answered(&mut self, name: &ComponentName, ticket: Ticket, answer: Answer) {
        let Some(component) = self.components.get_mut(name) else { return };
        let Some(ticket) = component.inside(ticket) else {
            return debug!(component = %name, "an answer to a machine from before");
        };
        if let (Answer::TookOver, Some(slot)) = (&answer, component.taking_over.remove(&ticket)) {
            component.taking_over.retain(|later, _| *later > ticket);
            component.serving = component.started.get(&slot).copied();
            // The server need not wait for the next heartbeat to see that another bundle answers.
            self.push_health();
        }
        self.event(name, Event::Answer { ticket, answer });
    }

    /// Carries out what a download wants, and brings its answers.
    pub(super) fn download_steps(&mut self, name: &ComponentName, steps: Vec<Step>) {
        for event in self.download_answers(name, steps) {
            self.event(name, event);
        }
    }

    fn download_answers(&mut self, name: &ComponentName, steps: Vec<Step>) -> Vec<Event> {
        let ticket = self.components.get(name).and_then(|component| {
            component.download.as_ref().and_then(|download| component.inside(download.job().ticket))
        });
        let mut events = Vec::new();
        for step in steps {
            match step {
                Step::Send(topic, bytes) => self.send(topic, bytes),
                // Without a connection nothing is lost: a new one begins by subscribing.
                Step::Subscribe(filters) => drop(self.transport.subscribe(&filters)),
                Step::Unsubscribe(filters) => drop(self.transport.unsubscribe(&filters)),
                Step::Answer(answer) => {
                    events.extend(ticket.map(|ticket| Event::Answer { ticket, answer }));
                }
            }
        }
        if let Some(component) = self.components.get_mut(name)
            && component.download.as_ref().is_some_and(Download::is_ended)
        {
            component.download = None;
        }
        events
    }
}

/// The slot's letter, for people.
pub(super) const fn slot_name(slot: Slot) -> &'static str {
    match slot {
        Slot::A => "a",
        Slot::B => "b",
    }
}

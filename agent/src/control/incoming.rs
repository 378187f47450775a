//! What the server sends. Nothing of it is trusted for being sent: desired states are verified, chunks and documents
//! checked against what is signed, and commands do only what the deployment allows.

use super::{Control, window_event};
use crate::fetch::{Fetch, Fetched};
use crate::outbox::Tag;
use crate::transport::Transport;
use crate::update::{self, Refusal, Step};
use sedge_protocol::deployment::Event;
use sedge_protocol::id::{ComponentName, Generation};
use sedge_protocol::limits::COMPONENTS_MAX;
use sedge_protocol::message::{Ack, Announcement, Chunk, Command, Desired, ErrorCode, Message, MetadataSegment, Reply};
use sedge_protocol::topic::{BundleTopic, DeviceTopic, Topic};
use sedge_protocol::uptane::Authorized;
use tracing::{debug, warn};

/// Sequence number of reports that no machine waits for.
pub(super) const NO_MACHINE: u64 = u64::MAX;

impl<T: Transport> Control<T> {
    pub(super) fn incoming(&mut self, topic: &Topic, payload: &[u8]) {
        match topic {
            Topic::Device(device, topic) if *device == self.device => match topic {
                DeviceTopic::Desired => self.read(payload, Self::server_desires),
                DeviceTopic::Command => self.read(payload, Self::server_command),
                DeviceTopic::Reply => self.read(payload, Self::reply),
                DeviceTopic::Ack => self.read(payload, Self::ack),
                DeviceTopic::Metadata => self.read(payload, Self::segment),
                DeviceTopic::Chunk => self.read(payload, Self::chunk),
                _ => {}
            },
            Topic::Bundle(level, topic) if level.project == self.device.project => match topic {
                BundleTopic::Announcement => self.read(payload, Self::announced),
                BundleTopic::Chunks(_) => self.read(payload, Self::chunk),
            },
            topic => warn!(%topic, "a message for another device; the broker's access rules are wrong"),
        }
    }

    /// A message that cannot be read costs one line of the log.
    fn read<M: Message>(&mut self, payload: &[u8], take: impl FnOnce(&mut Self, M)) {
        // An empty retained message has been cleared.
        if payload.is_empty() {
            return;
        }
        match M::from_cbor(payload) {
            Ok(message) => take(self, message),
            Err(e) => warn!(error = crate::error::chain(&e), "a message is malformed and ignored"),
        }
    }

    fn server_desires(&mut self, desired: Desired) {
        // A server that has lost its session publishes what it desires anew. What it did not hear meanwhile, since it
        // subscribes after it connects, would wait for minutes.
        self.outbox.send_all_again();
        self.desired(desired);
    }

    pub(super) fn desired(&mut self, desired: Desired) {
        self.desired_again = None;
        if self.updater.looking_at() == Some(&desired) {
            return;
        }
        self.fetch = None;
        let step = self.updater.desired(desired.clone());
        self.update_step(step, Some(&desired));
    }

    fn update_step(&mut self, step: Step, desired: Option<&Desired>) {
        match step {
            Step::Rest => {}
            Step::Fetch(document, bytes_max) => self.fetch = Some(Fetch::new(document, bytes_max)),
            Step::Authorized(authorized) => {
                self.desired = desired.map(|desired| (authorized.generation, desired.hash));
                self.refused = None;
                if !self.order(&authorized, None) {
                    self.desired_again = desired.cloned().map(Box::new);
                }
            }
            // Not its fault: it is looked at again, and what was written of it is no harm.
            Step::Refused(Refusal { code: ErrorCode::StorageFailed, .. }) => {
                self.desired_again = desired.cloned().map(Box::new);
            }
            Step::Refused(refusal) => {
                let Some(desired) = desired else { return };
                // It is retained and comes again with each connection; the answer stays the same.
                let answer = Some((desired.hash, refusal.code.clone()));
                if self.refused != answer {
                    self.refused = answer;
                    let names = self.concerned(desired);
                    let of = (desired.generation, Some(desired.hash));
                    names.iter().for_each(|name| self.push_refusal(name, of, &refusal));
                }
            }
        }
        self.status_changed = true;
    }

    /// Components that a refused desired state would have changed, as far as that can be told.
    fn concerned(&self, desired: &Desired) -> Vec<ComponentName> {
        let json = serde_json::from_slice::<serde_json::Value>(&desired.director.targets).unwrap_or_default();
        let named = json.pointer("/signed/targets").and_then(|t| t.as_object());
        let named = named.into_iter().flatten().filter_map(|(name, _)| name.parse().ok());
        let known = self.components.keys().chain(self.config.component.keys()).cloned();
        let mut names: Vec<ComponentName> = known.chain(named.take(COMPONENTS_MAX)).collect();
        names.sort();
        names.dedup();
        names.truncate(COMPONENTS_MAX);
        names
    }

    /// Gives each component its order, or one of them alone; says whether all could be given.
    fn order(&mut self, authorized: &Authorized, only: Option<&ComponentName>) -> bool {
        let mut all = true;
        for (name, target) in &authorized.targets {
            if only.is_some_and(|only| only != name) {
                continue;
            }
            let order = match update::order(authorized.generation, target) {
                Ok(order) => order,
                Err(refusal) => {
                    self.push_refusal(name, self.answering(authorized.generation), &refusal);
                    continue;
                }
            };
            if !self.components.contains_key(name) {
                if self.components.len() >= COMPONENTS_MAX {
                    let detail = format!("this device has {COMPONENTS_MAX} components already");
                    let refusal = Refusal { code: ErrorCode::RequirementUnmet, detail };
                    self.push_refusal(name, self.answering(authorized.generation), &refusal);
                    continue;
                }
                if let Err(e) = self.add(name.clone()) {
                    warn!(component = %name, error = crate::error::chain(&e), "its journal cannot be opened");
                    all = false;
                    continue;
                }
                self.boot(name);
            }
            self.event(name, Event::Desired(Box::new(order)));
        }
        all
    }

    pub(super) fn answering(&self, generation: Generation) -> (Generation, Option<sedge_protocol::Sha256Digest>) {
        (generation, self.desired.filter(|(of, _)| *of == generation).map(|(_, hash)| hash))
    }

    /// What the component may run now, after its machine was restored.
    pub(super) fn order_again(&mut self, name: &ComponentName) {
        if let Some(authorized) = self.updater.current() {
            self.order(&authorized, Some(name));
        }
        self.event(name, window_event(self.window_open));
    }

    fn segment(&mut self, segment: MetadataSegment) {
        let now_ms = self.clock.elapsed_ms();
        if let Some(fetch) = &mut self.fetch {
            let fetched = fetch.segment(segment.clone(), now_ms);
            self.fetched(fetched);
        }
        self.with_downloads(|download, slots| download.segment(&segment, slots, now_ms));
    }

    fn reply(&mut self, reply: Reply) {
        let now_ms = self.clock.elapsed_ms();
        if let Some(fetch) = &mut self.fetch {
            let fetched = fetch.refused(&reply, now_ms);
            self.fetched(fetched);
        }
        self.with_downloads(|download, slots| download.refused(&reply, slots, now_ms));
    }

    fn fetched(&mut self, fetched: Fetched) {
        if fetched == Fetched::Nothing {
            return;
        }
        self.fetch = None;
        let desired = self.updater.looking_at().cloned();
        let step = match fetched {
            Fetched::Nothing => Step::Rest,
            Fetched::Document(bytes) => self.updater.document(&bytes),
            Fetched::Unavailable(why) => self.updater.unavailable(&why),
            Fetched::TooLong { bytes, bytes_max } => {
                self.updater.unavailable(&format!("{bytes} bytes; at most {bytes_max} are read (endless data attack)"))
            }
        };
        self.update_step(step, desired.as_ref());
    }

    fn chunk(&mut self, chunk: Chunk) {
        let now_ms = self.clock.elapsed_ms();
        self.with_downloads(|download, slots| download.chunk(&chunk, slots, now_ms));
    }

    fn announced(&mut self, announcement: Announcement) {
        self.with_downloads(|download, slots| download.announced(&announcement, slots));
    }

    fn with_downloads(
        &mut self,
        mut act: impl FnMut(&mut crate::download::Download, &mut crate::slots::Slots) -> Vec<crate::download::Step>,
    ) {
        let names: Vec<ComponentName> = self.components.keys().cloned().collect();
        for name in names {
            let Some(component) = self.components.get_mut(&name) else { continue };
            let Some(download) = &mut component.download else { continue };
            let steps = act(download, &mut self.slots);
            if !steps.is_empty() {
                self.download_steps(&name, steps);
            }
        }
    }

    fn ack(&mut self, ack: Ack) {
        for event in &ack.events {
            match event.as_str().strip_prefix('e').and_then(|n| n.parse().ok()) {
                Some(id) => self.outbox.event_acked(id),
                None => debug!(%event, "an acknowledgement of no event of ours"),
            }
        }
        let Some(seq) = ack.reported_seq else { return };
        for Tag { component, seq, .. } in self.outbox.reports_acked(seq) {
            if seq != NO_MACHINE {
                self.event(&component, Event::ReportAcked { seq });
            }
        }
    }

    fn server_command(&mut self, command: Command) {
        self.carry_out(command);
    }
}

//! The conversation with devices, as a value: what arrives goes in, what is to be done comes out. [`super::mqtt`] does it.
//!
//! What always holds: nothing is acknowledged here; that is done when the store has it. A status counts only if it is
//! not older than the present one. After the broker has lost the session, or this server has begun anew, every desired
//! state is published again: nothing depends on what a broker keeps.

use sedge_protocol::Sha256Digest;
use sedge_protocol::id::{EventId, Principal, StreamName};
use sedge_protocol::message::{
    Event, Message, MessageError, MetadataRequest, Reported, Status, Telemetry, V1, Want, Will,
};
use sedge_protocol::topic::{DeviceTopic, Topic};
use std::collections::HashMap;

/// What happened.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// The broker has taken the connection.
    Connected {
        /// Whether it still knew the session.
        session_present: bool,
    },
    /// A message arrived.
    Message {
        /// Its topic.
        topic: &'a str,
        /// Its payload.
        payload: &'a [u8],
        /// Whether it is JSON.
        json: bool,
    },
    /// What a device is to run has changed, or the signatures have.
    DesiredChanged(Principal),
    /// A device's desired state has been handed to the broker.
    DesiredPublished(Principal, Sha256Digest),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Subscribe what devices publish.
    Subscribe,
    /// Publish the desired state of every device.
    PublishAll,
    /// Publish the desired state of a device, unless the broker was handed exactly this.
    PublishDesired(Principal),
    /// Store it; then acknowledge what asks for it.
    Store(Record),
    /// Answer with a document.
    Answer(Principal, MetadataRequest),
    /// Send chunks.
    Serve(Principal, Want),
    /// Send no more chunks until it asks again.
    Forget(Principal),
    /// Hand on a measurement.
    Measured(Principal, StreamName, Telemetry),
    /// Nobody can use it; say so in the log.
    Refused {
        /// Where it arrived.
        topic: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Something that a device said and that is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Who said it.
    pub device: Principal,
    /// Whether he speaks JSON.
    pub json: bool,
    /// What.
    pub said: Said,
}

/// What a device said.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Said {
    Status(Status),
    Reported(Reported),
    Event(Event),
}

/// What is to be acknowledged once it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Acknowledged {
    Event(EventId),
    Reported(u64),
}

impl Record {
    /// What the device is told once this is stored.
    pub fn acknowledged(&self) -> Option<Acknowledged> {
        match &self.said {
            Said::Status(_) => None,
            Said::Reported(reported) => Some(Acknowledged::Reported(reported.seq)),
            Said::Event(event) => Some(Acknowledged::Event(event.id.clone())),
        }
    }
}

/// A device as the session knows it.
#[derive(Debug, Clone)]
struct Present {
    /// Boot and connection number, in the form of the will that belongs to them.
    connection: Status,
    json: bool,
}

/// What is known of the devices. One entry each; the broker lets nobody speak who has not enrolled.
#[derive(Debug, Default)]
pub struct Session {
    present: HashMap<Principal, Present>,
    published: HashMap<Principal, Sha256Digest>,
    /// Whether this process has been connected before.
    begun: bool,
}

fn read<M: Message>(payload: &[u8], json: bool) -> Result<M, MessageError> {
    if json { M::from_json(payload) } else { M::from_cbor(payload) }
}

fn connection(status: &Status) -> Status {
    let (boot, seq) = status.connection();
    Status::Offline(Will { v: V1, boot: boot.clone(), seq })
}

impl Session {
    /// Begins with what was stored of each device: its status, and whether it speaks JSON.
    pub fn resume(&mut self, device: Principal, status: &Status, json: bool) {
        self.present.insert(device, Present { connection: connection(status), json });
    }

    /// Whether a device speaks JSON.
    pub fn speaks_json(&self, device: &Principal) -> bool {
        self.present.get(device).is_some_and(|present| present.json)
    }

    /// Whether the broker was handed exactly this for a device.
    pub fn has_published(&self, device: &Principal, hash: Sha256Digest) -> bool {
        self.published.get(device) == Some(&hash)
    }

    /// Takes what happened and says what to do.
    pub fn handle(&mut self, input: Input<'_>) -> Vec<Effect> {
        match input {
            Input::Connected { session_present } => {
                // Subscribing again costs little and brings the retained statuses.
                let mut effects = vec![Effect::Subscribe];
                if !session_present || !self.begun {
                    self.begun = true;
                    self.published.clear();
                    effects.push(Effect::PublishAll);
                }
                effects
            }
            Input::DesiredChanged(device) => vec![Effect::PublishDesired(device)],
            Input::DesiredPublished(device, hash) => {
                self.published.insert(device, hash);
                Vec::new()
            }
            Input::Message { topic, payload, json } => self.message(topic, payload, json).unwrap_or_else(|problem| {
                let topic = topic.chars().take(160).flat_map(char::escape_default).collect();
                vec![Effect::Refused { topic, problem }]
            }),
        }
    }

    fn message(&mut self, topic: &str, payload: &[u8], json: bool) -> Result<Vec<Effect>, String> {
        let topic: Topic = topic.parse().map_err(|e| format!("{e}"))?;
        let Topic::Device(device, topic) = topic else {
            return Err("devices do not publish there".to_owned());
        };
        let problem = |e: MessageError| {
            let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}"));
            format!("{e}{}", cause.unwrap_or_default())
        };
        Ok(match topic {
            // What is left of a device when somebody clears its status.
            DeviceTopic::Status if payload.is_empty() => Vec::new(),
            DeviceTopic::Status => self.status(device, read(payload, json).map_err(problem)?, json),
            DeviceTopic::Reported => {
                let said = Said::Reported(read(payload, json).map_err(problem)?);
                vec![Effect::Store(Record { device, json, said })]
            }
            DeviceTopic::Event => {
                let said = Said::Event(read(payload, json).map_err(problem)?);
                vec![Effect::Store(Record { device, json, said })]
            }
            DeviceTopic::Request => vec![Effect::Answer(device, read(payload, json).map_err(problem)?)],
            DeviceTopic::Want => vec![Effect::Serve(device, read(payload, json).map_err(problem)?)],
            DeviceTopic::Telemetry(stream) => {
                let telemetry: Telemetry = read(payload, json).map_err(problem)?;
                vec![Effect::Measured(device, stream, telemetry)]
            }
            _ => return Err("devices do not publish there".to_owned()),
        })
    }

    fn status(&mut self, device: Principal, status: Status, json: bool) -> Vec<Effect> {
        let before = self.present.get(&device);
        if before.is_some_and(|before| !status.supersedes(&before.connection)) {
            return Vec::new();
        }
        let connection = connection(&status);
        // The same birth again, as brokers send it after each subscription, is no news.
        let news = before.is_none_or(|before| before.connection != connection) || matches!(status, Status::Offline(_));
        let online = matches!(status, Status::Online(_));
        self.present.insert(device.clone(), Present { connection, json });
        let said = Said::Status(status);
        let mut effects = vec![Effect::Store(Record { device: device.clone(), json, said })];
        if news {
            effects.push(Effect::Forget(device.clone()));
        }
        if online && !self.published.contains_key(&device) {
            effects.push(Effect::PublishDesired(device));
        }
        effects
    }
}

#[cfg(test)]
mod tests;

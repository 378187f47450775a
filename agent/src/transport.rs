//! The line to the server, whatever carries it: messages out, events in, and never a promise that is not kept.
//!
//! A transport remembers nothing over a break of the line. What must arrive lives in the [`crate::outbox`], which is
//! replayed at every [`LineEvent::Up`]; so a broker that lost the session, a client library that forgets and a message
//! that was half written all come to the same.

pub mod mqtt;
mod wire;

use sedge_protocol::topic::Topic;
use std::future::Future;

/// How hard a message tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Once, perhaps.
    AtMostOnce,
    /// Until the broker has it: [`LineEvent::Delivered`].
    AtLeastOnce,
}

/// A message to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub topic: Topic,
    /// CBOR.
    pub payload: Vec<u8>,
    /// How hard it tries.
    pub qos: Qos,
    /// Whether the broker keeps it for those who subscribe later.
    pub retain: bool,
    /// After how many seconds nobody needs it any more.
    pub expiry_s: Option<u32>,
}

/// Tells one handed-over message from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What happens on the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineEvent {
    /// The broker has accepted the connection. Subscribe, say that the device is there, and replay.
    Up {
        /// Number of the connection within this start of the agent, from 1.
        connection: u64,
        /// Whether the broker has kept the session.
        session_present: bool,
        /// Largest packet that the broker takes.
        packet_bytes_max: usize,
        /// Publishes that may be on their way at once.
        in_flight_max: usize,
    },
    /// The connection is gone, and what was on its way with it. The next one is being made.
    Down {
        /// Why.
        reason: String,
    },
    /// A message has arrived.
    Incoming {
        /// On which topic.
        topic: Topic,
        /// As received.
        payload: Vec<u8>,
    },
    /// The broker has a message that was handed over.
    Delivered(Token),
    /// The broker does not want it, and will not want it later.
    Refused {
        /// Which.
        token: Token,
        /// Why.
        reason: String,
    },
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// There is no connection.
    #[error("there is no connection to the broker")]
    Down,
    /// Enough is on its way.
    #[error("too many messages are on their way; later")]
    Full,
    /// Larger than the broker takes; it would break the connection again and again.
    #[error("the packet for {topic} has {length} bytes, and the broker takes {bytes_max}")]
    TooLong {
        /// Its topic.
        topic: Topic,
        /// Its length on the wire.
        length: usize,
        /// The broker's limit, or ours.
        bytes_max: usize,
    },
}

/// A line to the server.
pub trait Transport: Send {
    /// Hands a message over. Never waits.
    ///
    /// # Errors
    /// [`HandOverError`]; the message was then not taken.
    fn publish(&mut self, token: Token, message: Outgoing) -> Result<(), HandOverError>;

    /// Asks for messages. Never waits.
    ///
    /// # Errors
    /// [`HandOverError`]; nothing was then asked for.
    fn subscribe(&mut self, filters: &[String]) -> Result<(), HandOverError>;

    /// Asks for no more of them. Never waits.
    ///
    /// # Errors
    /// [`HandOverError`]; nothing was then said.
    fn unsubscribe(&mut self, filters: &[String]) -> Result<(), HandOverError>;

    /// The next event. May be dropped while it waits without losing one.
    fn next(&mut self) -> impl Future<Output = LineEvent> + Send;

    /// Leaves in good order: sends `last` if there is a connection, and closes it.
    fn close(&mut self, last: Option<Outgoing>) -> impl Future<Output = ()> + Send;
}

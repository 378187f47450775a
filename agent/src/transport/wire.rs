//! Length of a PUBLISH on the wire (MQTT 5.0, section 3.3), known before it is handed over.

use super::{Outgoing, Qos};
use sedge_protocol::message::CONTENT_TYPE_CBOR;

fn variable_integer_bytes(n: usize) -> usize {
    match n {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Bytes of the packet with everything around the payload.
pub(super) fn publish_bytes(message: &Outgoing) -> usize {
    // Payload format indicator, content type, and message expiry where there is one.
    let properties = 2 + 3 + CONTENT_TYPE_CBOR.len() + message.expiry_s.map_or(0, |_| 5);
    let packet_id = if message.qos == Qos::AtLeastOnce { 2 } else { 0 };
    let topic = 2 + message.topic.to_string().len();
    let remaining = topic + packet_id + variable_integer_bytes(properties) + properties + message.payload.len();
    1 + variable_integer_bytes(remaining) + remaining
}

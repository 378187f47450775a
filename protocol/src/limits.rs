//! Bounds on what travels over MQTT. They fit the strictest broker in common use (AWS IoT Core: 128 KB per message,
//! seven slashes per topic, 50 subscriptions), and each stops a failure or an attack that is named beside it.

/// Largest MQTT packet, both ways; a larger one is a poison message that some brokers answer by closing the connection
/// for ever. Announced in CONNECT, and compared with CONNACK before a message is handed over.
pub const PACKET_BYTES_MAX: usize = 120 * 1024;
/// What a packet may hold beside its payload: fixed header, topic and MQTT 5 properties.
pub const PACKET_OVERHEAD_BYTES_MAX: usize = 2 * 1024;
/// Largest payload.
pub const PAYLOAD_BYTES_MAX: usize = PACKET_BYTES_MAX - PACKET_OVERHEAD_BYTES_MAX;
/// Largest retained payload; brokers keep these in memory, one per topic.
pub const RETAINED_BYTES_MAX: usize = 100 * 1024;
/// Publishes in flight on one connection. The MQTT client's default of 65,536 costs 14 MiB.
pub const IN_FLIGHT_MAX: u16 = 32;
/// Subscriptions of one connection.
pub const SUBSCRIPTIONS_MAX: usize = 50;
/// Slashes in a topic.
pub const TOPIC_SLASHES_MAX: usize = 7;
/// Keep-alive, seconds; a dead link shows after twice this.
pub const KEEP_ALIVE_S: u16 = 30;
/// How long a broker keeps the session of a device that went away, seconds.
pub const SESSION_EXPIRY_S: u32 = 3600;
/// How long a broker waits before it publishes a device's will, seconds; shorter breaks of the link stay unseen.
pub const WILL_DELAY_S: u32 = 30;

/// Smallest chunk of content, but for the last of a bundle.
pub const CHUNK_BYTES_MIN: usize = 16 * 1024;
/// Chunk size that the cutter aims at.
pub const CHUNK_BYTES_TARGET: usize = 64 * 1024;
/// Largest chunk of content; with its envelope it fits a packet.
pub const CHUNK_BYTES_MAX: usize = 112 * 1024;
/// Most chunks of one bundle (at the target size 4 GiB); bounds a device's bitmap to 8 KiB.
pub const CHUNKS_MAX: u32 = 65_536;
/// Most lanes on which a bundle's chunks are sent.
pub const LANES_MAX: u16 = 8;

/// Largest part of a document that travels in segments.
pub const SEGMENT_BYTES_MAX: usize = 112 * 1024;
/// Most segments of one document.
pub const SEGMENTS_MAX: u32 = 256;
/// Largest document that travels in segments: update metadata or a chunk index. Stops endless data.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Most components of one device.
pub const COMPONENTS_MAX: usize = 32;

const _: () = assert!(CHUNK_BYTES_MAX < PAYLOAD_BYTES_MAX && SEGMENT_BYTES_MAX < PAYLOAD_BYTES_MAX);
const _: () = assert!(RETAINED_BYTES_MAX < PAYLOAD_BYTES_MAX);

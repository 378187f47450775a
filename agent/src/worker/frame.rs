//! How messages travel between the agent and a worker: frames over a socket pair.
//!
//! ```text
//! "SW"  version  0  length of the control part  length of the payload  control part  payload
//!  2 B    1 B   1 B         4 B, LE                   4 B, LE             JSON        raw bytes
//! ```
//! Lengths are checked before anything is allocated for them. A frame that breaks a rule ends the connection: neither
//! side can know where the next one begins.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Version of the frame and of the messages in it.
pub(super) const VERSION: u8 = 3;
/// Largest control part. Settings have at most 96 KiB; stops a worker from filling the agent's memory.
pub(super) const CONTROL_BYTES_MAX: usize = 512 << 10;
/// Largest payload: an inline sample, the free results of one, compiled code, or a piece of a saved model.
pub(super) const PAYLOAD_BYTES_MAX: usize = 16 << 20;

const MAGIC: [u8; 2] = *b"SW";
const HEADER_BYTES: usize = 12;

/// What is not a frame, or not the message that was expected.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other end was closed between two frames.
    #[error("the other end was closed")]
    Closed,
    /// The socket failed, or was closed inside a frame.
    #[error("the socket failed")]
    Socket(#[source] io::Error),
    /// It does not begin as a frame of this version does.
    #[error("not a frame of version {VERSION}: it begins with {0:02x?}")]
    Header([u8; 4]),
    /// A part is longer than its bound.
    #[error("a {part} of {length} bytes; at most {bytes_max} are sent or read")]
    TooLong {
        /// Which part.
        part: &'static str,
        /// Its length.
        length: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The control part is no message.
    #[error("not a message: {0}")]
    Message(String),
}

/// A frame ready to be written but for its payload.
fn head<M: Serialize>(message: &M, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut head = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut head, message).map_err(|e| FrameError::Message(e.to_string()))?;
    let control = bounded("control part", head.len() - HEADER_BYTES, CONTROL_BYTES_MAX)?;
    let payload = bounded("payload", payload.len(), PAYLOAD_BYTES_MAX)?;
    head[..2].copy_from_slice(&MAGIC);
    head[2] = VERSION;
    head[4..8].copy_from_slice(&control.to_le_bytes());
    head[8..12].copy_from_slice(&payload.to_le_bytes());
    Ok(head)
}

fn bounded(part: &'static str, length: usize, bytes_max: usize) -> Result<u32, FrameError> {
    match u32::try_from(length) {
        Ok(n) if length <= bytes_max => Ok(n),
        _ => Err(FrameError::TooLong { part, length, bytes_max }),
    }
}

/// Lengths of the control part and the payload.
fn lengths(header: [u8; HEADER_BYTES]) -> Result<(usize, usize), FrameError> {
    let [m0, m1, version, zero, c0, c1, c2, c3, p0, p1, p2, p3] = header;
    if [m0, m1] != MAGIC || version != VERSION || zero != 0 {
        return Err(FrameError::Header([m0, m1, version, zero]));
    }
    let control = u32::from_le_bytes([c0, c1, c2, c3]) as usize;
    let payload = u32::from_le_bytes([p0, p1, p2, p3]) as usize;
    bounded("control part", control, CONTROL_BYTES_MAX)?;
    bounded("payload", payload, PAYLOAD_BYTES_MAX)?;
    Ok((control, payload))
}

fn message<M: DeserializeOwned>(control: &[u8]) -> Result<M, FrameError> {
    serde_json::from_slice(control).map_err(|e| FrameError::Message(sedge_protocol::text::one_line(&e.to_string())))
}

/// Writes one frame; the worker's side.
pub(super) fn write<M: Serialize>(to: &mut impl Write, control: &M, payload: &[u8]) -> Result<(), FrameError> {
    let head = head(control, payload)?;
    to.write_all(&head).and_then(|()| to.write_all(payload)).map_err(FrameError::Socket)
}

/// Reads one frame; the worker's side.
pub(super) fn read<M: DeserializeOwned>(from: &mut impl Read) -> Result<(M, Vec<u8>), FrameError> {
    let mut header = [0; HEADER_BYTES];
    let first = loop {
        match from.read(&mut header) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other.map_err(FrameError::Socket)?,
        }
    };
    if first == 0 {
        return Err(FrameError::Closed);
    }
    from.read_exact(&mut header[first..]).map_err(FrameError::Socket)?;
    let (control, payload) = lengths(header)?;
    let mut buffer = vec![0; control];
    from.read_exact(&mut buffer).map_err(FrameError::Socket)?;
    let control = message(&buffer)?;
    let mut buffer = vec![0; payload];
    from.read_exact(&mut buffer).map_err(FrameError::Socket)?;
    Ok((control, buffer))
}

/// Writes one frame; the agent's side.
pub(super) async fn send<M: Serialize + Sync>(
    to: &mut UnixStream,
    control: &M,
    payload: &[u8],
) -> Result<(), FrameError> {
    let head = head(control, payload)?;
    to.write_all(&head).await.map_err(FrameError::Socket)?;
    to.write_all(payload).await.map_err(FrameError::Socket)
}

/// Reads one frame; the agent's side.
pub(super) async fn receive<M: DeserializeOwned>(from: &mut UnixStream) -> Result<(M, Vec<u8>), FrameError> {
    let mut header = [0; HEADER_BYTES];
    let first = from.read(&mut header).await.map_err(FrameError::Socket)?;
    if first == 0 {
        return Err(FrameError::Closed);
    }
    from.read_exact(&mut header[first..]).await.map_err(FrameError::Socket)?;
    let (control, payload) = lengths(header)?;
    let mut buffer = vec![0; control];
    from.read_exact(&mut buffer).await.map_err(FrameError::Socket)?;
    let control = message(&buffer)?;
    let mut buffer = vec![0; payload];
    from.read_exact(&mut buffer).await.map_err(FrameError::Socket)?;
    Ok((control, buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, &vec!["hello"], b"sample").expect("written");
        bytes
    }

    fn read_back(bytes: &[u8]) -> Result<(Vec<String>, Vec<u8>), FrameError> {
        read(&mut &bytes[..])
    }

    #[test]
    fn what_is_written_is_read() {
        let (control, payload) = read_back(&written()).expect("read");
        assert_eq!((control, payload), (vec!["hello".to_owned()], b"sample".to_vec()));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = written();
        assert!(matches!(read_back(&[]), Err(FrameError::Closed)));
        for end in 1..bytes.len() {
            assert!(matches!(read_back(&bytes[..end]), Err(FrameError::Socket(_))), "{end}");
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_allocated() {
        for (at, part) in [(4, "control part"), (8, "payload")] {
            let mut bytes = written();
            bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            let error = read_back(&bytes).expect_err("too long");
            assert!(matches!(error, FrameError::TooLong { part: p, .. } if p == part), "{error}");
        }
        let long = vec![0; PAYLOAD_BYTES_MAX + 1];
        assert!(matches!(write(&mut io::sink(), &(), &long), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn another_version_is_no_frame() {
        for at in 0..4 {
            let mut bytes = written();
            bytes[at] ^= 0x40;
            assert!(matches!(read_back(&bytes), Err(FrameError::Header(_))), "{at}");
        }
    }

    #[test]
    fn anything_else_than_a_message_is_named() {
        let mut bytes = Vec::new();
        write(&mut bytes, &7, b"").expect("written");
        assert!(matches!(read_back(&bytes), Err(FrameError::Message(_))));
    }
}

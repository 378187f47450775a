//! One request over HTTPS: as much of HTTP/1.1 as enrolment needs, with a bound on everything.
//!
//! The peer is the server that the token pins, yet nothing it sends may exhaust this device: the head, the body and the
//! time are limited, and an answer that was cut is an error and never half an answer.

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const HEAD_BYTES_MAX: usize = 16 * 1024;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is none.
    #[error("`{0}` is no address; expected `host:port`")]
    Address(String),
    /// Nobody answers there.
    #[error("no connection to {address}; check the network, the address and the port")]
    Connect {
        /// Where.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Somebody answers who is not the server that is meant.
    #[error("{address} could not prove to be the server that is trusted; the token may be of another server")]
    Tls {
        /// Where.
        address: String,
        /// What TLS says.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to {address} broke before the answer was complete; try again")]
    Cut {
        /// Where.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It takes too long.
    #[error("{address} has not answered within {} s; try again", TIMEOUT.as_secs())]
    Timeout {
        /// Where.
        address: String,
    },
    /// The answer is not HTTP as expected.
    #[error("the answer of {address} is not understood: {problem}")]
    Malformed {
        /// Where.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// The answer is too long.
    #[error("the answer of {address} is longer than {bytes_max} bytes and was not read")]
    TooLong {
        /// Where.
        address: String,
        /// The limit.
        bytes_max: usize,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Host and port of an address.
///
/// # Errors
/// [`HttpError::Address`].
pub fn host_port(address: &str) -> Result<(&str, u16), HttpError> {
    let wrong = || HttpError::Address(sedge_protocol::text::visible(address, 120));
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    match port.parse() {
        Ok(port) if port != 0 && !host.is_empty() && !host.contains(['/', ' ', '\r', '\n']) => Ok((host, port)),
        _ => Err(wrong()),
    }
}

/// Posts CBOR.
///
/// # Errors
/// [`HttpError`], naming the address and what to do.
pub async fn post(
    address: &str,
    path: &str,
    tls: Arc<ClientConfig>,
    body: &[u8],
    answer_bytes_max: usize,
) -> Result<Answer, HttpError> {
    let exchange = exchange(address, path, tls, body, answer_bytes_max);
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(result) => result,
        Err(_) => Err(HttpError::Timeout { address: address.to_owned() }),
    }
}

async fn exchange(
    address: &str,
    path: &str,
    tls: Arc<ClientConfig>,
    body: &[u8],
    answer_bytes_max: usize,
) -> Result<Answer, HttpError> {
    let owned = || address.to_owned();
    let (host, port) = host_port(address)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| HttpError::Address(address.to_owned()))?;
    let stream =
        TcpStream::connect((host, port)).await.map_err(|source| HttpError::Connect { address: owned(), source })?;
    let mut stream = TlsConnector::from(tls)
        .connect(name, stream)
        .await
        .map_err(|source| HttpError::Tls { address: owned(), source })?;
    let cut = |source| HttpError::Cut { address: owned(), source };
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: sedge-agent/{}\r\ncontent-type: application/cbor\r\n\
         accept: application/cbor\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION"),
        body.len()
    );
    stream.write_all(head.as_bytes()).await.map_err(cut)?;
    stream.write_all(body).await.map_err(cut)?;
    stream.flush().await.map_err(cut)?;
    read_answer(&mut stream, address, answer_bytes_max).await
}

async fn read_answer(
    stream: &mut (impl AsyncRead + Unpin),
    address: &str,
    bytes_max: usize,
) -> Result<Answer, HttpError> {
    let malformed = |problem: &str| HttpError::Malformed { address: address.to_owned(), problem: problem.to_owned() };
    let cut = |source| HttpError::Cut { address: address.to_owned(), source };
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(malformed("its head does not end"));
        }
        read_some(stream, &mut bytes).await.map_err(cut)?;
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| malformed("its head is not text"))?;
    let mut lines = head.split("\r\n");
    let mut status = lines.next().unwrap_or_default().split(' ');
    let status = match (status.next(), status.next().map(str::parse::<u16>)) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(Ok(status))) if (200..600).contains(&status) => status,
        _ => return Err(malformed("it does not begin with a status")),
    };
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("a header has no colon"))?;
        if name.eq_ignore_ascii_case("content-length") {
            let value = value.trim().parse::<usize>().map_err(|_| malformed("its content-length is no number"))?;
            if length.is_some_and(|before| before != value) {
                return Err(malformed("it has two lengths"));
            }
            length = Some(value);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(malformed("it has a transfer-encoding; a content-length is expected"));
        }
    }
    let length = length.ok_or_else(|| malformed("it has no content-length"))?;
    if length > bytes_max {
        return Err(HttpError::TooLong { address: address.to_owned(), bytes_max });
    }
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        read_some(stream, &mut body).await.map_err(cut)?;
    }
    body.truncate(length);
    Ok(Answer { status, body })
}

async fn read_some(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => {
            bytes.extend_from_slice(&buffer[..n]);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        assert_eq!(host_port("a.example:8443").ok(), Some(("a.example", 8443)));
        assert_eq!(host_port("[::1]:1").ok(), Some(("::1", 1)));
        for text in ["", "a", "a:", ":1", "a:0", "a:99999", "a/b:1", "a\r\nx:1"] {
            assert!(host_port(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn answers_that_are_not_whole_are_none() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Ok("ok")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", Err("broke before")),
            ("HTTP/1.1 200 OK\r\ncontent-le", Err("broke before")),
            ("HTTP/1.1 200 OK\r\n\r\nok", Err("no content-length")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 1\r\n\r\nok", Err("two lengths")),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Err("transfer-encoding")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n", Err("longer than 100")),
            ("SSH-2.0-x\r\n\r\n", Err("does not begin with a status")),
            (&"x".repeat(40_000), Err("does not end")),
        ] {
            let result = read_answer(&mut answer.as_bytes(), "a:1", 100).await;
            match (result, expected) {
                (Ok(answer), Ok(body)) => assert_eq!(answer.body, body.as_bytes()),
                (Err(e), Err(expected)) => assert!(e.to_string().contains(expected), "{e}"),
                (result, expected) => panic!("{result:?} and not {expected:?}"),
            }
        }
    }
}

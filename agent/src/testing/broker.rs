//! A broker that does what a test says: packets of MQTT 5 read and written by hand.

use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longest that a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Broker {
    listener: TcpListener,
    pub(crate) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) client_id: String,
    pub(crate) session_expiry_s: u32,
    pub(crate) receive_max: u16,
    pub(crate) packet_bytes_max: u32,
    pub(crate) will_topic: String,
    pub(crate) will: Vec<u8>,
    pub(crate) will_retain: bool,
    pub(crate) will_delay_s: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    Publish { topic: String, payload: Vec<u8>, id: u16, retain: bool, dup: bool },
    PubAck(u16),
    Subscribe { id: u16, filters: Vec<String> },
    Unsubscribe { id: u16 },
    Ping,
    Disconnect,
}

/// One connection.
pub(crate) struct Peer {
    stream: TcpStream,
    pub(crate) connect: Connect,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        head
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn bytes(&mut self) -> &'a [u8] {
        let n = self.u16();
        self.take(n.into())
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.bytes().to_vec()).expect("text")
    }

    fn variable(&mut self) -> usize {
        let mut n = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8();
            n |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        n
    }

    /// Properties as pairs of identifier and number; texts are passed over.
    fn properties(&mut self) -> Vec<(u8, u32)> {
        let n = self.variable();
        let mut inner = Reader(self.take(n));
        let mut found = Vec::new();
        while !inner.0.is_empty() {
            let id = inner.u8();
            let value = match id {
                0x01 | 0x17 | 0x19 => inner.u8().into(),
                0x21 | 0x22 => inner.u16().into(),
                0x02 | 0x11 | 0x18 | 0x27 => inner.u32(),
                0x03 => {
                    inner.text();
                    0
                }
                _ => panic!("property {id}"),
            };
            found.push((id, value));
        }
        found
    }
}

fn property(properties: &[(u8, u32)], id: u8) -> u32 {
    properties.iter().find(|p| p.0 == id).map_or(0, |p| p.1)
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    let mut n = body.len();
    loop {
        let byte = u8::try_from(n & 0x7f).expect("seven bits");
        n >>= 7;
        out.push(if n > 0 { byte | 0x80 } else { byte });
        if n == 0 {
            break;
        }
    }
    [out.as_slice(), body].concat()
}

impl Broker {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let port = listener.local_addr().expect("address").port();
        Self { listener, port }
    }

    /// The next connection, with its CONNECT read and not answered.
    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.expect("a connection").expect("accepted");
        Self::greet(stream).await.expect("CONNECT")
    }

    async fn greet(stream: TcpStream) -> Option<Peer> {
        stream.set_nodelay(true).expect("option");
        let mut peer = Peer { stream, connect: Connect::of(&[0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 0, 0, 0, 0]) };
        let (kind, body) = peer.read().await?;
        assert_eq!(kind, 0x10);
        peer.connect = Connect::of(&body);
        Some(peer)
    }

    /// As [`Broker::accept`], however long it takes.
    pub(crate) async fn accept_patiently(&self) -> Peer {
        loop {
            let (stream, _) = self.listener.accept().await.expect("accepted");
            if let Some(peer) = Self::greet(stream).await {
                return peer;
            }
        }
    }

    /// The next connection, accepted.
    pub(crate) async fn up(&self, session_present: bool) -> Peer {
        let mut peer = self.accept().await;
        peer.connack(session_present, &[]).await;
        peer
    }
}

impl Connect {
    fn of(body: &[u8]) -> Self {
        let mut r = Reader(body);
        assert_eq!((r.text().as_str(), r.u8()), ("MQTT", 5));
        let flags = r.u8();
        let keep_alive_s = r.u16();
        let properties = r.properties();
        let client_id = r.text();
        let (mut will_delay_s, mut will_topic, mut will) = (0, String::new(), Vec::new());
        if flags & 4 != 0 {
            will_delay_s = property(&r.properties(), 0x18);
            will_topic = r.text();
            will = r.bytes().to_vec();
        }
        Self {
            clean_start: flags & 2 != 0,
            keep_alive_s,
            client_id,
            session_expiry_s: property(&properties, 0x11),
            receive_max: u16::try_from(property(&properties, 0x21)).expect("two bytes"),
            packet_bytes_max: property(&properties, 0x27),
            will_topic,
            will,
            will_retain: flags & 0x20 != 0,
            will_delay_s,
        }
    }
}

impl Peer {
    async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let kind = self.stream.read_u8().await.ok()?;
        let mut length = 0usize;
        for shift in [0, 7, 14, 21] {
            let byte = self.stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some((kind, body))
    }

    /// Accepts. `properties` are raw.
    pub(crate) async fn connack(&mut self, session_present: bool, properties: &[u8]) {
        let length = u8::try_from(properties.len()).expect("short");
        let body = [&[session_present.into(), 0, length], properties].concat();
        self.write(&packet(0x20, &body)).await;
    }

    /// Writes bytes as they are; a connection that is gone takes none.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// What comes next, or nothing when the connection is closed.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        let (kind, body) = timeout(PATIENCE, self.read()).await.expect("a packet")?;
        let mut r = Reader(&body);
        Some(match kind >> 4 {
            3 => {
                let topic = r.text();
                let id = if kind & 6 != 0 { r.u16() } else { 0 };
                r.properties();
                Packet::Publish { topic, payload: r.0.to_vec(), id, retain: kind & 1 != 0, dup: kind & 8 != 0 }
            }
            4 => Packet::PubAck(r.u16()),
            8 => {
                let id = r.u16();
                r.properties();
                let mut filters = Vec::new();
                while !r.0.is_empty() {
                    filters.push(r.text());
                    r.u8();
                }
                Packet::Subscribe { id, filters }
            }
            10 => Packet::Unsubscribe { id: r.u16() },
            12 => Packet::Ping,
            14 => Packet::Disconnect,
            kind => panic!("packet {kind}"),
        })
    }

    /// The next publish; pings are answered, subscriptions granted.
    pub(crate) async fn publish(&mut self) -> Option<(String, Vec<u8>, u16)> {
        loop {
            match self.next().await? {
                Packet::Publish { topic, payload, id, .. } => return Some((topic, payload, id)),
                Packet::Disconnect => return None,
                packet => self.answer(packet).await,
            }
        }
    }

    /// Answers what any broker answers in the same way.
    pub(crate) async fn answer(&mut self, received: Packet) {
        match received {
            Packet::Ping => self.write(&packet(0xd0, &[])).await,
            Packet::Subscribe { id, filters } => self.suback(id, filters.len()).await,
            Packet::Unsubscribe { id } => {
                let [h, l] = id.to_be_bytes();
                self.write(&packet(0xb0, &[h, l, 0, 0])).await;
            }
            Packet::Publish { .. } | Packet::PubAck(_) | Packet::Disconnect => {}
        }
    }

    /// Waits until there is something to read; false when the connection is closed.
    pub(crate) async fn readable(&self) -> bool {
        matches!(self.stream.peek(&mut [0]).await, Ok(1))
    }

    pub(crate) async fn suback(&mut self, id: u16, filters: usize) {
        let body = [&id.to_be_bytes(), [0].as_slice(), &vec![1; filters]].concat();
        self.write(&packet(0x90, &body)).await;
    }

    pub(crate) async fn puback(&mut self, id: u16, reason: u8) {
        let [h, l] = id.to_be_bytes();
        self.write(&packet(0x40, &[h, l, reason, 0])).await;
    }

    /// Sends a message; with QoS 1 unless `id` is 0.
    pub(crate) async fn send(&mut self, topic: &str, payload: &[u8], id: u16) {
        let length = u16::try_from(topic.len()).expect("short").to_be_bytes();
        let id_bytes = id.to_be_bytes();
        let id_bytes: &[u8] = if id == 0 { &[] } else { &id_bytes };
        let body = [&length, topic.as_bytes(), id_bytes, &[0], payload].concat();
        self.write(&packet(if id == 0 { 0x30 } else { 0x32 }, &body)).await;
    }

    /// Closes the connection without a word.
    pub(crate) fn drop_link(self) {}
}

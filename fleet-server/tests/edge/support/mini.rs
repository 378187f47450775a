//! A minimal MQTT 5 client: enough packets for load and for hostile tests.
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Reason code: not authorized.
pub const NOT_AUTHORIZED: u8 = 0x87;

pub struct Conn {
    pub s: TlsStream<TcpStream>,
    buf: Vec<u8>,
    at: usize,
}

#[derive(Debug, Clone)]
pub struct Packet {
    pub kind: u8,
    pub flags: u8,
    pub body: Vec<u8>,
}

#[derive(Default, Clone)]
pub struct Opts<'a> {
    pub id: &'a str,
    pub clean: bool,
    pub expiry: u32,
    pub keep_alive: u16,
    pub will: Option<(&'a str, &'a [u8], bool)>,
    pub receive_max: u16,
    pub username: Option<&'a str>,
}

fn str_(b: &mut Vec<u8>, s: &str) {
    b.extend((s.len() as u16).to_be_bytes());
    b.extend(s.as_bytes());
}
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut n = body.len();
    loop {
        let mut d = (n % 128) as u8;
        n /= 128;
        if n > 0 {
            d |= 128;
        }
        out.push(d);
        if n == 0 {
            break;
        }
    }
    out.extend(body);
    out
}
pub fn publish(topic: &str, payload: &[u8], qos: u8, retain: bool, pid: u16) -> Vec<u8> {
    let mut b = Vec::with_capacity(payload.len() + topic.len() + 8);
    str_(&mut b, topic);
    if qos > 0 {
        b.extend(pid.to_be_bytes());
    }
    b.push(0);
    b.extend(payload);
    frame(0x30 | (qos << 1) | retain as u8, &b)
}
pub fn subscribe(filter: &str, qos: u8, pid: u16) -> Vec<u8> {
    let mut b = pid.to_be_bytes().to_vec();
    b.push(0);
    str_(&mut b, filter);
    b.push(qos);
    frame(0x82, &b)
}
pub fn puback(pid: u16) -> Vec<u8> {
    frame(0x40, &pid.to_be_bytes())
}
pub fn connect(o: &Opts) -> Vec<u8> {
    let mut b = vec![];
    str_(&mut b, "MQTT");
    b.push(5);
    let mut flags = if o.clean { 2 } else { 0 };
    if let Some((_, _, r)) = o.will {
        flags |= 4 | (1 << 3) | if r { 32 } else { 0 };
    }
    if o.username.is_some() {
        flags |= 0x80;
    }
    b.push(flags);
    b.extend(o.keep_alive.to_be_bytes());
    let mut p = vec![0x11];
    p.extend(o.expiry.to_be_bytes());
    if o.receive_max > 0 {
        p.push(0x21);
        p.extend(o.receive_max.to_be_bytes());
    }
    b.push(p.len() as u8);
    b.extend(p);
    str_(&mut b, o.id);
    if let Some((t, m, _)) = o.will {
        b.push(0);
        str_(&mut b, t);
        b.extend((m.len() as u16).to_be_bytes());
        b.extend(m);
    }
    if let Some(u) = o.username {
        str_(&mut b, u);
    }
    frame(0x10, &b)
}

/// (topic, payload, pid, qos)
pub fn parse_publish(p: &Packet) -> (String, Vec<u8>, u16, u8) {
    let n = u16::from_be_bytes([p.body[0], p.body[1]]) as usize;
    let topic = String::from_utf8_lossy(&p.body[2..2 + n]).into_owned();
    let mut at = 2 + n;
    let qos = (p.flags >> 1) & 3;
    let mut pid = 0;
    if qos > 0 {
        pid = u16::from_be_bytes([p.body[at], p.body[at + 1]]);
        at += 2;
    }
    let (len, used) = varint(&p.body[at..]);
    (topic, p.body[at + used + len..].to_vec(), pid, qos)
}
fn varint(b: &[u8]) -> (usize, usize) {
    let (mut v, mut s) = (0usize, 0);
    for (i, x) in b.iter().enumerate() {
        v |= ((x & 127) as usize) << s;
        if x & 128 == 0 {
            return (v, i + 1);
        }
        s += 7;
    }
    (v, b.len())
}

impl Conn {
    pub async fn tls(addr: &str, cfg: Arc<rustls::ClientConfig>) -> Result<Self> {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let name = rustls::pki_types::ServerName::try_from("localhost")?;
        let s = tokio_rustls::TlsConnector::from(cfg).connect(name, tcp).await?;
        Ok(Self { s, buf: Vec::new(), at: 0 })
    }
    /// Returns (reason, session_present).
    pub async fn mqtt(&mut self, o: &Opts<'_>) -> Result<(u8, bool)> {
        self.send(&connect(o)).await?;
        let p = self.recv().await?;
        if p.kind != 2 {
            bail!("expected CONNACK, got {}", p.kind);
        }
        Ok((p.body[1], p.body[0] & 1 == 1))
    }
    pub async fn open(addr: &str, cfg: Arc<rustls::ClientConfig>, o: &Opts<'_>) -> Result<Self> {
        let mut c = Self::tls(addr, cfg).await?;
        let (r, _) = c.mqtt(o).await?;
        if r != 0 {
            bail!("CONNACK {r:#x} for {}", o.id);
        }
        Ok(c)
    }
    pub async fn send(&mut self, b: &[u8]) -> Result<()> {
        self.s.write_all(b).await?;
        self.s.flush().await?;
        Ok(())
    }
    pub async fn recv(&mut self) -> Result<Packet> {
        loop {
            let have = &self.buf[self.at..];
            if have.len() >= 2 {
                let (len, used) = varint(&have[1..have.len().min(5)]);
                let complete = have[1..].iter().take(4).any(|b| b & 128 == 0);
                if complete && have.len() > used + len {
                    let p = Packet {
                        kind: have[0] >> 4,
                        flags: have[0] & 15,
                        body: have[1 + used..1 + used + len].to_vec(),
                    };
                    self.at += 1 + used + len;
                    return Ok(p);
                }
            }
            if self.at > 0 {
                self.buf.drain(..self.at);
                self.at = 0;
            }
            let mut t = [0u8; 16384];
            let n = self.s.read(&mut t).await?;
            if n == 0 {
                bail!("closed");
            }
            self.buf.extend_from_slice(&t[..n]);
        }
    }
    pub async fn recv_within(&mut self, ms: u64) -> Result<Option<Packet>> {
        match tokio::time::timeout(std::time::Duration::from_millis(ms), self.recv()).await {
            Ok(p) => p.map(Some),
            Err(_) => Ok(None),
        }
    }
    pub async fn expect(&mut self, kind: u8) -> Result<Packet> {
        loop {
            let p = self.recv_within(5000).await?.with_context(|| format!("timeout for {kind}"))?;
            if p.kind == kind {
                return Ok(p);
            }
        }
    }
    /// Publishes at QoS 1; the reason code of the PUBACK.
    pub async fn publish1(&mut self, topic: &str, payload: &[u8], retain: bool) -> Result<u8> {
        self.send(&publish(topic, payload, 1, retain, 7)).await?;
        let p = self.expect(4).await?;
        Ok(p.body.get(2).copied().unwrap_or(0))
    }
    pub async fn sub(&mut self, filter: &str, qos: u8) -> Result<u8> {
        self.send(&subscribe(filter, qos, 9)).await?;
        let p = self.expect(9).await?;
        let (len, used) = varint(&p.body[2..]);
        Ok(p.body[2 + used + len])
    }
}

pub fn fresh(id: &str) -> Opts<'_> {
    Opts { id, clean: true, keep_alive: 60, ..Opts::default() }
}

pub async fn open(addr: &str, client: Arc<rustls::ClientConfig>, id: &str) -> Conn {
    Conn::open(addr, client, &fresh(id)).await.unwrap()
}

/// The next PUBLISH, acknowledged: (topic, payload). For one that must come.
pub async fn next(conn: &mut Conn) -> Option<(String, Vec<u8>)> {
    within(conn, 10_000).await
}

/// The same, for one that may not come: it is not waited for long.
pub async fn soon(conn: &mut Conn) -> Option<(String, Vec<u8>)> {
    within(conn, 600).await
}

async fn within(conn: &mut Conn, ms: u64) -> Option<(String, Vec<u8>)> {
    while let Ok(Some(packet)) = conn.recv_within(ms).await {
        if packet.kind == 3 {
            let (topic, payload, id, qos) = parse_publish(&packet);
            if qos == 1 {
                conn.send(&puback(id)).await.unwrap();
            }
            return Some((topic, payload));
        }
    }
    None
}

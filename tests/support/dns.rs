//! A small name server on loopback, over UDP and TCP, that answers as a test says.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the thread for datagrams looks whether it should end.
const TICK: Duration = Duration::from_millis(20);

/// How it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// As it should.
    #[default]
    Well,
    /// With the code for "no such name".
    NoSuchName,
    /// With nothing in it.
    Empty,
    /// With the code for "server failure".
    Failure,
    /// Not at all.
    Silence,
    /// With bytes that are no message.
    Garbage,
    /// As it should, but every other time without the first record.
    Flapping,
    /// Over UDP only that it would be too long; over TCP as it should.
    Truncated,
}

/// A record of a name.
#[derive(Clone, Debug)]
pub enum Record {
    /// A or AAAA.
    Address(IpAddr),
    /// Priority, weight, port, target.
    Srv(u16, u16, u16, &'static str),
}

#[derive(Debug, Default)]
struct Zone {
    mode: Mode,
    records: HashMap<String, Vec<Record>>,
}

/// The server. Dropping it stops it; its port answers nobody then.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    queries: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl DnsServer {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When there is none.
    pub fn start() -> Self {
        let (udp, tcp) = (0..100)
            .find_map(|_| {
                let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
                // The same number for both.
                let tcp = TcpListener::bind(udp.local_addr().expect("bound")).ok()?;
                Some((udp, tcp))
            })
            .expect("a port is free for both");
        udp.set_read_timeout(Some(TICK)).expect("a timeout above zero");
        let address = udp.local_addr().expect("bound");
        let (zone, queries, stop) = (Arc::<Mutex<Zone>>::default(), Arc::default(), Arc::default());
        let one = Answerer { zone: Arc::clone(&zone), queries: Arc::clone(&queries), stop: Arc::clone(&stop) };
        let other = one.clone();
        let threads = vec![thread::spawn(move || one.serve_udp(&udp)), thread::spawn(move || other.serve_tcp(&tcp))];
        Self { address, zone, queries, stop, threads }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on a name has these records.
    pub fn set(&self, name: &str, records: impl IntoIterator<Item = Record>) {
        self.zone.lock().expect("no panic").records.insert(name.to_owned(), records.into_iter().collect());
    }

    /// From now on it answers so.
    pub fn mode(&self, mode: Mode) {
        self.zone.lock().expect("no panic").mode = mode;
    }

    /// Questions so far.
    pub fn queries(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the one that waits for connections.
        drop(TcpStream::connect(self.address));
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Answerer {
    zone: Arc<Mutex<Zone>>,
    queries: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Answerer {
    fn serve_udp(&self, socket: &UdpSocket) {
        let mut question = [0; 4096];
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
            if let Some(reply) = self.reply(&question[..length], true) {
                // Whoever asked may be gone.
                let _ = socket.send_to(&reply, from);
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        while !self.stop.load(Ordering::Relaxed) {
            // Errors are the end of a connection, by whoever asked.
            let _ = listener.accept().and_then(|(stream, _)| self.serve_connection(stream));
        }
    }

    fn serve_connection(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question)?;
            let Some(reply) = self.reply(&question, false) else { return Ok(()) };
            let length = u16::try_from(reply.len()).expect("a short reply").to_be_bytes();
            stream.write_all(&[&length[..], &reply].concat())?;
        }
    }

    fn reply(&self, question: &[u8], is_udp: bool) -> Option<Vec<u8>> {
        let number = self.queries.fetch_add(1, Ordering::Relaxed);
        let zone = self.zone.lock().expect("no panic");
        let (name, kind, end) = parse(question)?;
        let known = zone.records.get(&name);
        let (code, truncated, records) = match zone.mode {
            Mode::Silence => return None,
            Mode::Garbage => return Some([&question[..2], b"\xff\xc0\x0c\xff\xff"].concat()),
            Mode::NoSuchName => (3, false, &[][..]),
            Mode::Failure => (2, false, &[][..]),
            Mode::Empty => (0, false, &[][..]),
            Mode::Truncated if is_udp => (0, true, &[][..]),
            Mode::Flapping if number.is_multiple_of(2) => (0, false, known.map_or(&[][..], |known| &known[1..])),
            Mode::Truncated | Mode::Flapping | Mode::Well => {
                (if known.is_some() { 0 } else { 3 }, false, known.map_or(&[][..], Vec::as_slice))
            }
        };
        let answers: Vec<Vec<u8>> = records.iter().filter_map(|record| written(record, kind)).collect();
        let has_authority = answers.is_empty() && !truncated && code != 2;
        let mut reply = question[..2].to_vec();
        reply.extend([0x81 | if truncated { 2 } else { 0 }, 0x80 | code]);
        for count in [1, u16::try_from(answers.len()).expect("few"), u16::from(has_authority), 0] {
            reply.extend(count.to_be_bytes());
        }
        reply.extend(&question[12..end]);
        reply.extend(answers.concat());
        if has_authority {
            // Who is responsible for the name, without which "nothing" is no answer.
            reply.extend(resource(6, &[&[0, 0][..], &[0; 20]].concat()));
        }
        Some(reply)
    }
}

/// Name, type, and where the question ends.
fn parse(message: &[u8]) -> Option<(String, u16, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
    Some((labels.join("."), kind, at + 4))
}

fn written(record: &Record, kind: u16) -> Option<Vec<u8>> {
    match record {
        Record::Address(IpAddr::V4(address)) => (kind == 1).then(|| resource(1, &address.octets())),
        Record::Address(IpAddr::V6(address)) => (kind == 28).then(|| resource(28, &address.octets())),
        Record::Srv(priority, weight, port, target) => (kind == 33).then(|| {
            let mut data: Vec<u8> = [priority, weight, port].into_iter().flat_map(|it| it.to_be_bytes()).collect();
            for label in target.split('.') {
                data.push(u8::try_from(label.len()).expect("a short label"));
                data.extend(label.as_bytes());
            }
            data.push(0);
            resource(33, &data)
        }),
    }
}

/// A record of the name that was asked for, good for a second.
fn resource(kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("short data");
    [&[0xc0, 12][..], &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 1], &length.to_be_bytes(), data].concat()
}

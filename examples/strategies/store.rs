//! A store that several servers share, so that nothing has to be installed: it stands in for Redis, speaks its protocol
//! (RESP2), and knows the commands that the session app and the measuring use. In memory only, as Redis without a file.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use clap::Args;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::support::session_process::LISTENING;
use crate::support::traffic::{CountedStream, Traffic};

/// What the store is told on its command line.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Port on 127.0.0.1.
    #[arg(long)]
    port: u16,
}

/// Serves until standard input ends, and so with the process at its other end.
///
/// # Errors
/// The port cannot be bound.
pub(crate) fn run(arguments: &Arguments) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port));
    let listener = runtime.block_on(TcpListener::bind(address))?;
    writeln!(io::stdout(), "{LISTENING}{address}")?;
    std::thread::spawn(move || runtime.block_on(serve(listener)));
    io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ())
}

/// Never ends.
async fn serve(listener: TcpListener) {
    let (store, traffic) = (Arc::<Mutex<Store>>::default(), Arc::<Traffic>::default());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                let stream = CountedStream::new(stream, Arc::clone(&traffic));
                tokio::spawn(converse(stream, Arc::clone(&store), Arc::clone(&traffic)));
            }
            // Out of descriptors, most likely: trying again at once would spin.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// One connection, to its end or to the first thing that is no command.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    store: Arc<Mutex<Store>>,
    traffic: Arc<Traffic>,
) -> io::Result<()> {
    let (mut unread, mut transaction) = (BytesMut::new(), None);
    loop {
        let mut replies = Vec::new();
        while let Some((command, length)) = parse(&unread)? {
            unread.advance(length);
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            answer(&mut store, &mut transaction, command, &traffic).write(&mut replies);
        }
        stream.write_all(&replies).await?;
        if stream.read_buf(&mut unread).await? == 0 {
            return Ok(());
        }
    }
}

// --- The protocol ----------------------------------------------------------------------------------------------------

/// Its name and what follows.
type Command = Vec<Vec<u8>>;

/// More is no command of anybody who is known here.
const LONGEST: usize = 1 << 20;

/// The first whole command, and its length. `None` as long as more has to come.
fn parse(bytes: &[u8]) -> io::Result<Option<(Command, usize)>> {
    let mut at = 0;
    let Some(count) = number(bytes, &mut at, b'*')? else { return Ok(None) };
    let mut command = Vec::new();
    for _ in 0..count {
        let Some(length) = number(bytes, &mut at, b'$')? else { return Ok(None) };
        let Some(text) = bytes.get(at..at + length + 2) else { return Ok(None) };
        let Some(text) = text.strip_suffix(b"\r\n") else { return Err(malformed()) };
        command.push(text.to_vec());
        at += length + 2;
    }
    Ok(Some((command, at)))
}

/// A line of `kind` and a number.
fn number(bytes: &[u8], at: &mut usize, kind: u8) -> io::Result<Option<usize>> {
    let Some(end) = bytes[*at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = &bytes[*at..*at + end];
    *at += end + 2;
    let digits = line.strip_prefix(&[kind]).and_then(|digits| str::from_utf8(digits).ok());
    let number = digits.and_then(|digits| digits.parse().ok()).filter(|number| *number <= LONGEST);
    number.map(Some).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a command")
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    Simple(&'static str),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
    Array(Vec<Self>),
}

impl Reply {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Simple(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Self::Error(text) => out.extend_from_slice(format!("-ERR {text}\r\n").as_bytes()),
            Self::Integer(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Self::Bulk(None) => out.extend_from_slice(b"$-1\r\n"),
            Self::Bulk(Some(text)) => {
                out.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
            Self::Array(replies) => {
                out.extend_from_slice(format!("*{}\r\n", replies.len()).as_bytes());
                replies.iter().for_each(|reply| reply.write(out));
            }
        }
    }
}

// --- What it keeps ---------------------------------------------------------------------------------------------------

#[derive(Debug, Default)]
struct Store(HashMap<Vec<u8>, Hash>);

#[derive(Debug, Default)]
struct Hash {
    fields: HashMap<Vec<u8>, Vec<u8>>,
    expires: Option<Instant>,
}

impl Store {
    fn live(&mut self, key: &[u8], now: Instant) -> Option<&mut Hash> {
        if self.0.get(key)?.expires.is_some_and(|expires| expires <= now) {
            self.0.remove(key);
        }
        self.0.get_mut(key)
    }

    fn live_or_new(&mut self, key: &[u8], now: Instant) -> &mut Hash {
        let _ = self.live(key, now);
        self.0.entry(key.to_vec()).or_default()
    }
}

/// Answers one command, or puts it by until the end of its transaction.
fn answer(store: &mut Store, transaction: &mut Option<Vec<Command>>, command: Command, traffic: &Traffic) -> Reply {
    let name = command.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    match (&*name, transaction.take()) {
        (b"MULTI", None) => {
            *transaction = Some(Vec::new());
            Reply::Simple("OK")
        }
        (b"EXEC", Some(commands)) => {
            Reply::Array(commands.iter().map(|command| execute(store, command, traffic)).collect())
        }
        (_, Some(mut commands)) => {
            commands.push(command);
            *transaction = Some(commands);
            Reply::Simple("QUEUED")
        }
        (_, None) => execute(store, &command, traffic),
    }
}

fn execute(store: &mut Store, command: &Command, traffic: &Traffic) -> Reply {
    let now = Instant::now();
    let words: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
    let Some((name, arguments)) = words.split_first() else { return unknown(b"") };
    match (&*name.to_ascii_uppercase(), arguments) {
        (b"PING", []) => Reply::Simple("PONG"),
        // Libraries introduce themselves.
        (b"CLIENT", [b"SETINFO", ..]) => Reply::Simple("OK"),
        (b"HSET", [key, field, value]) => {
            let fields = &mut store.live_or_new(key, now).fields;
            Reply::Integer(fields.insert(field.to_vec(), value.to_vec()).is_none().into())
        }
        (b"HGET", [key, field]) => Reply::Bulk(store.live(key, now).and_then(|hash| hash.fields.get(*field).cloned())),
        (b"HINCRBY", [key, field, by]) => {
            let fields = &mut store.live_or_new(key, now).fields;
            let value = fields.get(*field).map_or(Some(0), |value| integer(value));
            match value.zip(integer(by)).and_then(|(value, by)| value.checked_add(by)) {
                Some(sum) => {
                    fields.insert(field.to_vec(), sum.to_string().into_bytes());
                    Reply::Integer(sum)
                }
                None => Reply::Error("value is not an integer or out of range".to_owned()),
            }
        }
        (b"EXPIRE", [key, seconds]) => match (store.live(key, now), integer(seconds)) {
            (Some(hash), Some(seconds)) => {
                hash.expires = Some(now + Duration::from_secs(seconds.try_into().unwrap_or(0)));
                Reply::Integer(1)
            }
            (None, Some(_)) => Reply::Integer(0),
            (_, None) => Reply::Error("value is not an integer or out of range".to_owned()),
        },
        (b"DEL", [key]) => {
            let was_there = store.live(key, now).is_some();
            store.0.remove(*key);
            Reply::Integer(was_there.into())
        }
        (b"DBSIZE", []) => {
            store.0.retain(|_, hash| hash.expires.is_none_or(|expires| expires > now));
            Reply::Integer(store.0.len() as i64)
        }
        (b"INFO", [b"stats"]) => {
            let (input, output) = (traffic.read(), traffic.written());
            let stats = format!("total_net_input_bytes:{input}\r\ntotal_net_output_bytes:{output}\r\n");
            Reply::Bulk(Some(stats.into_bytes()))
        }
        (name, _) => unknown(name),
    }
}

fn unknown(name: &[u8]) -> Reply {
    Reply::Error(format!("unknown command or number of arguments: {}", String::from_utf8_lossy(name)))
}

fn integer(text: &[u8]) -> Option<i64> {
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use redis::AsyncCommands;

    use super::*;

    #[test]
    fn commands_are_read_whole_however_they_come() {
        let bytes = b"*2\r\n$4\r\nHGET\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n";
        for cut in 0..20 {
            assert!(parse(&bytes[..cut]).unwrap().is_none(), "{cut}");
        }
        let (command, length) = parse(bytes).unwrap().unwrap();
        assert_eq!((command, length), (vec![b"HGET".to_vec(), Vec::new()], 20));
        assert_eq!(parse(&bytes[20..]).unwrap().unwrap(), (vec![b"PING".to_vec()], 14));
    }

    #[test]
    fn what_is_no_command_ends_the_connection() {
        for bytes in ["PING\r\n", "*x\r\n", "*-1\r\n", "*1\r\n:3\r\n", "*1\r\n$1\r\nabc\r\n", "*9999999\r\n"] {
            assert!(parse(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }

    /// The library that the session app uses, and its commands.
    #[tokio::test]
    async fn the_library_finds_what_it_would_find_in_redis() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("redis://{}/", listener.local_addr().unwrap());
        tokio::spawn(serve(listener));
        let mut client = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
        client.ping::<()>().await.unwrap();
        assert_eq!(client.hget::<_, _, Option<String>>("ann", "user").await.unwrap(), None);

        let mut begin = redis::pipe();
        begin.atomic().hset("ann", "user", "Ann").ignore().hset("ann", "visits", 3).ignore().expire("ann", 60).ignore();
        begin.query_async::<()>(&mut client).await.unwrap();
        assert_eq!(client.hget::<_, _, Option<String>>("ann", "user").await.unwrap().as_deref(), Some("Ann"));
        let mut count = redis::pipe();
        count.atomic().hincr("ann", "visits", 1).expire("ann", 60).ignore();
        assert_eq!(count.query_async::<(u64,)>(&mut client).await.unwrap(), (4,));
        client.hset::<_, _, _, ()>("bob", "user", "Bob").await.unwrap();
        let keys = redis::cmd("DBSIZE").query_async::<u64>(&mut client).await.unwrap();
        assert_eq!(keys, 2);

        // What expires at once is not there any more.
        client.expire::<_, ()>("bob", 0).await.unwrap();
        assert_eq!(client.hget::<_, _, Option<String>>("bob", "user").await.unwrap(), None);
        client.del::<_, ()>("ann").await.unwrap();
        assert_eq!(redis::cmd("DBSIZE").query_async::<u64>(&mut client).await.unwrap(), 0);
        assert!(redis::cmd("KEYS").arg("*").query_async::<Vec<String>>(&mut client).await.is_err());

        let stats: String = redis::cmd("INFO").arg("stats").query_async(&mut client).await.unwrap();
        let again: String = redis::cmd("INFO").arg("stats").query_async(&mut client).await.unwrap();
        assert_ne!(stats, again, "the first one was counted, too");
    }
}

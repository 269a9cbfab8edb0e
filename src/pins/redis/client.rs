//! One connection to the store, made ready: encrypted, authenticated, hearing of moves, and known to take writes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use std::{fs, io};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, ProtocolVersion, PushInfo, PushKind,
    RedisError, Value,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::value;
use crate::pins::{PinKey, Record};
use crate::tls::provider;

/// Where the store is, and how to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::pins) struct Settings {
    /// `redis://` or `rediss://`.
    pub(in crate::pins) url: Arc<str>,
    /// Read at every connect, so that a new password needs no reload.
    pub(in crate::pins) password_file: Option<PathBuf>,
}

impl Settings {
    fn connection_info(&self) -> Result<ConnectionInfo, ConnectError> {
        let info = self.url.as_ref().into_connection_info().map_err(ConnectError::Settings)?;
        // Moves are heard on the connection that carries the commands, which only this version of the protocol can do.
        let mut redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        if let Some(file) = &self.password_file {
            redis = redis.set_password(password(file)?);
        }
        Ok(info.set_redis_settings(redis))
    }

    /// Host and port for the log: the URL may hold a password.
    pub(super) fn address(&self) -> String {
        let info = self.url.as_ref().into_connection_info();
        info.map_or_else(|_| String::from("unknown"), |info| info.addr().to_string())
    }
}

fn password(file: &Path) -> Result<String, ConnectError> {
    let read = fs::read_to_string(file);
    let text = read.map_err(|source| ConnectError::PasswordFile { file: file.to_owned(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A connection that is ready.
pub(super) struct Connected {
    pub(super) store: Store,
    pub(super) pushes: mpsc::Receiver<Push>,
    /// A move came in while there was no room for it, and is not known.
    pub(super) missed: Arc<AtomicBool>,
}

/// What the store says unasked.
#[derive(Debug)]
pub(super) enum Push {
    /// A pin has moved, or was removed (`None`).
    Moved { pool: String, key: PinKey, record: Option<Record> },
    /// The connection is gone.
    Lost,
}

/// Connects.
///
/// # Errors
/// Why the store cannot be used; bounded by [`CONNECT_TIMEOUT`].
pub(super) async fn connect(settings: &Settings) -> Result<Connected, ConnectError> {
    let info = settings.connection_info()?;
    timeout(CONNECT_TIMEOUT, ready(info)).await.map_err(|_| ConnectError::TimedOut)?
}

async fn ready(info: ConnectionInfo) -> Result<Connected, ConnectError> {
    // redis takes the process's default.
    provider::install();
    let (sender, pushes) = mpsc::channel(MOST_PUSHES);
    let missed = Arc::new(AtomicBool::new(false));
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_pipeline_buffer_size(PIPELINE)
        .set_push_sender({
            let missed = Arc::clone(&missed);
            move |info: PushInfo| {
                if let Some(push) = push(&info)
                    && sender.try_send(push).is_err()
                {
                    missed.store(true, Relaxed);
                }
                Ok::<(), RedisError>(())
            }
        });
    let channel: Arc<str> = format!("stickpin:1:{}:moved", info.redis_settings().db()).into();
    let client = redis::Client::open(info).map_err(ConnectError::Settings)?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    // Before anything is read, so that no move falls between.
    connection.subscribe(&*channel).await?;
    let mut store = Store { connection, script: "".into(), channel };
    store.load().await?;
    store.check().await?;
    Ok(Connected { store, pushes, missed })
}

fn push(info: &PushInfo) -> Option<Push> {
    match (&info.kind, &info.data[..]) {
        (PushKind::Disconnection, _) => Some(Push::Lost),
        (PushKind::Message, [_, Value::BulkString(text)]) => {
            let text = str::from_utf8(text).ok()?;
            let (key, record) = text.split_once(' ').unwrap_or((text, ""));
            let (pool, key) = value::parse_key(key)?;
            Some(Push::Moved { pool: pool.to_owned(), key, record: value::decode(record.as_bytes()) })
        }
        _ => None,
    }
}

/// The commands that are used. A clone shares the connection.
#[derive(Clone)]
pub(super) struct Store {
    connection: MultiplexedConnection,
    /// The script's hash, by which the store knows it.
    script: Arc<str>,
    channel: Arc<str>,
}

/// One call of the script.
pub(super) struct Settle {
    pub(super) key: String,
    /// Empty to remove the pin.
    pub(super) value: String,
    pub(super) lives: u32,
    pub(super) basis: String,
}

impl Store {
    /// The value under a key.
    pub(super) async fn get(mut self, key: String) -> Result<Option<Vec<u8>>, RedisError> {
        redis::cmd("GET").arg(key).query_async(&mut self.connection).await
    }

    /// The values under many keys.
    pub(super) async fn get_many(mut self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, RedisError> {
        redis::cmd("MGET").arg(keys).query_async(&mut self.connection).await
    }

    /// Settles many pins in one go. One answer each, in their order: what is stored, or the error of this one.
    pub(super) async fn settle(mut self, changes: Vec<Settle>, now: u32) -> Result<Vec<Value>, RedisError> {
        let answers = self.try_settle(&changes, now).await?;
        if !answers.iter().any(is_unknown_script) {
            return Ok(answers);
        }
        // Somebody has flushed the scripts. Settling twice does no harm: what is there already stays.
        self.load().await?;
        self.try_settle(&changes, now).await
    }

    async fn try_settle(&mut self, changes: &[Settle], now: u32) -> Result<Vec<Value>, RedisError> {
        let mut pipeline = redis::pipe();
        for Settle { key, value, lives, basis } in changes {
            pipeline.cmd("EVALSHA").arg(&*self.script).arg(1).arg(key).arg(value).arg(*lives).arg(basis);
            pipeline.arg(format!("{now:08x}")).arg(&*self.channel);
        }
        self.connection.send_packed_commands(&pipeline, 0, changes.len()).await
    }

    /// Whether the store still answers.
    pub(super) async fn ping(mut self) -> Result<(), RedisError> {
        redis::cmd("PING").exec_async(&mut self.connection).await
    }

    async fn load(&mut self) -> Result<(), RedisError> {
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async::<String>(&mut self.connection).await?;
        self.script = load.into();
        Ok(())
    }

    /// Runs the script once on a key of its own. A store that is loading, full, a read-only replica or closed to scripts
    /// takes connections like a good one, and must not be taken for one.
    async fn check(&mut self) -> Result<(), RedisError> {
        let nobody = Record { home: 0, pin: 0, instance: 0, issued: 0, refreshed: 0, detour: None };
        redis::cmd("EVALSHA")
            .arg(&*self.script)
            .arg(1)
            .arg(CHECK_KEY)
            .arg(value::encode(&nobody))
            .arg(CHECK_LIVES)
            .arg("learned")
            .arg("00000000")
            .arg(&*self.channel)
            .exec_async(&mut self.connection)
            .await
    }
}

fn is_unknown_script(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

/// Does this error concern the store as a whole, so that it is better left alone for a while?
pub(super) fn is_fatal(code: Option<&str>) -> bool {
    const WHOLE_STORE: [&str; 11] = [
        "LOADING",
        "READONLY",
        "OOM",
        "MISCONF",
        "BUSY",
        "MASTERDOWN",
        "NOREPLICAS",
        "NOAUTH",
        "NOPERM",
        "CLUSTERDOWN",
        "NOSCRIPT",
    ];
    // Without a code it was no answer of the store at all.
    code.is_none_or(|code| WHOLE_STORE.contains(&code))
}

/// Why the store cannot be used.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// The URL does not name a store.
    Settings(RedisError),
    /// The password cannot be read.
    PasswordFile { file: PathBuf, source: io::Error },
    /// It did not answer.
    TimedOut,
    /// It cannot be reached, or gave this answer.
    Store(RedisError),
    /// The connection broke.
    Lost,
}

impl ConnectError {
    /// One word for it; another word is worth another line in the log.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Settings(_) => "settings",
            Self::PasswordFile { .. } => "password_file",
            Self::Store(error) if is_authentication(error) => "authentication",
            Self::Store(error) if error.code().is_some() => "refused",
            Self::TimedOut | Self::Store(_) | Self::Lost => "unreachable",
        }
    }
}

fn is_authentication(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed || matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM"))
}

impl From<RedisError> for ConnectError {
    fn from(error: RedisError) -> Self {
        Self::Store(error)
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => write!(f, "the store's URL: {error}"),
            Self::PasswordFile { file, .. } => write!(f, "reading the password from {}", file.display()),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Store(error) if is_authentication(error) => {
                write!(f, "the store does not accept the user and password: {error}")
            }
            Self::Store(error) => error.fmt(f),
            Self::Lost => f.write_str("the connection broke"),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::PasswordFile { source, .. } => Some(source),
            // The text of the others is already told.
            Self::Settings(_) | Self::TimedOut | Self::Store(_) | Self::Lost => None,
        }
    }
}

const SCRIPT: &str = include_str!("settle.lua");

/// The key of [`Store::check`], and how many seconds it lives.
const CHECK_KEY: &str = "stickpin:1:check";
const CHECK_LIVES: u32 = 60;

/// For everything until the store is ready.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A store that takes longer for an answer is taken to be away.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Commands under way before the next one waits.
const PIPELINE: usize = 1024;

/// Moves that have come in and are not looked at yet.
const MOST_PUSHES: usize = 16_384;

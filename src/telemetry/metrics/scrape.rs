//! What one scrape shows, in plain words and numbers.

use std::sync::Arc;
use std::time::SystemTime;

use crate::telemetry::counters::PoolCounters;

/// Everything that one scrape shows.
#[derive(Debug)]
pub struct Scrape {
    /// In the order of the file.
    pub pools: Vec<PoolScrape>,
    /// Open client connections.
    pub listeners: Vec<ListenerScrape>,
    /// Reloads that took effect.
    pub reloads_ok: u64,
    /// Reloads that changed nothing.
    pub reloads_failed: u64,
    /// Lines of the access log that nobody will read.
    pub access_log_dropped: u64,
    /// When the process started.
    pub started: SystemTime,
    /// Version of the program.
    pub version: &'static str,
}

/// One pool.
#[derive(Debug)]
pub struct PoolScrape {
    /// Its name.
    pub name: Arc<str>,
    /// Its counters.
    pub counters: Arc<PoolCounters>,
    /// Whether health is ignored for spreading new clients.
    pub panicking: bool,
    /// In the order of the file.
    pub backends: Vec<BackendScrape>,
    /// Requests that wait for any of them.
    pub queued: u32,
    /// Its learned pins, where it has them.
    pub pin_store: Option<PinStoreScrape>,
    /// Where more backends are looked for.
    pub sources: Vec<SourceScrape>,
}

/// A source of backends of one pool.
#[derive(Debug)]
pub struct SourceScrape {
    /// The word for it.
    pub source: &'static str,
    /// Backends in its last good list.
    pub backends: usize,
    /// Looks that gave no list.
    pub failures: u64,
    /// When the last good list was had.
    pub last_success: Option<SystemTime>,
}

/// The learned pins of one pool.
#[derive(Debug)]
pub struct PinStoreScrape {
    /// Pins in memory.
    pub pins: usize,
    /// Pins that had to go for want of room.
    pub evictions: u64,
    /// The store that replicas share, where there is one.
    pub shared: Option<SharedStoreScrape>,
}

/// How things stand with the store that replicas share.
#[derive(Debug)]
pub struct SharedStoreScrape {
    /// Whether it is there.
    pub connected: bool,
    /// Changes that it has not got yet.
    pub pending: usize,
    /// Changes that it never got.
    pub dropped: u64,
    /// Lookups and moves that it did not answer in time.
    pub timeouts: u64,
}

/// One backend, its counters already added up.
#[derive(Debug)]
pub struct BackendScrape {
    /// Its name in the pool.
    pub name: Arc<str>,
    /// Replies by code label.
    pub replies: Vec<(String, u64)>,
    /// Connections opened.
    pub connections_new: u64,
    /// Requests sent over a connection that was already open.
    pub connections_reused: u64,
    /// Clients that used their pin here within the idle time.
    pub active_pins: u64,
    /// Requests whose reply has not fully ended.
    pub in_flight: u32,
    /// Those of them that are tunnels.
    pub tunnels: u32,
    /// Requests that wait for this very backend.
    pub queued: u32,
    /// Open connections, idle ones included.
    pub connections: u32,
    /// How often it was put out by its traffic, by cause.
    pub outliers: [(&'static str, u64); 3],
    /// Every state's word, and whether it is the current one.
    pub health: [(&'static str, bool); 4],
}

/// One listener.
#[derive(Debug)]
pub struct ListenerScrape {
    /// Its address.
    pub listener: String,
    /// Open client connections.
    pub connections: usize,
    /// Those of HTTP/2.
    pub http2_connections: usize,
    /// Connections of HTTP/2 that were ended for too many frames, by their kind.
    pub http2_floods: Vec<(&'static str, u64)>,
    /// TLS, where it speaks that.
    pub tls: Option<TlsScrape>,
}

/// TLS at one listener.
#[derive(Debug)]
pub struct TlsScrape {
    /// Handshakes: how they ended, whether they were shortened by a ticket, and how many.
    pub handshakes: Vec<(&'static str, bool, u64)>,
    /// Changes of files that took effect.
    pub files_ok: u64,
    /// Changes of files that could not.
    pub files_failed: u64,
    /// The first name of each certificate, and when it expires.
    pub expiries: Vec<(String, SystemTime)>,
}

//! Where backends come from besides the list in the file: DNS, a watched file, the admin API.
//!
//! One small task a source looks, and reports what it found; it decides nothing. Whoever reloads takes the reports into
//! the [`Lists`], merges them with the file's own backends, and publishes a snapshot when that changed anything. A source
//! that fails leaves its last good list in force, for as long as it takes.
//!
//! A backend is its name, as everywhere: a DNS address is its own name, so that the address of a pod that was replaced is
//! another backend; a target of SRV records is `target:port`, wherever it moves; the others are named by whoever wrote
//! them. One that appears moves no pin, and one that goes moves its own.

mod api;

mod dns;

mod file;

mod lists;

mod merge;

mod roster;

mod standing;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

pub use api::{Change, ChangeOrder, Refusal};
pub use lists::{Kept, Lists};
pub use standing::{Standing, Standings};

use crate::config::{self, Affinity, Backend, BackendsFrom, DnsRecord, DnsSource, Source};
use crate::drain;
use crate::proxy::snapshot::Published;

/// Reports that may wait to be taken; whoever looks waits then.
pub const QUEUE: usize = 16;

/// Lookups that are under way at once, so that very many pools are no burst for the name servers.
const LOOKUPS: usize = 32;

/// What a source was found to say.
#[derive(Debug)]
pub struct Found {
    /// The pool's name.
    pub pool: Arc<str>,
    /// Which of its sources.
    pub source: Source,
    /// What was looked at, in words: a report on something that is no longer asked for is not taken.
    pub subject: String,
    /// A list, or why there is none.
    pub outcome: Result<Answer, String>,
}

/// A good list.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What is in it.
    pub backends: Vec<Backend>,
    /// The same as text, to be kept over a restart.
    pub text: Arc<str>,
    /// A backend that so many answers in a row lack is removed.
    pub remove_after: u32,
}

/// What a pool's backends come from, each in words.
fn subjects(from: &BackendsFrom) -> impl Iterator<Item = (Source, String)> {
    let dns = from.dns.as_ref().map(|dns| (Source::Dns, dns_subject(dns)));
    let file = from.file.as_ref().map(|file| (Source::WatchedFile, file_subject(file)));
    file.into_iter().chain(dns)
}

fn file_subject(file: &Path) -> String {
    file.display().to_string()
}

fn dns_subject(DnsSource { name, record, .. }: &DnsSource) -> String {
    match record {
        DnsRecord::Addresses { ipv4, ipv6, port } => {
            let record = if *ipv4 && *ipv6 {
                "both"
            } else if *ipv6 {
                "aaaa"
            } else {
                "a"
            };
            format!("{record} {name} port {port}")
        }
        DnsRecord::Srv => format!("srv {name}"),
    }
}

/// Looks at the sources of whatever snapshot is published, until the drain of the control plane begins.
///
/// A source whose settings stay the same is looked at across reloads as if nothing had happened.
pub async fn run(published: Arc<Published>, base: PathBuf, finds: mpsc::Sender<Found>, mut drain: drain::Watcher) {
    // Subscribed before the first look, so that no publication falls between the two.
    let mut announced = published.announced();
    let lookups = Arc::new(Semaphore::new(LOOKUPS));
    let mut tasks: HashMap<(Arc<str>, Source), Task> = HashMap::new();
    loop {
        let wanted: HashMap<_, _> = published.load().pools.iter().flat_map(|pool| wanted(&pool.settings)).collect();
        tasks.retain(|key, task| wanted.get(key).is_some_and(|wanted| *wanted == task.looks_at));
        for ((pool, source), looks_at) in wanted {
            tasks.entry((Arc::clone(&pool), source)).or_insert_with(|| {
                let (finds, lookups) = (finds.clone(), Arc::clone(&lookups));
                let parse = Parse { affinity: looks_at.affinity.clone() };
                let handle = match looks_at.what.clone() {
                    What::Dns(dns) => tokio::spawn(dns::watch(pool, dns, parse, lookups, finds)),
                    What::File(file) => tokio::spawn(file::watch(pool, base.join(&file), file, parse, finds)),
                };
                Task { looks_at, handle }
            });
        }
        tokio::select! {
            changed = announced.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = drain.draining() => return,
        }
    }
}

/// Everything that makes a task what it is.
#[derive(Debug, PartialEq)]
struct LooksAt {
    what: What,
    /// Says which names a list may have.
    affinity: Affinity,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Dns(DnsSource),
    File(PathBuf),
}

fn wanted(pool: &config::Pool) -> impl Iterator<Item = ((Arc<str>, Source), LooksAt)> {
    let BackendsFrom { dns, file } = pool.backends_from.clone();
    let dns = dns.map(|dns| (Source::Dns, What::Dns(dns)));
    let file = file.map(|file| (Source::WatchedFile, What::File(file)));
    dns.into_iter().chain(file).map(|(source, what)| {
        let looks_at = LooksAt { what, affinity: pool.affinity.clone() };
        ((Arc::clone(&pool.name), source), looks_at)
    })
}

/// Reads lists for one pool.
#[derive(Debug)]
struct Parse {
    affinity: Affinity,
}

impl Parse {
    fn list(&self, file: &str, text: &str, source: Source) -> Result<Vec<Backend>, config::Problems> {
        config::parse_backends(file, text, &self.affinity, source)
    }
}

/// One source being looked at; ends when dropped.
#[derive(Debug)]
struct Task {
    looks_at: LooksAt,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

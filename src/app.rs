//! Puts everything together: binds addresses, starts the workers and the control plane, and stops them again.
//!
//! The only place that wires. Tests and the program start the same thing.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::config::{self, Address, Config, ListenOn};
use crate::control::admin::{self, ReloadCounters, ReloadRequest, Shared};
use crate::control::certificates::Certificates;
use crate::control::discovery::Lists;
use crate::control::reload::{self, ReloadError, Reloader};
use crate::control::{self, kept_backends, restore_orders};
use crate::drain;
use crate::pins::Stores;
use crate::pool::Registry;
use crate::privileges::{Account, PrivilegeError};
use crate::proxy::accept::inherited::Inherited;
use crate::proxy::accept::listener::{self, Inboxes, Listening, ListeningSocket, Trouble};
use crate::proxy::accept::socket_file::{self, SocketFile};
use crate::proxy::snapshot::{Lasting, Published, Snapshot};
use crate::proxy::worker;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::events::Events;

/// Reloads that may wait for their turn.
const RELOAD_QUEUE: usize = 16;

/// Orders that may wait to be kept.
const ORDER_QUEUE: usize = 16;

/// File descriptors for everything but clients and backends: sockets we listen on, probes, the admin endpoint, logs.
const OWN_DESCRIPTORS: usize = 24;

/// A bound by the limit of open files that is this low is worth saying.
const FEW_CONNECTIONS: usize = 1000;

/// How long the last lines of the access log may take to be written.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the program could not start.
#[derive(Debug)]
pub enum StartError {
    /// An address could not be bound.
    Bind {
        /// What it was for: `listeners[0]` or `admin`.
        key: String,
        /// The address.
        address: ListenOn,
        /// Why.
        source: io::Error,
    },
    /// Another user cannot be had.
    User(PrivilegeError),
    /// Keys, token or log could not be had.
    Prepare(ReloadError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { key, address, .. } => write!(f, "{key}: cannot listen on {address}"),
            Self::User(error) => error.fmt(f),
            Self::Prepare(error) => error.fmt(f),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Bind { source, .. } => Some(source),
            Self::User(error) => error.source(),
            Self::Prepare(error) => error.source(),
        }
    }
}

impl From<PrivilegeError> for StartError {
    fn from(error: PrivilegeError) -> Self {
        Self::User(error)
    }
}

impl From<ReloadError> for StartError {
    fn from(error: ReloadError) -> Self {
        Self::Prepare(error)
    }
}

/// Stickpin, bound to its addresses, not running yet.
#[derive(Debug)]
pub struct App {
    bound: Bound,
    admin: Option<(std::net::TcpListener, Option<String>)>,
    access_log: Arc<AccessLog>,
    events: Events,
    reloader: Reloader,
}

impl App {
    /// Binds every address, becomes the user that the configuration names, and as that one reads every file that it names,
    /// so that whatever a reload needs can be had; relative paths are relative to `base`.
    ///
    /// # Errors
    /// When an address is taken, or a file cannot be used. If there is a `user`, the process may have become that one.
    pub fn bind(config: Config, base: &Path) -> Result<Self, StartError> {
        let workers = workers(&config);
        let account = config.user.as_ref().map(Account::find).transpose()?;
        let bound = bind_listeners(&config, workers, account.as_ref())?;
        let admin = config.admin.as_ref().map(bind_admin).transpose()?;
        if let Some((account, user)) = account.zip(config.user.as_ref()) {
            account.become_it()?;
            tracing::info!(%user, "every address is bound; going on as this user");
        }
        Self::prepare(config, base, workers, bound, admin)
    }

    fn prepare(
        mut config: Config,
        base: &Path,
        workers: usize,
        bound: Bound,
        admin: Option<std::net::TcpListener>,
    ) -> Result<Self, StartError> {
        let user = config.user.clone();
        let as_user = |error: ReloadError| match (error, &user) {
            (ReloadError::Failed { what, source }, Some(user)) => {
                ReloadError::Failed { what: format!("{what} (as user {user})"), source }
            }
            (error, _) => error,
        };
        reload::load_roots(&mut config, base).map_err(as_user)?;
        if user.is_some() {
            reload::check_folders(&config, base).map_err(as_user)?;
        }
        let token = config.admin.as_ref().map(|admin| admin_token(admin, base)).transpose().map_err(as_user)?;
        let admin = admin.map(|listener| (listener, token.flatten()));
        let keys = reload::keys(&config, base, None).map_err(as_user)?;
        let access_log = AccessLog::start(&config.access_log)
            .map_err(ReloadError::failed(|| "opening the access log".to_owned()))
            .map_err(as_user)?;
        let access_log = Arc::new(access_log);
        let events = Events::default();
        let certificates = Certificates::load(&config, base, workers, events.clone()).map_err(as_user)?;
        let stores = Stores::start(&reload::pin_store(&config, base))
            .map_err(ReloadError::failed(|| "starting the pin store".to_owned()))
            .map_err(as_user)?;
        let lasting = Lasting {
            registry: Arc::new(Registry::telling(workers, events.clone())),
            stores: Arc::new(stores),
            gates: Arc::default(),
            tables: Arc::default(),
            told: Lasting::nothing_told(),
        };
        let state_dir = config.state_dir.as_ref().map(|state_dir| base.join(state_dir));
        let lists = Lists::restore(&kept_backends(state_dir.as_deref()), &config, events.clone());
        let published = Published::new(Snapshot::new(&lists.merged(&config), &keys, &lasting, 1, Instant::now()));
        let reloader = Reloader {
            file: None,
            base: base.to_owned(),
            config,
            keys,
            certificates,
            lasting,
            published: Arc::new(published),
            access_log: Arc::clone(&access_log),
            lists,
        };
        Ok(Self { bound, admin, access_log, events, reloader })
    }

    /// Reloads come from this file.
    #[must_use]
    pub fn reload_from(mut self, file: PathBuf) -> Self {
        self.reloader.file = Some(file);
        self
    }

    /// The addresses clients are accepted on, in the order of the file, real ports.
    pub fn listeners(&self) -> &[Address] {
        &self.bound.addresses
    }

    /// The address of the admin endpoint.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// Starts the workers and the control plane, each on a thread of its own.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(self) -> io::Result<Running> {
        let Self { bound: Bound { addresses, sockets, files }, admin, access_log, events, mut reloader } = self;
        let base = reloader.base.clone();
        let state_dir = reloader.config.state_dir.as_ref().map(|state_dir| base.join(state_dir));
        if let Some(state_dir) = &state_dir
            && restore_orders(state_dir, &reloader.published)
        {
            // Tables were built from the weights of the file.
            reloader.publish();
        }
        let (workers_drain, watcher) = drain::new();
        let (control_drain, control_watcher) = drain::new();
        let settings = &reloader.config.listeners;
        let tls = reloader.certificates.listeners();
        let most = most_connections(settings.len());
        let listeners: Arc<[(Listening, config::Listener)]> = addresses
            .iter()
            .zip(settings)
            .zip(&*tls)
            .map(|((address, settings), tls)| {
                let max_connections = settings.max_connections.min(most);
                if max_connections < settings.max_connections && max_connections < FEW_CONNECTIONS {
                    tracing::warn!(
                        listener = %address,
                        max_connections,
                        "the limit of open files allows few connections; raise it (ulimit -n, LimitNOFILE)"
                    );
                }
                let now = Instant::now();
                let listening = Listening {
                    address: address.clone(),
                    connections: Arc::default(),
                    max_connections,
                    trouble: Trouble::none(now),
                    header_trouble: Trouble::none(now),
                    http2: Arc::default(),
                    tls: tls.clone(),
                };
                (listening, settings.clone())
            })
            .collect();
        let (reload, reloads) = mpsc::channel(RELOAD_QUEUE);
        let (order, ordered) = mpsc::channel(ORDER_QUEUE);
        let (change, changes) = mpsc::channel(ORDER_QUEUE);
        let (settled, is_settled) = watch::channel(false);
        let shared = Shared {
            published: Arc::clone(&reloader.published),
            reload: reload.clone(),
            connections: listeners
                .iter()
                .map(|(listening, _)| {
                    let counts = (Arc::clone(&listening.connections), Arc::clone(&listening.http2));
                    (listening.address.to_string(), counts.0, counts.1)
                })
                .collect(),
            tls,
            reloads: Arc::new(ReloadCounters::default()),
            settled: is_settled,
            ordered: order,
            change,
            standings: reloader.lists.standings().clone(),
            events,
            access_log_dropped: access_log.dropped(),
            started: SystemTime::now(),
        };
        let mut running = Running {
            workers_drain,
            control_drain,
            workers: Vec::new(),
            control: None,
            reload,
            access_log: None,
            _files: files,
        };
        let (inboxes, inbox_ends) = Inboxes::new(sockets.len());
        for (index, (sockets, inbox)) in sockets.into_iter().zip(inbox_ends).enumerate() {
            let setup = worker::Setup {
                index,
                sockets,
                listeners: Arc::clone(&listeners),
                inboxes: inboxes.clone(),
                inbox,
                published: Arc::clone(&reloader.published),
                log: access_log.worker(Rng::new()),
                rng: Rng::new(),
                drain: watcher.clone(),
            };
            running.workers.push(spawn(format!("worker-{index}"), move || worker::run(setup))?);
        }
        let control = control::Setup {
            reloader,
            reloads,
            ordered,
            changes,
            admin,
            shared: Arc::new(shared),
            settled,
            state_dir,
            workers_drain: watcher,
            drain: control_watcher,
        };
        running.control = Some(spawn("control".to_owned(), move || control::run(control))?);
        running.access_log = Some(access_log);
        Ok(running)
    }
}

/// Stickpin at work. Dropping it stops at once.
#[derive(Debug)]
pub struct Running {
    workers_drain: drain::Trigger,
    control_drain: drain::Trigger,
    workers: Vec<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
    reload: mpsc::Sender<ReloadRequest>,
    access_log: Option<Arc<AccessLog>>,
    /// Unix sockets, which go last.
    _files: Vec<SocketFile>,
}

impl Running {
    /// Reads the configuration file again. Gives the number of the new generation.
    ///
    /// # Errors
    /// When anything is wrong with it; nothing was changed then.
    pub async fn reload(&self) -> Result<u64, ReloadError> {
        let stopping =
            || ReloadError::Failed { what: "reloading".to_owned(), source: "the process is stopping".into() };
        let (request, answer) = oneshot::channel();
        self.reload.send(request).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Accepts nothing more, and lets what is under way finish until the deadline. Returns at once.
    pub fn drain(&self, deadline: Duration) {
        self.workers_drain.drain(deadline, Instant::now());
    }

    /// Whether every worker has ended.
    pub fn has_ended(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Stops: finishes what is under way, until the deadline. Blocks until everything has ended.
    pub fn stop(mut self, deadline: Duration) {
        self.drain(deadline);
        self.join();
    }

    fn join(&mut self) {
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so; there is nothing left of it to stop.
            let _ = worker.join();
        }
        self.control_drain.stop();
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
        if let Some(access_log) = self.access_log.take().and_then(Arc::into_inner) {
            access_log.finish(LOG_TIMEOUT);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.workers_drain.stop();
        self.join();
    }
}

/// How many clients a listener may have so that there is a file descriptor left for the backend of each: raises the
/// process's limit as far as it may, and says so where it is the limit that counts.
fn most_connections(listeners: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let Some(descriptors) = limit.current else { return usize::MAX };
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    (descriptors.saturating_sub(OWN_DESCRIPTORS) / 2 / listeners.max(1)).max(1)
}

fn workers(config: &Config) -> usize {
    config.workers.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
}

/// Sockets that listen.
#[derive(Debug)]
struct Bound {
    /// In the order of the file, real ports.
    addresses: Vec<Address>,
    /// By worker, then by listener.
    sockets: Vec<Vec<ListeningSocket>>,
    /// Of those at a path.
    files: Vec<SocketFile>,
}

/// A socket for each worker and listener: one of its own where there is `SO_REUSEPORT`, or else one that all share.
fn bind_listeners(config: &Config, workers: usize, account: Option<&Account>) -> Result<Bound, StartError> {
    let mut bound = Bound { addresses: Vec::new(), sockets: Vec::new(), files: Vec::new() };
    bound.sockets.resize_with(workers, Vec::new);
    let needs_inherited = config.listeners.iter().any(|it| matches!(it.address, ListenOn::Inherited(_)));
    let mut inherited = needs_inherited.then(Inherited::from_env);
    for (index, settings) in config.listeners.iter().enumerate() {
        let failed =
            |source| StartError::Bind { key: format!("listeners[{index}]"), address: settings.address.clone(), source };
        let first = match (&settings.address, &mut inherited) {
            (ListenOn::Bound(Address::Ip(address)), _) => {
                // Whatever port the first worker's socket gets, the others share.
                if address.port() != 0 {
                    listener::look(*address).map_err(failed)?;
                }
                ListeningSocket::Ip(listener::bind(*address).map_err(failed)?)
            }
            (ListenOn::Bound(Address::Unix(path)), _) => {
                let (socket, file) = socket_file::bind(path, settings.mode).map_err(failed)?;
                if let Some((user, group)) = account.map(Account::ids) {
                    std::os::unix::fs::chown(path, Some(user), Some(group)).map_err(failed)?;
                }
                bound.files.push(file);
                ListeningSocket::Unix(socket)
            }
            (ListenOn::Inherited(name), Some(inherited)) => inherited.take(name).map_err(failed)?,
            (ListenOn::Inherited(_), None) => unreachable!("they were looked for"),
        };
        let address = first.address().map_err(failed)?;
        for sockets in bound.sockets.iter_mut().skip(1) {
            sockets.push(
                match (&settings.address, &address) {
                    (ListenOn::Bound(_), Address::Ip(address)) => listener::bind(*address).map(ListeningSocket::Ip),
                    (ListenOn::Bound(_) | ListenOn::Inherited(_), _) => first.another(),
                }
                .map_err(failed)?,
            );
        }
        // There is a worker, always.
        bound.sockets[0].push(first);
        bound.addresses.push(address);
    }
    for name in inherited.iter().flat_map(Inherited::left) {
        tracing::warn!(name, "a socket was passed that no listener takes (address: systemd:NAME)");
    }
    Ok(bound)
}

fn bind_admin(admin: &config::Admin) -> Result<std::net::TcpListener, StartError> {
    let address = ListenOn::Bound(admin.address.into());
    let failed = |source| StartError::Bind { key: "admin".to_owned(), address: address.clone(), source };
    let listener = std::net::TcpListener::bind(admin.address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

fn admin_token(admin: &config::Admin, base: &Path) -> Result<Option<String>, ReloadError> {
    let Some(file) = &admin.token_file else { return Ok(None) };
    let file = base.join(file);
    let what = || format!("reading the admin token in {}", file.display());
    reload::warn_if_open(&file, "admin token");
    admin::read_token(&file).map(Some).map_err(ReloadError::failed(what))
}

fn spawn(name: String, run: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.clone()).spawn(move || {
        if let Err(error) = run() {
            tracing::error!(thread = name, %error, "a thread could not do its work");
        }
    })
}

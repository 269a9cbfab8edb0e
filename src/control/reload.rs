//! A changed file becomes the next snapshot; on any error the old one stays, and it is said why.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{Access, access};
use tokio::time::Instant;

use super::certificates::Certificates;
use super::discovery::{Change, Found, Lists, Refusal};
use super::state_dir;
use crate::config::{self, AccessLogTarget, Config, Problems};
use crate::pool::Health;
use crate::proxy::affinity::KeyRing;
use crate::proxy::snapshot::{Lasting, Published, Snapshot};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::with_causes;
use crate::tls::backend as tls;

/// Why a file could not take effect.
#[derive(Debug)]
pub enum ReloadError {
    /// The file is wrong.
    Invalid(Problems),
    /// Something that it takes could not be had: the file itself, or one that it names.
    Failed {
        /// What was tried, as in `reading stickpin.yaml`.
        what: String,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ReloadError {
    /// For `map_err`: what was tried.
    pub fn failed<E: Into<Box<dyn Error + Send + Sync>>>(what: impl FnOnce() -> String) -> impl FnOnce(E) -> Self {
        |source| Self::Failed { what: what(), source: source.into() }
    }
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(problems) => problems.fmt(f),
            Self::Failed { what, .. } => f.write_str(what),
        }
    }
}

impl Error for ReloadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // Displayed already.
            Self::Invalid(_) => None,
            Self::Failed { source, .. } => Some(&**source),
        }
    }
}

/// Reads and checks a configuration file.
///
/// # Errors
/// When it cannot be read, or is wrong.
pub fn read(file: &Path) -> Result<Config, ReloadError> {
    let text = std::fs::read_to_string(file).map_err(ReloadError::failed(|| format!("reading {}", file.display())))?;
    Config::parse(&file.display().to_string(), &text).map_err(ReloadError::Invalid)
}

/// The cookie keys: of the file that the configuration names, else generated, and kept in the state directory when there
/// is one. `had` are keys generated before, for a process that has nowhere to keep them.
///
/// # Errors
/// When the file cannot be read or written, or is wrong.
pub fn keys(config: &Config, base: &Path, had: Option<&KeyRing>) -> Result<KeyRing, ReloadError> {
    let parse = |file: &Path, text: &str| {
        KeyRing::parse(text).map_err(ReloadError::failed(|| format!("reading the cookie keys in {}", file.display())))
    };
    if let Some(file) = &config.cookie_keys_file {
        let file = base.join(file);
        let text = std::fs::read_to_string(&file)
            .map_err(ReloadError::failed(|| format!("reading the cookie keys in {}", file.display())))?;
        warn_if_open(&file, "cookie keys");
        return parse(&file, &text);
    }
    if let Some(state_dir) = &config.state_dir {
        let file = base.join(state_dir).join(state_dir::COOKIE_KEYS_FILE);
        let text = state_dir::cookie_keys(&file)
            .map_err(ReloadError::failed(|| format!("keeping the cookie keys in {}", file.display())))?;
        return parse(&file, &text);
    }
    if let Some(had) = had {
        return Ok(had.clone());
    }
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|error| ReloadError::Failed {
        what: "generating a cookie key".to_owned(),
        source: error.to_string().into(),
    })?;
    tracing::warn!(
        "generated a cookie key that ends with this process; set cookie_keys_file, or state_dir, so that pins outlive a \
         restart and replicas understand each other's"
    );
    Ok(KeyRing::from_random(key))
}

/// Makes of the listeners that the file names those that can be had without binding: the ones there are, with the settings
/// that may change while they run, which are `tls`, `redirect_to_https` and `hsts`. Tells whether the file wants others.
fn keep_bound(bound: &[config::Listener], listeners: &mut Vec<config::Listener>) -> bool {
    let wanted = std::mem::take(listeners);
    let is_one = |old: &config::Listener, new: &config::Listener| {
        old.address == new.address && old.tls.is_some() == new.tls.is_some()
    };
    *listeners = (bound.iter().enumerate())
        .map(|(index, old)| {
            // First in its own place: port 0 may be there several times.
            let same_place = wanted.get(index).filter(|new| is_one(old, new));
            let Some(new) = same_place.or_else(|| wanted.iter().find(|new| is_one(old, new))) else {
                return old.clone();
            };
            // Workers go by what the listener began with.
            let offers_http2 = old.http2.is_some();
            let tls = new.tls.clone().map(|tls| config::Tls { offers_http2, ..tls });
            let (redirect_to_https, hsts) = (new.redirect_to_https.clone(), new.hsts.clone());
            config::Listener { tls, redirect_to_https, hsts, ..old.clone() }
        })
        .collect();
    *listeners != wanted
}

/// The pin store's settings, with its file where it is from here.
pub fn pin_store(config: &Config, base: &Path) -> config::PinStore {
    let mut settings = config.pin_store.clone();
    if let Some(file) = settings.redis.as_mut().and_then(|redis| redis.password_file.as_mut()) {
        *file = base.join(&*file);
    }
    settings
}

/// Reads the certificates that probes trust into the configuration, and warns of probes that trust anybody.
///
/// # Errors
/// When a file cannot be read, or holds no certificates.
pub fn load_roots(config: &mut Config, base: &Path) -> Result<(), ReloadError> {
    for pool in &mut config.pools {
        let Some(settings) = &mut pool.health.tls else { continue };
        if !settings.verify {
            tracing::warn!(
                pool = &*pool.name,
                "probes take any certificate (tls.verify: false): anybody in between can pretend to be a healthy backend"
            );
        }
        let Some(ca) = &mut settings.ca else { continue };
        let file = base.join(&ca.path);
        let what = || format!("reading the certificates in {}", file.display());
        let pem = std::fs::read(&file).map_err(ReloadError::failed(what))?;
        tls::roots(&pem).map_err(ReloadError::failed(what))?;
        ca.pem = pem.into();
    }
    Ok(())
}

/// What is wrong with the files that a configuration names, one problem each, with the key that names it. Writes nothing.
pub fn unusable_files(config: &Config, base: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(file) = &config.cookie_keys_file {
        let file = base.join(file);
        let parsed = std::fs::read_to_string(&file)
            .map_err(|error| error.to_string())
            .and_then(|text| KeyRing::parse(&text).map_err(|error| error.to_string()));
        if let Err(error) = parsed {
            problems.push(format!("cookie_keys_file: {}: {error}", file.display()));
        }
    }
    if let Some(file) = config.admin.as_ref().and_then(|admin| admin.token_file.as_ref()) {
        let file = base.join(file);
        if let Err(error) = super::admin::read_token(&file) {
            problems.push(format!("admin.token_file: {}: {error}", file.display()));
        }
    }
    if let Some(file) = pin_store(config, base).redis.and_then(|redis| redis.password_file)
        && let Err(error) = std::fs::read_to_string(&file)
    {
        problems.push(format!("pin_store.redis.password_file: {}: {error}", file.display()));
    }
    for pool in &config.pools {
        if let Some(ca) = pool.health.tls.as_ref().and_then(|settings| settings.ca.as_ref()) {
            let file = base.join(&ca.path);
            let read = std::fs::read(&file).map_err(|error| error.to_string());
            if let Err(error) = read.and_then(|pem| tls::roots(&pem).map_err(|error| with_causes(&error))) {
                let (pool, kind) = (&pool.name, pool.health.probe.as_str());
                problems.push(format!("pools.{pool}.health.{kind}.tls.ca_file: {}: {error}", file.display()));
            }
        }
        let Some(named) = &pool.backends_from.file else { continue };
        let (key, file) = (format!("pools.{}.backends_from.file", pool.name), base.join(named));
        let read = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()));
        let parse = |text: String| {
            config::parse_backends(&file.display().to_string(), &text, &pool.affinity, config::Source::WatchedFile)
                .map_err(|problems| problems.to_string())
        };
        if let Err(error) = read.and_then(parse) {
            problems.push(format!("{key}: {error}"));
        }
    }
    if let Some(state_dir) = &config.state_dir {
        let folder = base.join(state_dir);
        if folder.exists() && !folder.is_dir() {
            problems.push(format!("state_dir: {}: expected a folder", folder.display()));
        }
    }
    problems
}

/// Whether the folders that are written to can be: what a first order, or a log that is rotated, would find out too late.
///
/// # Errors
/// When the state directory cannot be written to.
pub fn check_folders(config: &Config, base: &Path) -> Result<(), ReloadError> {
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if let Some(folder) = config.state_dir.as_ref().map(|folder| base.join(folder)).filter(|folder| folder.exists()) {
        access(&folder, all).map_err(|error| ReloadError::Failed {
            what: format!("writing to the state directory {}", folder.display()),
            source: std::io::Error::from(error).into(),
        })?;
    }
    if let AccessLogTarget::File(file) = &config.access_log.target
        && let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty())
        && access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err()
    {
        tracing::warn!(folder = %folder.display(), "the access log cannot be begun anew here once it was rotated");
    }
    Ok(())
}

/// A secret that everybody can read, or even replace, is none.
pub fn warn_if_open(file: &Path, what: &str) {
    let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o007 != 0 {
        tracing::warn!(file = %file.display(), what, "a secret that every user of this machine can reach; chmod o-rwx");
    }
}

/// Whoever reloads: the only one that publishes snapshots after the first.
#[derive(Debug)]
pub struct Reloader {
    /// The file that is read again; `None` when the configuration did not come from one.
    pub file: Option<PathBuf>,
    /// What relative paths in it are relative to.
    pub base: PathBuf,
    /// The configuration in force.
    pub config: Config,
    /// The keys in force.
    pub keys: KeyRing,
    /// What TLS goes by.
    pub certificates: Certificates,
    /// What outlives each generation.
    pub lasting: Lasting,
    /// Where snapshots go.
    pub published: Arc<Published>,
    /// Opened again at each reload, so that its file can be rotated.
    pub access_log: Arc<AccessLog>,
    /// Backends that do not stand in the file.
    pub lists: Lists,
}

impl Reloader {
    /// Reads the file again and publishes what it says. Gives the number of the new generation.
    ///
    /// # Errors
    /// When anything is wrong with it; nothing was changed then.
    pub fn reload(&mut self) -> Result<u64, ReloadError> {
        let Some(file) = &self.file else {
            let source = "the configuration did not come from a file".into();
            return Err(ReloadError::Failed { what: "reloading".to_owned(), source });
        };
        let mut config = read(file)?;
        let has_other_listeners = keep_bound(&self.config.listeners, &mut config.listeners);
        load_roots(&mut config, &self.base)?;
        let keys = keys(&config, &self.base, Some(&self.keys))?;
        let certificates = self.certificates.prepare(&config.listeners)?;
        self.access_log
            .reopen(&config.access_log)
            .map_err(ReloadError::failed(|| "opening the access log".to_owned()))?;
        self.lasting
            .stores
            .configure(&pin_store(&config, &self.base))
            .map_err(ReloadError::failed(|| "starting another pin store".to_owned()))?;
        self.tell_what_needs_a_restart(&config, has_other_listeners);
        self.certificates.commit(certificates);
        self.lists.follow(&config);
        self.config = config;
        self.keys = keys;
        Ok(self.publish())
    }

    /// Publishes the configuration in force once more, for weights that tables were built from.
    pub fn publish(&mut self) -> u64 {
        self.lists.tell_left_out(&self.config);
        self.publish_merged(&self.lists.merged(&self.config))
    }

    /// Takes what a source of backends was found to say. Says whether there is something new to keep; nothing is published
    /// unless a pool's backends changed.
    pub fn take(&mut self, found: Found, now: SystemTime) -> bool {
        let unhealthy: HashSet<Arc<str>> = {
            let snapshot = self.published.load();
            let pools = snapshot.pools.iter().filter(|pool| pool.settings.name == found.pool);
            let members = pools.flat_map(|pool| &pool.members).map(|member| &member.backend);
            let unhealthy = members.filter(|backend| backend.standing().health == Health::Unhealthy);
            unhealthy.map(|backend| Arc::clone(&backend.id().name)).collect()
        };
        let has_changed = self.lists.take(found, |name| unhealthy.contains(name), now);
        if has_changed {
            self.publish_if_changed();
        }
        has_changed
    }

    /// Adds or removes a backend by order of the admin API.
    ///
    /// # Errors
    /// Why it was not done; nothing was changed then.
    pub fn change(&mut self, pool: &str, change: Change) -> Result<(), Refusal> {
        self.lists.change(&self.config, pool, change)?;
        self.publish_if_changed();
        Ok(())
    }

    fn publish_if_changed(&mut self) {
        self.lists.tell_left_out(&self.config);
        let merged = self.lists.merged(&self.config);
        let in_force = self.published.load();
        let in_force = in_force.pools.iter().map(|pool| &pool.settings.backends);
        if !in_force.eq(merged.pools.iter().map(|pool| &pool.backends)) {
            self.publish_merged(&merged);
        }
    }

    fn publish_merged(&self, merged: &Config) -> u64 {
        let generation = self.published.generation() + 1;
        let snapshot = Snapshot::new(merged, &self.keys, &self.lasting, generation, Instant::now());
        self.published.publish(snapshot);
        generation
    }

    fn tell_what_needs_a_restart(&self, new: &Config, has_other_listeners: bool) {
        let old = &self.config;
        let changed = [
            ("listeners", has_other_listeners),
            ("workers", old.workers != new.workers),
            ("pin_store.max_pins", old.pin_store.max_pins != new.pin_store.max_pins),
            ("pin_store.max_pins_per_client", old.pin_store.max_pins_per_client != new.pin_store.max_pins_per_client),
            ("admin", old.admin != new.admin),
            ("user", old.user != new.user),
            ("state_dir", old.state_dir != new.state_dir),
        ];
        for (key, _) in changed.into_iter().filter(|(_, is_changed)| *is_changed) {
            tracing::warn!(key, "changed in the file; it takes effect at the next start");
        }
    }
}

//! Certificates, keys and CAs of TLS listeners: read at start and at each reload, watched, and replaced while connections
//! go on.
//!
//! A file that changes is taken when it is whole and right; one that is not changes nothing and is told once. What is read
//! together (a certificate and its key, say) is taken together, and a mistake in one certificate does not keep another
//! from being renewed. Files are found by asking for their state every [`EVERY`]: that sees a symbolic link that was turned
//! elsewhere, and works on every file system.

mod watched;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};

use super::reload::{ReloadError, warn_if_open};
use crate::config::{self, CertificateFiles, Config, Tls};
use crate::telemetry::events::{Event, Events};
use crate::telemetry::with_causes;
use crate::tls::certificate::{Certificate, Validity};
use crate::tls::listener::{ClientCas, Material, Terms, TlsListener};
use crate::tls::ocsp::Staple;
use crate::tls::provider::provider;
use crate::tls::tickets::{TicketKeys, TicketRing};
use watched::{Look, Seen, Watched};

/// How often files are looked at.
pub const EVERY: Duration = Duration::from_secs(1);

/// Looks at the files now and then, apart from the control thread.
#[derive(Debug)]
pub struct Watcher {
    ticks: Interval,
    looking: Option<JoinHandle<Vec<Seen>>>,
}

impl Watcher {
    /// Begins with the next tick.
    pub fn new() -> Self {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, looking: None }
    }

    /// What was seen next, for [`Certificates::take`]. Safe to cancel.
    pub async fn next(&mut self, certificates: &Certificates) -> Vec<Seen> {
        loop {
            if let Some(looking) = &mut self.looking {
                let seen = looking.await;
                self.looking = None;
                if let Ok(seen) = seen {
                    return seen;
                }
            } else {
                self.ticks.tick().await;
                let looks = certificates.looks();
                self.looking = Some(tokio::task::spawn_blocking(|| looks.into_iter().map(Look::look).collect()));
            }
        }
    }

    /// The files are others now: what is being looked at is not to be taken.
    pub fn forget(&mut self) {
        self.looking = None;
    }
}

impl Default for Watcher {
    fn default() -> Self {
        Self::new()
    }
}

/// Every TLS listener's files and what was made of them.
#[derive(Debug)]
pub struct Certificates {
    base: PathBuf,
    /// By listener; `None` where it is plain HTTP.
    listeners: Vec<Option<Kept>>,
    events: Events,
}

/// One TLS listener.
#[derive(Debug)]
struct Kept {
    /// As it is called in messages: `listeners[1]`.
    name: String,
    settings: Tls,
    material: Material,
    files: Files,
    /// When keys of this process are replaced next.
    rotate_at: SystemTime,
    shared: Arc<TlsListener>,
}

/// The files of one listener.
#[derive(Debug)]
struct Files {
    /// In the order of the settings.
    certificates: Vec<Watched>,
    /// Each certificate's validity, as it was told last.
    told: Vec<Validity>,
    client_cas: Option<Watched>,
    ticket_keys: Option<Watched>,
}

/// What was read for one listener, before it takes effect.
#[derive(Debug)]
pub struct Prepared {
    settings: Tls,
    material: Material,
    terms: Terms,
    files: Files,
}

type Cause = Box<dyn Error + Send + Sync>;

/// A place among the files of a listener.
#[derive(Clone, Copy, Debug)]
enum Part {
    Certificate(usize),
    ClientCas,
    TicketKeys,
}

impl Certificates {
    /// Reads every file that the configuration's listeners name.
    ///
    /// # Errors
    /// When one cannot be used.
    pub fn load(config: &Config, base: &Path, workers: usize, events: Events) -> Result<Self, ReloadError> {
        let now = SystemTime::now();
        let mut listeners = Vec::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            let Some(settings) = &listener.tls else {
                listeners.push(None);
                continue;
            };
            let name = format!("listeners[{index}]");
            let Prepared { settings, material, terms, files } = prepare(settings, base, &name, None, now)?;
            tell_secrets(&settings, base);
            let shared = Arc::new(TlsListener::new(terms, &material, workers));
            let mut kept = Kept { rotate_at: next_rotation(&settings, now), name, settings, material, files, shared };
            kept.tell_all_remarks();
            kept.tell_validity(now);
            listeners.push(Some(kept));
        }
        Ok(Self { base: base.to_owned(), listeners, events })
    }

    /// What workers need, by listener.
    pub fn listeners(&self) -> Arc<[Option<Arc<TlsListener>>]> {
        self.listeners.iter().map(|kept| kept.as_ref().map(|kept| Arc::clone(&kept.shared))).collect()
    }

    /// Reads everything anew, for these listeners, which are those there are, with other settings perhaps.
    ///
    /// # Errors
    /// When a file cannot be used; nothing was changed.
    pub fn prepare(&self, listeners: &[config::Listener]) -> Result<Vec<Option<Prepared>>, ReloadError> {
        let now = SystemTime::now();
        let each = self.listeners.iter().zip(listeners).map(|(kept, listener)| match (kept, &listener.tls) {
            (Some(kept), Some(settings)) => prepare(settings, &self.base, &kept.name, Some(kept), now).map(Some),
            _ => Ok(None),
        });
        each.collect()
    }

    /// Puts what was prepared in force.
    pub fn commit(&mut self, prepared: Vec<Option<Prepared>>) {
        let now = SystemTime::now();
        for (kept, prepared) in self.listeners.iter_mut().zip(prepared) {
            let (Some(kept), Some(prepared)) = (kept, prepared) else { continue };
            tell_secrets(&prepared.settings, &self.base);
            if prepared.settings.session_tickets != kept.settings.session_tickets {
                kept.rotate_at = next_rotation(&prepared.settings, now).min(kept.rotate_at);
            }
            kept.settings = prepared.settings;
            kept.material = prepared.material;
            kept.files = prepared.files;
            kept.shared.publish(prepared.terms, &kept.material);
            kept.tell_all_remarks();
            kept.tell_validity(now);
        }
    }

    /// What is to be looked at, apart from this thread: a file system may not answer.
    pub fn looks(&self) -> Vec<Look> {
        self.listeners.iter().flatten().flat_map(|kept| kept.files.all().map(Watched::look)).collect()
    }

    /// Takes what was seen, in the order of [`Certificates::looks`]; does what is due at this time.
    pub fn take(&mut self, seen: Vec<Seen>, now: SystemTime) {
        let mut seen = seen.into_iter();
        for kept in self.listeners.iter_mut().flatten() {
            kept.rotate(now);
            let mut is_changed = false;
            for part in kept.files.parts() {
                if let Some(seen) = seen.next() {
                    is_changed |= kept.take(part, seen, now, &self.events);
                }
            }
            is_changed |= kept.tell_validity(now);
            if is_changed {
                kept.publish();
            }
        }
    }
}

impl Kept {
    /// Takes one part, if what was seen of it is new and right. Tells whether anything changed.
    fn take(&mut self, part: Part, seen: Seen, now: SystemTime, events: &Events) -> bool {
        let Some(watched) = self.files.part(part) else { return false };
        let Some(contents) = watched.news(seen) else { return false };
        let names = self.names(part);
        match contents.map_err(Into::into).and_then(|contents| self.read(part, &contents, now)) {
            Ok(()) => {
                if let Some(watched) = self.files.part(part) {
                    watched.accept();
                }
                self.shared.files_taken(true);
                tracing::info!(listener = self.name, files = names, "files of TLS changed and are in force");
                events.tell(|| Event::TlsFiles { listener: (*self.name).into(), files: names, result: Ok(()) });
                true
            }
            Err(error) => {
                let is_new = self.files.part(part).is_some_and(Watched::refuse);
                if is_new {
                    self.shared.files_taken(false);
                    let error = with_causes(&*error);
                    tracing::error!(
                        listener = self.name,
                        files = names,
                        error,
                        "files of TLS changed and cannot be used; what they held before stays in force"
                    );
                    events.tell(|| Event::TlsFiles { listener: (*self.name).into(), files: names, result: Err(error) });
                }
                false
            }
        }
    }

    fn read(&mut self, part: Part, contents: &[Vec<u8>], now: SystemTime) -> Result<(), Cause> {
        let mut material = self.material.clone();
        match part {
            Part::Certificate(index) => {
                let (old, old_staple) = &self.material.certificates[index];
                let read = not_worse(certificate(contents)?, Some(old), now)?;
                let staple = match staple(&read, contents, now) {
                    Some(Err(error)) => {
                        let file = self.settings.certificates[index].ocsp_file.as_deref();
                        tell_no_staple(&self.name, file, &*error);
                        // What was passed on so far is still right about the same certificate.
                        old_staple.clone().filter(|_| read.serial == old.serial)
                    }
                    staple => staple.and_then(Result::ok),
                };
                material.certificates[index] = (Arc::new(read), staple);
                self.files.told[index] = Validity::Valid;
            }
            Part::ClientCas => material.client_cas = Some(ClientCas::read(&contents[0])?),
            Part::TicketKeys => {
                let keys = ticket_keys(&contents[0])?;
                if let Some(ring) = &self.material.tickets {
                    ring.store(keys);
                }
            }
        }
        // Only what handshakes can go by is taken.
        Terms::new(&self.settings, &material)?;
        self.material = material;
        if let Part::Certificate(index) = part {
            self.tell_remarks(index);
        }
        Ok(())
    }

    fn publish(&self) {
        match Terms::new(&self.settings, &self.material) {
            Ok(terms) => self.shared.publish(terms, &self.material),
            Err(error) => tracing::error!(listener = self.name, error = with_causes(&*error), "TLS stays as it is"),
        }
    }

    /// Replaces the keys of this process when that is due. Workers see them at once.
    fn rotate(&mut self, now: SystemTime) {
        if now < self.rotate_at {
            return;
        }
        self.rotate_at = next_rotation(&self.settings, now);
        if let (None, Some(ring)) = (&self.files.ticket_keys, &self.material.tickets) {
            match random_secret() {
                Ok(secret) => ring.store(ring.load().rotated(&secret)),
                Err(error) => tracing::error!(listener = self.name, error, "the ticket keys could not be replaced"),
            }
        }
    }

    /// Says once when a certificate is not good (any more), and stops passing on OCSP responses that are out of date. Tells
    /// whether that changed what clients are shown.
    fn tell_validity(&mut self, now: SystemTime) -> bool {
        let mut is_changed = false;
        let files = self.settings.certificates.iter();
        for (((certificate, staple), told), files) in
            self.material.certificates.iter_mut().zip(&mut self.files.told).zip(files)
        {
            let file = files.cert_file.display();
            let validity = certificate.validity(now);
            if std::mem::replace(told, validity) != validity {
                let listener = &self.name;
                match validity {
                    Validity::Expired => {
                        tracing::error!(listener, %file, "the certificate has expired; clients refuse it")
                    }
                    Validity::NotYet => {
                        tracing::error!(listener, %file, "the certificate is not good yet; clients refuse it");
                    }
                    Validity::Valid => tracing::info!(listener, %file, "the certificate is good from now on"),
                }
            }
            if staple.as_ref().is_some_and(|staple| !staple.is_current(now)) {
                *staple = None;
                is_changed = true;
                tracing::warn!(listener = self.name, %file, "its OCSP response is out of date, and left out");
            }
        }
        is_changed
    }

    /// The one in force of these files.
    fn certificate_of(&self, files: &CertificateFiles) -> Option<&Certificate> {
        let place = self.settings.certificates.iter().position(|known| known.cert_file == files.cert_file)?;
        Some(&*self.material.certificates[place].0)
    }

    fn tell_all_remarks(&self) {
        (0..self.material.certificates.len()).for_each(|index| self.tell_remarks(index));
    }

    fn tell_remarks(&self, index: usize) {
        let file = self.settings.certificates[index].cert_file.display();
        for remark in &self.material.certificates[index].0.remarks {
            tracing::warn!(listener = self.name, %file, "{remark}");
        }
    }

    fn names(&self, part: Part) -> String {
        let names: Vec<String> = self.files.get(part).map_or_else(Vec::new, Watched::names);
        names.join(", ")
    }
}

impl Files {
    fn all(&self) -> impl Iterator<Item = &Watched> {
        self.certificates.iter().chain(&self.client_cas).chain(&self.ticket_keys)
    }

    /// In the order of [`Files::all`].
    fn parts(&self) -> Vec<Part> {
        let certificates = (0..self.certificates.len()).map(Part::Certificate);
        let client_cas = self.client_cas.iter().map(|_| Part::ClientCas);
        certificates.chain(client_cas).chain(self.ticket_keys.iter().map(|_| Part::TicketKeys)).collect()
    }

    fn get(&self, part: Part) -> Option<&Watched> {
        match part {
            Part::Certificate(index) => self.certificates.get(index),
            Part::ClientCas => self.client_cas.as_ref(),
            Part::TicketKeys => self.ticket_keys.as_ref(),
        }
    }

    fn part(&mut self, part: Part) -> Option<&mut Watched> {
        match part {
            Part::Certificate(index) => self.certificates.get_mut(index),
            Part::ClientCas => self.client_cas.as_mut(),
            Part::TicketKeys => self.ticket_keys.as_mut(),
        }
    }
}

/// Reads all files of a listener. `had` is what the listener has so far.
fn prepare(
    settings: &Tls,
    base: &Path,
    name: &str,
    had: Option<&Kept>,
    now: SystemTime,
) -> Result<Prepared, ReloadError> {
    let mut certificates = Vec::new();
    let mut files = Files { certificates: Vec::new(), told: Vec::new(), client_cas: None, ticket_keys: None };
    for (index, paths) in settings.certificates.iter().enumerate() {
        let key = format!("{name}.tls.certificates[{index}]");
        let (watched, contents) = open(certificate_paths(paths, base), &key)?;
        let old = had.and_then(|had| had.certificate_of(paths));
        let read = certificate(&contents).and_then(|read| not_worse(read, old, now)).map_err(failed(&key, &watched))?;
        let staple = staple(&read, &contents, now);
        if let Some(Err(error)) = &staple {
            tell_no_staple(name, paths.ocsp_file.as_deref(), &**error);
        }
        certificates.push((Arc::new(read), staple.and_then(Result::ok)));
        files.certificates.push(watched);
        files.told.push(Validity::Valid);
    }
    let mut material = Material { certificates, client_cas: None, tickets: None };
    if let Some(file) = settings.client_certificates.ca_file() {
        let key = format!("{name}.tls.client_certificates.ca_file");
        let (watched, contents) = open(vec![base.join(file)], &key)?;
        material.client_cas = Some(ClientCas::read(&contents[0]).map_err(failed(&key, &watched))?);
        files.client_cas = Some(watched);
    }
    if let Some(tickets) = &settings.session_tickets {
        let had = had.filter(|had| had.files.ticket_keys.is_none()).and_then(|had| had.material.tickets.clone());
        material.tickets = Some(match (&tickets.keys_file, had) {
            (Some(file), _) => {
                let key = format!("{name}.tls.session_tickets.keys_file");
                let (watched, contents) = open(vec![base.join(file)], &key)?;
                let keys = ticket_keys(&contents[0]).map_err(failed(&key, &watched))?;
                files.ticket_keys = Some(watched);
                Arc::new(TicketRing::new(keys))
            }
            // Tickets that are out stay good over a reload.
            (None, Some(ring)) => ring,
            (None, None) => {
                let secret = random_secret().map_err(ReloadError::failed(|| "generating a ticket key".to_owned()))?;
                Arc::new(TicketRing::new(TicketKeys::from_random(&secret)))
            }
        });
    }
    let terms = Terms::new(settings, &material).map_err(ReloadError::failed(|| format!("{name}.tls")))?;
    Ok(Prepared { settings: settings.clone(), material, terms, files })
}

fn open(paths: Vec<PathBuf>, key: &str) -> Result<(Watched, Vec<Vec<u8>>), ReloadError> {
    let needed = needed(&paths);
    Watched::open(paths, needed).map_err(ReloadError::failed(|| key.to_owned()))
}

fn failed<E: Into<Cause>>(key: &str, watched: &Watched) -> impl FnOnce(E) -> ReloadError {
    let what = format!("{key}: {}", watched.names().join(", "));
    |source| ReloadError::Failed { what, source: source.into() }
}

/// Certificate, key, and OCSP response if there is one.
fn certificate_paths(files: &CertificateFiles, base: &Path) -> Vec<PathBuf> {
    [Some(&files.cert_file), Some(&files.key_file), files.ocsp_file.as_ref()]
        .into_iter()
        .flatten()
        .map(|file| base.join(file))
        .collect()
}

/// All but an OCSP response: a certificate is renewed without one, too.
fn needed(paths: &[PathBuf]) -> usize {
    paths.len().min(2)
}

fn certificate(contents: &[Vec<u8>]) -> Result<Certificate, Cause> {
    Ok(Certificate::read(&contents[0], &contents[1], &provider())?)
}

/// A certificate that has expired is better than none, but not better than one that has not.
fn not_worse(read: Certificate, old: Option<&Certificate>, now: SystemTime) -> Result<Certificate, Cause> {
    let was_good = old.is_some_and(|old| old.validity(now) == Validity::Valid);
    if was_good && read.validity(now) == Validity::Expired {
        return Err("the certificate has expired, and the one in force has not".into());
    }
    Ok(read)
}

/// A response that cannot be passed on is no reason to do without the certificate: clients ask the responder then.
fn staple(certificate: &Certificate, contents: &[Vec<u8>], now: SystemTime) -> Option<Result<Staple, Cause>> {
    contents.get(2).map(|der| Ok(Staple::read(der, &certificate.serial, now)?))
}

fn tell_no_staple(listener: &str, file: Option<&Path>, error: &(dyn Error + Send + Sync)) {
    let file = file.unwrap_or(Path::new("")).display();
    tracing::warn!(listener, %file, %error, "no OCSP response is passed on");
}

fn ticket_keys(content: &[u8]) -> Result<TicketKeys, Cause> {
    Ok(TicketKeys::parse(std::str::from_utf8(content)?)?)
}

fn tell_secrets(settings: &Tls, base: &Path) {
    for files in &settings.certificates {
        warn_if_open(&base.join(&files.key_file), "private key");
    }
    if let Some(file) = settings.session_tickets.as_ref().and_then(|tickets| tickets.keys_file.as_ref()) {
        warn_if_open(&base.join(file), "ticket keys");
    }
}

fn random_secret() -> Result<[u8; 32], String> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| error.to_string())?;
    Ok(secret)
}

fn next_rotation(settings: &Tls, now: SystemTime) -> SystemTime {
    let lifetime = settings.session_tickets.as_ref().map_or(Duration::from_secs(86_400), |tickets| tickets.lifetime);
    now + lifetime / 2
}

/// What is wrong with the files of TLS, and what is only odd, one sentence each. Changes and says nothing.
pub fn check(config: &Config, base: &Path) -> (Vec<String>, Vec<String>) {
    let now = SystemTime::now();
    let (mut problems, mut remarks) = (Vec::new(), Vec::new());
    let read = |paths: Vec<PathBuf>| Watched::open(paths, usize::MAX).map_err(|error| with_causes(&error));
    for (index, listener) in config.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        let name = format!("listeners[{index}].tls");
        for (index, files) in tls.certificates.iter().enumerate() {
            let key = format!("{name}.certificates[{index}]");
            let paths = certificate_paths(files, base);
            let shown = paths[0].display().to_string();
            let found = read(paths).and_then(|(_, contents)| {
                let read = certificate(&contents).map_err(|error| format!("{shown}: {}", with_causes(&*error)))?;
                Ok((staple(&read, &contents, now), read))
            });
            match found {
                Err(error) => problems.push(format!("{key}: {error}")),
                Ok((staple, certificate)) => {
                    match certificate.validity(now) {
                        Validity::Valid => {}
                        Validity::Expired => remarks.push(format!("{key}: {shown}: the certificate has expired")),
                        Validity::NotYet => remarks.push(format!("{key}: {shown}: the certificate is not good yet")),
                    }
                    remarks.extend(certificate.remarks.iter().map(|remark| format!("{key}: {shown}: {remark}")));
                    if let Some(Err(error)) = staple {
                        remarks.push(format!("{key}.ocsp_file: {error}"));
                    }
                }
            }
        }
        let mut check_one = |key: &str, file: &Path, read_it: &dyn Fn(&[u8]) -> Result<(), Cause>| {
            let path = base.join(file);
            let shown = path.display().to_string();
            let found = read(vec![path]).and_then(|(_, contents)| {
                read_it(&contents[0]).map_err(|error| format!("{shown}: {}", with_causes(&*error)))
            });
            if let Err(error) = found {
                problems.push(format!("{name}.{key}: {error}"));
            }
        };
        if let Some(file) = tls.client_certificates.ca_file() {
            check_one("client_certificates.ca_file", file, &|content| Ok(ClientCas::read(content).map(|_| ())?));
        }
        if let Some(file) = tls.session_tickets.as_ref().and_then(|tickets| tickets.keys_file.as_ref()) {
            check_one("session_tickets.keys_file", file, &|content| ticket_keys(content).map(|_| ()));
        }
    }
    (problems, remarks)
}

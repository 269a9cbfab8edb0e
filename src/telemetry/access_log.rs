//! The access log: workers write lines into buffers of their own, one thread writes the buffers out.
//!
//! A request never waits for the log. When the thread falls behind, whole batches are dropped and their lines counted.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

pub use super::access_line::Entry;
use super::access_line::LineWriter;
use crate::config::{self, AccessLogTarget};

/// A worker hands over its buffer at this size, or when told to [`WorkerLog::flush`].
const BATCH: usize = 32 * 1024;

/// Batches that wait for the writer; with long lines about 3 MiB.
const QUEUE: usize = 64;

/// `share` when every request is logged.
const ALL: u64 = 1 << 32;

type Output = Box<dyn Write + Send>;

struct Batch {
    text: Box<[u8]>,
    lines: u64,
}

/// The log as the control plane holds it. The writer ends when this and every [`WorkerLog`] is dropped.
#[derive(Debug)]
pub struct AccessLog {
    batches: SyncSender<Batch>,
    shared: Arc<Shared>,
    /// Disconnected when the writer has written everything.
    ended: Mutex<Receiver<()>>,
}

struct Shared {
    /// How many of 2^32 requests are logged.
    share: AtomicU64,
    dropped: Arc<AtomicU64>,
    /// Where the writer goes on with its next batch. Not in the queue, which may be full.
    next: Mutex<Option<Output>>,
}

impl AccessLog {
    /// Opens the target and starts the writer.
    ///
    /// # Errors
    /// The file could not be opened, or the thread not be started.
    pub fn start(settings: &config::AccessLog) -> io::Result<Self> {
        Self::write_to(open(&settings.target)?, share(settings))
    }

    fn write_to(output: Output, share: u64) -> io::Result<Self> {
        let (batches, received) = mpsc::sync_channel(QUEUE);
        let (end, ended) = mpsc::channel();
        let shared = Arc::new(Shared { share: AtomicU64::new(share), dropped: Arc::default(), next: Mutex::default() });
        let of_writer = Arc::clone(&shared);
        thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            write_batches(&received, output, &of_writer);
            drop(end);
        })?;
        Ok(Self { batches, shared, ended: Mutex::new(ended) })
    }

    /// The log as one worker holds it. `rng` decides who is in the sample.
    pub fn worker(&self, rng: fastrand::Rng) -> WorkerLog {
        WorkerLog {
            batches: self.batches.clone(),
            shared: Arc::clone(&self.shared),
            rng,
            line: LineWriter::default(),
            buffer: Vec::new(),
            lines: 0,
        }
    }

    /// Opens the target again, for a file that was rotated or settings that changed. Lines not yet written go there.
    ///
    /// # Errors
    /// The file could not be opened; everything stays as it was.
    pub fn reopen(&self, settings: &config::AccessLog) -> io::Result<()> {
        let output = open(&settings.target)?;
        *self.shared.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(output);
        self.shared.share.store(share(settings), Ordering::Relaxed);
        // Wakes an idle writer, so that it lets go of the old file. One with a full queue is awake.
        let _ = self.batches.try_send(Batch { text: Box::default(), lines: 0 });
        Ok(())
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.dropped)
    }

    /// Waits until every line is written, no longer than `timeout`. Blocks; every [`WorkerLog`] must be gone.
    pub fn finish(self, timeout: Duration) {
        drop(self.batches);
        // An error is the end of the writer, or the end of our patience with a reader that does not read.
        let _ = self.ended.into_inner().unwrap_or_else(PoisonError::into_inner).recv_timeout(timeout);
    }
}

fn open(target: &AccessLogTarget) -> io::Result<Output> {
    Ok(match target {
        AccessLogTarget::Off => Box::new(io::sink()),
        AccessLogTarget::Stdout => Box::new(io::stdout()),
        // Clients' addresses are nobody else's business.
        AccessLogTarget::File(path) => Box::new(OpenOptions::new().create(true).append(true).mode(0o640).open(path)?),
    })
}

fn share(settings: &config::AccessLog) -> u64 {
    match settings.target {
        AccessLogTarget::Off => 0,
        AccessLogTarget::Stdout | AccessLogTarget::File(_) => (settings.sample.fraction() * ALL as f64) as u64,
    }
}

fn write_batches(received: &Receiver<Batch>, mut output: Output, shared: &Shared) {
    let mut failing = false;
    for batch in received {
        if let Some(next) = shared.next.lock().unwrap_or_else(PoisonError::into_inner).take() {
            output = next;
        }
        match output.write_all(&batch.text).and_then(|()| output.flush()) {
            Ok(()) if batch.lines == 0 => {}
            Ok(()) if failing => {
                failing = false;
                tracing::info!("access log is written again");
            }
            Ok(()) => {}
            Err(error) => {
                shared.dropped.fetch_add(batch.lines, Ordering::Relaxed);
                if !failing {
                    tracing::warn!(%error, "access log cannot be written, lines are dropped");
                }
                failing = true;
            }
        }
    }
}

/// The log as one worker holds it. Dropping it hands over what is left.
pub struct WorkerLog {
    batches: SyncSender<Batch>,
    shared: Arc<Shared>,
    rng: fastrand::Rng,
    line: LineWriter,
    buffer: Vec<u8>,
    lines: u64,
}

impl WorkerLog {
    /// Writes one line, if this request is in the sample. Never blocks; allocates once a batch.
    pub fn log(&mut self, entry: &Entry<'_>) {
        // Relaxed: a request at the moment of a reload may go by the old share or the new.
        if u64::from(self.rng.u32(..)) >= self.shared.share.load(Ordering::Relaxed) {
            return;
        }
        self.line.write(&mut self.buffer, entry);
        self.lines += 1;
        if self.buffer.len() >= BATCH {
            self.flush();
        }
    }

    /// Hands over what there is. To be called every 100 ms or so, so that a quiet worker's lines are seen.
    pub fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        let batch = Batch { text: self.buffer.as_slice().into(), lines: self.lines };
        if self.batches.try_send(batch).is_err() {
            self.shared.dropped.fetch_add(self.lines, Ordering::Relaxed);
        }
        self.buffer.clear();
        self.lines = 0;
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl std::fmt::Debug for WorkerLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerLog").field("lines", &self.lines).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("share", &self.share).field("dropped", &self.dropped).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::IpAddr;
    use std::path::Path;
    use std::time::UNIX_EPOCH;

    use tokio::time::Instant;

    use super::*;
    use crate::config::Percent;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn lines_are_in_the_file_once_the_log_has_finished() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("access.log");
        let log = AccessLog::start(&to_file(&file, 100.0)).expect("started");
        let mut worker = log.worker(fastrand::Rng::with_seed(1));
        for _ in 0..1000 {
            worker.log(&request("/a"));
        }
        drop(worker);
        let dropped = log.dropped();
        log.finish(PATIENCE);
        assert_eq!((paths(&file).len(), dropped.load(Ordering::Relaxed)), (1000, 0));
    }

    #[test]
    fn a_rotated_file_is_left_for_a_new_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, rotated) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let log = AccessLog::start(&to_file(&file, 100.0)).expect("started");
        let mut worker = log.worker(fastrand::Rng::with_seed(1));
        worker.log(&request("/before"));
        worker.flush();
        let deadline = Instant::now() + PATIENCE;
        while paths(&file).is_empty() {
            assert!(Instant::now() < deadline, "the line was not written");
            thread::yield_now();
        }
        fs::rename(&file, &rotated).expect("renamed");
        log.reopen(&to_file(&file, 100.0)).expect("reopened");
        worker.log(&request("/after"));
        drop(worker);
        log.finish(PATIENCE);
        assert_eq!((paths(&rotated), paths(&file)), (vec!["/before".to_owned()], vec!["/after".to_owned()]));
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_leaves_the_log_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("access.log");
        let log = AccessLog::start(&to_file(&file, 100.0)).expect("started");
        log.reopen(&to_file(&folder.path().join("missing/access.log"), 0.0)).expect_err("no such folder");
        log.worker(fastrand::Rng::with_seed(1)).log(&request("/a"));
        log.finish(PATIENCE);
        assert_eq!(paths(&file), ["/a"]);
    }

    #[test]
    fn off_means_nothing_and_a_sample_means_its_share() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("access.log");
        let log = AccessLog::start(&config::AccessLog { target: AccessLogTarget::Off, ..to_file(&file, 100.0) })
            .expect("started");
        let mut worker = log.worker(fastrand::Rng::with_seed(1));
        worker.log(&request("/off"));
        assert!(worker.buffer.is_empty());

        log.reopen(&to_file(&file, 20.0)).expect("reopened");
        for _ in 0..2000 {
            worker.log(&request("/a"));
        }
        drop(worker);
        log.finish(PATIENCE);
        let lines = paths(&file).len();
        assert!((340..=460).contains(&lines), "{lines} of 2000 lines at 20 %");
    }

    #[test]
    fn a_full_queue_drops_batches_and_counts_their_lines() {
        let (entered, writing) = mpsc::channel();
        let (open, gate) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let output = Gated { entered, gate, written: Arc::clone(&written) };
        let log = AccessLog::write_to(Box::new(output), ALL).expect("started");
        let mut worker = log.worker(fastrand::Rng::with_seed(1));
        let mut send = |lines| {
            for _ in 0..lines {
                worker.log(&request("/a"));
            }
            worker.flush();
        };
        send(1);
        writing.recv_timeout(PATIENCE).expect("the writer holds the first batch");
        for _ in 0..QUEUE {
            send(1);
        }
        assert_eq!(log.dropped().load(Ordering::Relaxed), 0);
        send(2);
        send(3);
        assert_eq!(log.dropped().load(Ordering::Relaxed), 5);
        drop(open);
        drop(worker);
        log.finish(PATIENCE);
        let written = written.lock().expect("not poisoned");
        assert_eq!(written.split(|byte| *byte == b'\n').count() - 1, QUEUE + 1);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let log = AccessLog::write_to(Box::new(Broken), ALL).expect("started");
        log.worker(fastrand::Rng::with_seed(1)).log(&request("/a"));
        let dropped = log.dropped();
        log.finish(PATIENCE);
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }

    /// Says when it is written to, and waits for the gate.
    struct Gated {
        entered: mpsc::Sender<()>,
        gate: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let _ = self.entered.send(());
            let _ = self.gate.recv();
            self.written.lock().expect("not poisoned").extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn to_file(file: &Path, sample: f64) -> config::AccessLog {
        let sample = Percent::new(sample).expect("a percentage");
        config::AccessLog { target: AccessLogTarget::File(file.to_owned()), sample }
    }

    fn request(path: &str) -> Entry<'_> {
        Entry {
            at: UNIX_EPOCH,
            client: IpAddr::from([127, 0, 0, 1]),
            method: b"GET",
            host: None,
            path: path.as_bytes(),
            status: 200,
            duration: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
            pool: None,
            backend: None,
            placement: None,
            pin: None,
            attempts: 1,
        }
    }

    fn paths(file: &Path) -> Vec<String> {
        let text = fs::read_to_string(file).expect("readable");
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("valid JSON"));
        lines.map(|line| line["path"].as_str().expect("a path").to_owned()).collect()
    }
}

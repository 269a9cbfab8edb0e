//! Backends from a file that is looked at each second.
//!
//! Polling sees what notifications miss: a file that is renamed into place, a folder that a symbolic link swaps
//! (Kubernetes), a file system of another machine. It costs one `stat` a second. The file is read when its stamp changed;
//! one that is written in place, and may be half written, only when the stamp has stood for one look.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::{Answer, Found, Parse, file_subject};
use crate::config::Source;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file that changed so shortly before it was read may change again without another time stamp.
const SAME_STAMP: Duration = Duration::from_secs(2);

/// The parser takes no more; whatever is longer is not read to its end.
const LONGEST: u64 = (4 << 20) + 1;

/// Looks at a file again and again, for as long as somebody takes the reports. `named` is its path as it was written.
pub(super) async fn watch(pool: Arc<str>, file: PathBuf, named: PathBuf, parse: Parse, finds: mpsc::Sender<Found>) {
    let subject = file_subject(&named);
    let mut watch = Watch::default();
    // What the last report was about: a content, or what went wrong.
    let mut told: Option<Result<String, String>> = None;
    loop {
        let (path, mut looking) = (file.clone(), watch);
        // A disk, or worse a network, may take its time.
        let looked = tokio::task::spawn_blocking(move || {
            let content = look(&path, &mut looking, SystemTime::now());
            (looking, content)
        });
        let Ok((after, content)) = looked.await else { return };
        watch = after;
        if let Some(content) = content
            && told.as_ref() != Some(&content)
        {
            let outcome = match &content {
                Ok(text) => match parse.list(&subject, text, Source::WatchedFile) {
                    Ok(backends) => Ok(Answer { backends, text: text.as_str().into(), remove_after: 1 }),
                    Err(problems) => Err(problems.to_string()),
                },
                Err(error) => Err(error.clone()),
            };
            told = Some(content);
            let found =
                Found { pool: Arc::clone(&pool), source: Source::WatchedFile, subject: subject.clone(), outcome };
            if finds.send(found).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The content if it is time to read it, or what is wrong with the file.
fn look(path: &Path, watch: &mut Watch, now: SystemTime) -> Option<Result<String, String>> {
    // Opening a pipe would wait for its writer.
    let stamp = std::fs::metadata(path).and_then(|metadata| {
        if metadata.is_file() { Ok(Stamp::of(&metadata)) } else { Err(io::Error::other("expected a file")) }
    });
    let said = |error: io::Error| format!("reading {}: {error}", path.display());
    match stamp {
        Err(error) => {
            watch.lost();
            Some(Err(said(error)))
        }
        Ok(stamp) if watch.wants(stamp) => {
            let mut text = String::new();
            let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
            watch.has_read(stamp, now);
            Some(read.map(|_| text).map_err(said))
        }
        Ok(_) => None,
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    /// Device and number: another file under the same name has others.
    identity: (u64, u64),
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        let identity = (metadata.dev(), metadata.ino());
        Self { identity, length: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// When to read a file. Pure.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    /// At the last look.
    seen: Option<Stamp>,
    /// When it was last read.
    read: Option<Stamp>,
    /// It may have changed since without another stamp.
    is_fresh: bool,
}

impl Watch {
    /// Whether a file with this stamp should be read now.
    fn wants(&mut self, stamp: Stamp) -> bool {
        let before = self.seen.replace(stamp);
        if self.read == Some(stamp) {
            return self.is_fresh;
        }
        // Renamed into place it is whole; written in place it is once it has come to rest.
        before.is_none_or(|before| before == stamp || before.identity != stamp.identity)
    }

    fn has_read(&mut self, stamp: Stamp, now: SystemTime) {
        let age = stamp.modified.and_then(|modified| now.duration_since(modified).ok());
        self.is_fresh = age.is_none_or(|age| age < SAME_STAMP);
        self.read = Some(stamp);
    }

    fn lost(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// File number, length, and second of the last change.
    fn stamp((ino, length, modified): (u64, u64, u64)) -> Stamp {
        Stamp { identity: (1, ino), length, modified: Some(at(modified)) }
    }

    #[test]
    fn a_file_is_read_when_it_changed_and_has_come_to_rest() {
        // A look a second, from second 100 on; `r` where it is read.
        for (looks, expected) in [
            (&[(1, 5, 10), (1, 5, 10), (1, 5, 10)][..], "r.."),
            // Changed shortly before it was read: looked into once more, until that is over.
            (&[(1, 5, 99), (1, 5, 99), (1, 5, 99), (1, 5, 99)], "rr.."),
            // Another file in its place.
            (&[(1, 5, 10), (2, 5, 10), (2, 5, 10)], "rr."),
            // Written in place.
            (&[(1, 5, 10), (1, 6, 10), (1, 6, 10), (1, 6, 10)], "r.r."),
            (&[(1, 5, 10), (1, 5, 101), (1, 6, 102), (1, 7, 103), (1, 7, 103)], "r...r"),
        ] {
            let mut watch = Watch::default();
            let mut read = String::new();
            for (second, look) in (100..).zip(looks) {
                let wants = watch.wants(stamp(*look));
                if wants {
                    watch.has_read(stamp(*look), at(second));
                }
                read.push(if wants { 'r' } else { '.' });
            }
            assert_eq!(read, expected, "{looks:?}");
        }
    }

    #[test]
    fn a_file_that_vanished_is_an_error_and_read_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let (data, other, link) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("current"));
        fs::write(&data, "one").unwrap();
        fs::write(&other, "two").unwrap();
        symlink(&data, &link).unwrap();
        let mut watch = Watch::default();
        let later = SystemTime::now() + Duration::from_secs(60);
        let mut looked = |path: &Path| look(path, &mut watch, later);
        assert_eq!(looked(&link), Some(Ok("one".to_owned())));
        assert_eq!(looked(&link), None);
        // As Kubernetes does it.
        symlink(&other, dir.path().join("next")).unwrap();
        fs::rename(dir.path().join("next"), &link).unwrap();
        assert_eq!(looked(&link), Some(Ok("two".to_owned())));
        fs::remove_file(&other).unwrap();
        assert!(looked(&link).is_some_and(|looked| looked.is_err_and(|error| error.contains("current"))));
        fs::write(&other, "three").unwrap();
        assert_eq!(looked(&link), Some(Ok("three".to_owned())));
        assert!(looked(dir.path()).is_some_and(|looked| looked.is_err_and(|error| error.contains("expected a file"))));
        fs::write(&data, b"\xff").unwrap();
        assert!(looked(&data).is_some_and(|looked| looked.is_err()), "not text");
    }
}

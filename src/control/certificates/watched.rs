//! Files that are read together, and whether they have changed.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Nobody's certificates are longer; a device or a log named by mistake is not read to its end.
const LONGEST_FILE: u64 = 4 << 20;

/// What the file system says of a file; another one means that it has to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Some files, and what was made of them.
#[derive(Debug)]
pub(super) struct Watched {
    paths: Vec<PathBuf>,
    /// How many of them, from the first on, it does not go without; of another that is gone it is as if it were empty.
    needed: usize,
    stamps: Vec<Option<Stamp>>,
    /// Stands for the contents that are in force.
    in_force: [u8; 32],
    /// What was seen and could not be used, or is being looked at.
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    stamps: Vec<Option<Stamp>>,
    digest: [u8; 32],
    /// How often it was seen.
    times: u32,
}

/// A file could not be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reading {}", self.path.display())
    }
}

impl Error for Unreadable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// What to look at, and when it is worth reading.
#[derive(Debug)]
pub struct Look {
    paths: Vec<PathBuf>,
    needed: usize,
    known: Vec<Option<Stamp>>,
}

/// What was found: nothing new, or what is in the files now.
#[derive(Debug)]
pub struct Seen(Option<Found>);

#[derive(Debug)]
struct Found {
    stamps: Vec<Option<Stamp>>,
    contents: Result<Vec<Vec<u8>>, Unreadable>,
}

impl Look {
    /// Looks. May block.
    pub fn look(self) -> Seen {
        // Before the contents: what changes in between is read again.
        let stamps: Vec<_> = self.paths.iter().map(|path| stamp(path)).collect();
        if stamps == self.known {
            return Seen(None);
        }
        let contents = read_all(&self.paths, self.needed);
        Seen(Some(Found { stamps, contents }))
    }
}

impl Watched {
    /// Reads them for the first time, when all of them have to be there; later it goes without those beyond `needed`.
    pub(super) fn open(paths: Vec<PathBuf>, needed: usize) -> Result<(Self, Vec<Vec<u8>>), Unreadable> {
        let stamps = paths.iter().map(|path| stamp(path)).collect();
        let contents = read_all(&paths, paths.len())?;
        let in_force = digest(&contents);
        Ok((Self { paths, needed, stamps, in_force, pending: None }, contents))
    }

    /// How to look for something new.
    pub(super) fn look(&self) -> Look {
        Look { paths: self.paths.clone(), needed: self.needed, known: self.stamps.clone() }
    }

    /// What is new in what was seen.
    pub(super) fn news(&mut self, seen: Seen) -> Option<Result<Vec<Vec<u8>>, Unreadable>> {
        let Found { stamps, contents } = seen.0?;
        let digest = match &contents {
            Ok(contents) => digest(contents),
            Err(error) => crate::tls::digest(&[error.to_string().as_bytes(), error.source.to_string().as_bytes()]),
        };
        if digest == self.in_force {
            self.stamps = stamps;
            self.pending = None;
            return None;
        }
        let times = self.pending.as_ref().filter(|pending| pending.digest == digest).map_or(0, |pending| pending.times);
        self.pending = Some(Pending { stamps, digest, times: times + 1 });
        Some(contents)
    }

    /// The news are in force.
    pub(super) fn accept(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.stamps = pending.stamps;
            self.in_force = pending.digest;
        }
    }

    /// The news cannot be used. Tells whether that is to be said: not at first sight, because files that belong together
    /// are seldom replaced in one moment, and only once.
    pub(super) fn refuse(&mut self) -> bool {
        let Some(pending) = &self.pending else { return false };
        if pending.times >= 2 {
            // Not read again until it changes.
            self.stamps.clone_from(&pending.stamps);
        }
        pending.times == 2
    }

    /// For messages.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        names.dedup();
        names
    }
}

fn digest(contents: &[Vec<u8>]) -> [u8; 32] {
    crate::tls::digest(&contents.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// Of the file itself, whatever links lead to it; `None` when it is not there.
fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp {
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

fn read_all(paths: &[PathBuf], needed: usize) -> Result<Vec<Vec<u8>>, Unreadable> {
    let read = |(index, path): (usize, &PathBuf)| {
        let read = || {
            let found = fs::metadata(path)?;
            if !found.is_file() {
                return Err(io::Error::other("expected a file"));
            }
            if found.len() > LONGEST_FILE {
                return Err(io::Error::other("expected a file of at most 4 MiB"));
            }
            fs::read(path)
        };
        match read() {
            Err(_) if index >= needed => Ok(Vec::new()),
            read => read.map_err(|source| Unreadable { path: path.clone(), source }),
        }
    };
    paths.iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(watched: &mut Watched) -> Option<String> {
        let seen = watched.look().look();
        let news = watched.news(seen)?;
        Some(
            news.map_or_else(|error| error.to_string(), |contents| String::from_utf8(contents.concat()).expect("text")),
        )
    }

    #[test]
    fn what_changed_is_seen_until_it_is_taken_or_refused_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "one").expect("written");
        std::os::unix::fs::symlink("a", path("link")).expect("linked");
        let (mut watched, contents) = Watched::open(vec![path("link")], 1).expect("readable");
        assert_eq!(contents, [b"one"]);
        assert_eq!(see(&mut watched), None);

        // A link that is turned elsewhere.
        fs::write(path("b"), "two").expect("written");
        std::os::unix::fs::symlink("b", path("next")).expect("linked");
        fs::rename(path("next"), path("link")).expect("renamed");
        assert_eq!(see(&mut watched).as_deref(), Some("two"));
        watched.accept();
        assert_eq!(see(&mut watched), None);

        // Of the same length, within the same moment perhaps.
        fs::write(path("c"), "bad").expect("written");
        fs::rename(path("c"), path("b")).expect("renamed");
        assert_eq!(see(&mut watched).as_deref(), Some("bad"));
        assert!(!watched.refuse(), "it may be half of a change");
        assert_eq!(see(&mut watched).as_deref(), Some("bad"), "it is looked at again");
        assert!(watched.refuse());
        assert_eq!(see(&mut watched), None, "it was told");

        // Gone, and back as it was: nothing was lost, and there is nothing to tell.
        fs::remove_file(path("b")).expect("removed");
        assert!(see(&mut watched).is_some_and(|told| told.starts_with("reading ")));
        assert!(!watched.refuse());
        fs::write(path("b"), "two").expect("written");
        assert_eq!(see(&mut watched), None);
    }

    #[test]
    fn the_same_trouble_is_told_again_after_something_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        fs::write(&path, "good").expect("written");
        let (mut watched, _) = Watched::open(vec![path.clone()], 1).expect("readable");
        let mut told = 0;
        for content in ["bad", "bad", "bad!", "bad!", "bad!", "bad", "bad"] {
            fs::write(&path, content).expect("written");
            if see(&mut watched).is_some() && watched.refuse() {
                told += 1;
            }
        }
        assert_eq!(told, 3);
    }

    #[test]
    fn one_that_is_not_needed_has_to_be_there_at_first_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        fs::write(&paths[0], "one").expect("written");
        assert!(Watched::open(paths.to_vec(), 1).is_err());
        fs::write(&paths[1], "two").expect("written");
        let (mut watched, _) = Watched::open(paths.to_vec(), 1).expect("readable");
        fs::remove_file(&paths[1]).expect("removed");
        assert_eq!(see(&mut watched).as_deref(), Some("one"));
        fs::remove_file(&paths[0]).expect("removed");
        assert!(see(&mut watched).is_some_and(|told| told.starts_with("reading ")));
    }

    #[test]
    fn a_folder_and_a_file_that_is_not_there_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = |path: PathBuf| Watched::open(vec![path], 1).map(|_| ()).expect_err("no file").source.to_string();
        assert_eq!(error(folder.path().to_owned()), "expected a file");
        assert!(error(folder.path().join("none")).contains("No such file"));
    }
}

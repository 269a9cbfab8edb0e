//! What is kept in `state_dir` over restarts: a generated cookie key, the operator's orders, and backends that were found or
//! added.
//!
//! Files only. Every call blocks on the disk for a moment, so a busy runtime hands it to a blocking thread.

mod orders;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{error, fmt};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use orders::{Moment, Orders};

/// Name of the file for [`cookie_keys`].
pub const COOKIE_KEYS_FILE: &str = "cookie.keys";

/// Name of the file for the [`Orders`].
pub const ORDERS_FILE: &str = "orders.json";

/// Name of the file for backends that were found or added.
pub const BACKENDS_FILE: &str = "backends.json";

/// Reads the file of cookie keys; when there is none, makes one with a new random key, which only its owner may read.
///
/// Two processes that start at once end with the same key.
///
/// # Errors
/// When it can be neither read nor made.
pub fn cookie_keys(path: &Path) -> Result<String, Error> {
    let read = || fs::read_to_string(path);
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read.map_err(Error::io("reading", path)),
    }
    match make_keys(path) {
        Ok(keys) => {
            tracing::info!(path = %path.display(), "cookie key generated; replicas need the same file");
            Ok(keys)
        }
        // Somebody else was quicker, and theirs is the one that counts.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read().map_err(Error::io("reading", path)),
        Err(error) => Err(Error::io("making", path)(error)),
    }
}

fn make_keys(path: &Path) -> io::Result<String> {
    let keys = format!("{}\n", random_hex()?);
    create_folder(path)?;
    // Written whole under another name first: nobody ever reads half a key, not even after a power cut.
    let draft = with_suffix(path, &format!(".{}", random_hex()?));
    let linked = write_new(&draft, keys.as_bytes()).and_then(|()| fs::hard_link(&draft, path));
    // It may not have come into being.
    drop(fs::remove_file(&draft));
    linked?;
    sync_folder(path)?;
    Ok(keys)
}

/// Replaces a file whole: whoever reads it meanwhile, or after a crash, finds the old content or the new one.
///
/// # Errors
/// When it cannot be written; the old content is still there then.
pub fn save(path: &Path, content: &impl Serialize) -> Result<(), Error> {
    write_json(path, content).map_err(Error::io("writing", path))
}

fn write_json(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(content)?;
    text.push(b'\n');
    create_folder(path)?;
    let draft = with_suffix(path, ".new");
    // Left behind by a crash; each file is saved by one task only.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    write_new(&draft, &text)?;
    fs::rename(&draft, path)?;
    sync_folder(path)
}

/// Reads a file that was saved; the default when there is none.
///
/// # Errors
/// Each is to be told and survived: without what was kept Stickpin still serves. A file that makes no sense has been
/// renamed, so that the next [`save`] does not destroy what somebody may want to repair.
pub fn load<T: DeserializeOwned + Default>(path: &Path) -> Result<T, Error> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        read => read.map_err(Error::io("reading", path))?,
    };
    serde_json::from_slice(&text).map_err(|source| {
        let aside = with_suffix(path, ".bad");
        let kept_as = fs::rename(path, &aside).is_ok().then_some(aside);
        Error::Corrupt { path: path.to_owned(), kept_as, source }
    })
}

/// What went wrong with which file.
#[derive(Debug)]
pub enum Error {
    /// The file system refused.
    Io {
        /// What was attempted: `reading`, `writing` or `making`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content makes no sense.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What it was renamed to; `None` when that was not possible either.
        kept_as: Option<PathBuf>,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
}

impl Error {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, path, .. } => write!(f, "{doing} {}", path.display()),
            Self::Corrupt { path, kept_as: Some(aside), .. } => {
                write!(f, "{} makes no sense; set aside as {}", path.display(), aside.display())
            }
            Self::Corrupt { path, kept_as: None, .. } => write!(f, "{} makes no sense", path.display()),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Corrupt { source, .. } => Some(source),
        }
    }
}

/// 128 random bits.
fn random_hex() -> io::Result<String> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(format!("{:032x}", u128::from_be_bytes(key)))
}

/// Writes a file that is not there yet down to the disk, for its owner's eyes only.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder(path))
}

/// So that the file's name is on the disk too.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or(OsStr::new("state")).to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn some_orders() -> Orders {
        serde_json::from_str(r#"{ "shop": { "app1": { "admin_state": "disabled" } } }"#).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_cookie_key_is_made_once_and_then_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not").join("there").join(COOKIE_KEYS_FILE);
        let keys = cookie_keys(&path).unwrap();
        assert_eq!(keys.len(), 33);
        assert!(keys.trim_end().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{keys}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(cookie_keys(&path).unwrap(), keys);
        assert_eq!(names(path.parent().unwrap()), [COOKIE_KEYS_FILE]);
        assert_ne!(cookie_keys(&dir.path().join("other")).unwrap(), keys);
    }

    #[test]
    fn all_who_need_a_cookie_key_at_once_get_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(COOKIE_KEYS_FILE);
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| cookie_keys(&path).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    }

    #[test]
    fn an_error_names_the_file_and_keeps_its_cause() {
        let dir = tempfile::tempdir().unwrap();
        let in_a_file = dir.path().join("file").join(COOKIE_KEYS_FILE);
        fs::write(dir.path().join("file"), "").unwrap();
        for error in [
            cookie_keys(&in_a_file).unwrap_err(),
            cookie_keys(dir.path()).unwrap_err(),
            save(&in_a_file, &Orders::default()).unwrap_err(),
            load::<Orders>(dir.path()).unwrap_err(),
        ] {
            assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
            assert!(error.source().is_some_and(|source| source.is::<io::Error>()), "{error}");
        }
    }

    #[test]
    fn saved_orders_are_loaded_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not-there").join(ORDERS_FILE);
        assert_eq!(load::<Orders>(&path).unwrap(), Orders::default());
        for orders in [some_orders(), Orders::default(), some_orders()] {
            save(&path, &orders).unwrap();
            assert_eq!(load::<Orders>(&path).unwrap(), orders);
        }
        assert_eq!(names(path.parent().unwrap()), [ORDERS_FILE]);
    }

    #[test]
    fn a_draft_left_by_a_crash_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ORDERS_FILE);
        fs::write(dir.path().join("orders.json.new"), "{ half").unwrap();
        save(&path, &some_orders()).unwrap();
        assert_eq!(load::<Orders>(&path).unwrap(), some_orders());
    }

    #[test]
    fn a_corrupt_file_is_reported_and_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ORDERS_FILE);
        let rows: [&[u8]; 6] = [
            b"",
            b"{ half",
            b"[]",
            b"\xff\xfe",
            br#"{ "shop": { "app1": { "admin_state": "maint" } } }"#,
            br#"{ "shop": { "app1": { "weight": { "ordered": -1, "instead_of": 1 } } } }"#,
        ];
        for content in rows {
            fs::write(&path, content).unwrap();
            let error = load::<Orders>(&path).unwrap_err();
            assert!(matches!(error, Error::Corrupt { kept_as: Some(_), .. }), "{error:?}");
            assert!(error.to_string().ends_with("orders.json.bad"), "{error}");
            assert_eq!(fs::read(dir.path().join("orders.json.bad")).unwrap(), content);
            // Once only: the next start finds none.
            assert_eq!(load::<Orders>(&path).unwrap(), Orders::default());
        }
    }
}

//! Unix sockets to accept clients on: made where nobody listens, and removed when they are not needed any more.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::listener::BACKLOG;

/// How long somebody else may take between looking and listening, in looks and the time between them.
const TURNS: u32 = 500;
const TURN: Duration = Duration::from_millis(2);

/// The file of a socket; dropping it removes the file, unless another one has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody who was started meanwhile may listen there by now.
        if identity(&self.path).is_ok_and(|identity| identity == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            // The next start removes it, if it may.
            tracing::info!(path = %self.path.display(), %error, "the file of a Unix socket stays");
        }
    }
}

/// Listens at a path; a stale file there is removed first. Nobody gets in before the file has its permissions.
///
/// # Errors
/// When somebody listens there already, or something else than a socket is there.
pub fn bind(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let _turn = turn(path);
    remove_stale(path)?;
    let socket = stream()?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.to_owned(), identity: identity(path)? };
    // Before it listens, whoever connects is refused.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok((socket.into(), file))
}

/// Waits while another process looks and binds in the same folder, for until it listens its socket looks like a stale one.
/// Whoever holds the folder for longer is none of us, or stands still: then it goes on without.
#[expect(clippy::disallowed_methods, reason = "at the start, when there is no connection yet that could wait for it")]
fn turn(path: &Path) -> Option<File> {
    let folder = File::open(path.parent()?).ok()?;
    for _ in 0..TURNS {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(TURN),
            _ => return Some(folder),
        }
    }
    None
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file, and it is not a socket"));
    }
    match stream()?.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A queue that is full is somebody's, too.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there already")),
    }
}

fn stream() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Device, inode, and when it was made, since a number that is free is given away again. Permissions and owner are no part.
type Identity = (u64, u64, i64, i64);

fn identity(path: &Path) -> io::Result<Identity> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_stale_file_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let (listener, file) = bind(&path, 0o640).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(bind(&path, 0o660).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).expect("it still listens");

        // As after a crash: nobody listens, and nobody removed the file.
        drop(listener);
        let (second, second_file) = bind(&path, 0o660).unwrap();
        drop(file);
        UnixStream::connect(&path).expect("the first one's end leaves the second alone");
        drop((second, second_file));
        assert!(!path.exists(), "the last one removes it");

        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path, 0o660).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    /// Between binding and listening a socket looks like a stale one, and was taken for it: both thought that they listened.
    #[test]
    fn of_several_that_begin_at_once_one_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        for round in 0..200 {
            // Left behind.
            let socket = stream().unwrap();
            socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
            drop(socket);
            let start = Barrier::new(4);
            let begin = || {
                start.wait();
                bind(&path, 0o660)
            };
            let bound: Vec<_> = thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(begin));
                threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect()
            });
            assert_eq!(bound.len(), 1, "round {round}");
            UnixStream::connect(&path).expect("it listens");
            drop(bound);
            assert!(!path.exists(), "round {round}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_said() {
        assert_eq!(bind(Path::new("/nowhere/a.sock"), 0o660).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

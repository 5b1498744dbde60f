//! UNIX sockets in a folder whose path may be longer than a socket's address: they are reached by way of the folder's
//! descriptor.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Makes the socket `name` in `dir`, in the place of one that is there.
///
/// # Errors
/// The system's.
pub fn listen(dir: &Path, name: &str) -> Result<UnixListener> {
    let listen = || -> io::Result<UnixListener> {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let folder = File::open(dir)?;
        UnixListener::bind(path(&folder, name))
    };
    listen().with_context(|| format!("cannot make the socket {}", dir.join(name).display()))
}

/// Connects to the socket `name` in `dir`.
///
/// # Errors
/// It is not there, or nobody listens.
pub fn connect(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let folder = File::open(dir)?;
    UnixStream::connect(path(&folder, name))
}

fn path(folder: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(200));
        fs::create_dir(&long).unwrap();
        assert!(connect(&long, "control").is_err());
        for _ in 0..2 {
            let socket = listen(&long, "control").unwrap();
            connect(&long, "control").unwrap();
            drop(socket);
            assert_eq!(connect(&long, "control").unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }
}

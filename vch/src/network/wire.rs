//! Wires between two VMs: each packet is a datagram between two UNIX sockets, `STORE/wires/NAME.0` and `NAME.1`.
//!
//! Whose end is whose is told by locks, which QEMU inherits: so an end is free when its VM is gone, however it went. What is
//! sent while nobody has the other end is lost, as on any wire. Only the user can reach the folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// An end of a wire.
#[derive(Debug)]
pub struct End {
    /// For QEMU's `-netdev`.
    pub backend: String,
    /// For QEMU to hold: the lock, and the folder that the sockets are in.
    pub held: [OwnedFd; 2],
}

/// The folder of a store's wires.
pub fn folder(store: &Path) -> PathBuf {
    store.join("wires")
}

/// Takes the first end of the wire that is free.
///
/// # Errors
/// Both are taken; the store cannot be written.
pub fn join(store: &Path, name: &str) -> Result<End> {
    let folder = folder(store);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.with_context(|| format!("cannot make {}", folder.display()))?;
    for (mine, other) in [(0, 1), (1, 0)] {
        let path = folder.join(format!("{name}.{mine}.lock"));
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
        match fcntl(&lock, FcntlArg::F_OFD_SETLK(&crate::containers::WHOLE)) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
        // By way of its descriptor: the folder's path may be longer than a socket's address.
        let folder = File::open(&folder).with_context(|| format!("cannot open {}", folder.display()))?;
        let socket = |end: i32| format!("/proc/self/fd/{}/{name}.{end}", folder.as_raw_fd());
        // QEMU makes it anew.
        let _none = fs::remove_file(socket(mine));
        let backend = format!(
            "dgram,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            socket(mine),
            socket(other)
        );
        return Ok(End { backend, held: [lock.into(), folder.into()] });
    }
    bail!("two containerVMs have its ends already: a wire is between two")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wire_has_two_ends() {
        let store = tempfile::tempdir().unwrap();
        let one = join(store.path(), "db").unwrap();
        let other = join(store.path(), "db").unwrap();
        let path = |backend: &str, what: &str| {
            let (_, rest) = backend.split_once(&format!("{what}.path=")).unwrap();
            rest.split(',').next().unwrap().rsplit('/').next().unwrap().to_owned()
        };
        assert_eq!(
            (path(&one.backend, "local"), path(&one.backend, "remote")),
            ("db.0".into(), "db.1".into())
        );
        assert_eq!(
            (path(&other.backend, "local"), path(&other.backend, "remote")),
            ("db.1".into(), "db.0".into())
        );
        assert!(join(store.path(), "db").unwrap_err().to_string().contains("between two"));
        join(store.path(), "other").unwrap();
        drop(one);
        assert_eq!(path(&join(store.path(), "db").unwrap().backend, "local"), "db.0");
    }
}

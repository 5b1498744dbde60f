//! A container's name: held by one running containerVM of a user at a time.
//!
//! The hold is an abstract UNIX socket, which the kernel frees when the process is gone, however it went.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context, Result, bail};

/// The longest name, in bytes: an abstract socket's address has 107, and the prefix with the uid needs 23 of them.
const LONGEST: usize = 64;

/// A name, held until this is dropped.
#[derive(Debug)]
pub struct Name {
    _socket: UnixListener,
}

impl Name {
    /// Takes the name.
    ///
    /// # Errors
    /// It is not a name as docker allows them, or a running container has it.
    pub fn take(name: &str) -> Result<Self> {
        check(name)?;
        let address = format!("containervm/{}/{name}", nix::unistd::getuid());
        let address = SocketAddr::from_abstract_name(address)?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                bail!("the name {name:?} is taken by a running container")
            }
            Err(e) => Err(e).with_context(|| format!("cannot take the name {name:?}")),
        }
    }
}

/// Docker's rule: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
fn check(name: &str) -> Result<()> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !starts || !rest || !(2..=LONGEST).contains(&name.len()) {
        bail!(
            "{name:?} is no name for a container: 2 to {LONGEST} of a-z A-Z 0-9 _ . -, the first a letter or digit"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_held_once_and_freed_by_drop() {
        let name = format!("vch-test-{}", std::process::id());
        let held = Name::take(&name).unwrap();
        assert_eq!(
            Name::take(&name).unwrap_err().to_string(),
            format!("the name {name:?} is taken by a running container")
        );
        drop(held);
        Name::take(&name).unwrap();
    }

    #[test]
    fn names_are_checked() {
        for name in ["", "a", "-ab", "a b", "a/b", "é1", &"x".repeat(65)] {
            assert!(Name::take(name).is_err(), "{name:?} must be refused");
        }
        Name::take(&format!("{:064}", std::process::id())).unwrap();
    }
}

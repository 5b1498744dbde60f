//! Starts monitors: processes of their own, in sessions of their own.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::child;
use crate::containers::Container;

/// Starts the monitor of a new container, with the arguments of `vch run`, and gives the line to it.
///
/// # Errors
/// The system's.
pub fn start(arguments: impl IntoIterator<Item = OsString>) -> Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let arguments = [OsString::from("monitor")].into_iter().chain(arguments);
    spawn(arguments, Stdio::from(OwnedFd::from(theirs)))?;
    Ok(ours)
}

/// Starts another monitor for a container of `store` that has none.
///
/// # Errors
/// The system's.
pub fn adopt(store: &Path, container: &Container) -> Result<()> {
    let arguments: [&OsStr; 4] =
        ["adopt".as_ref(), "--store".as_ref(), store.as_ref(), container.record.id.as_ref()];
    spawn(arguments, Stdio::null())
}

fn spawn(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>, stdin: Stdio) -> Result<()> {
    let mut command = Command::new(std::env::current_exe().context("cannot find vch itself")?);
    command.args(arguments).stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null());
    let alone = || {
        nix::unistd::setsid()?;
        child::inherit_nothing()
    };
    // SAFETY: between fork and exec only setsid(2) and close_range(2) are called, which allocate nothing and take no lock.
    unsafe { command.pre_exec(alone) };
    command.spawn().map(drop).context("cannot start the container's monitor")
}

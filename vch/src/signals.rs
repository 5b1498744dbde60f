//! Signals as something to read, so that the one loop can wait for them.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Those that end us or are passed on to the container's process.
const CAUGHT: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];
/// Bytes of a `struct signalfd_siginfo` (signalfd(2)); its first field is the signal's number.
const RECORD: usize = 128;

/// Blocks the signals that mean something to us, for this thread and those it starts, and gives the descriptor that
/// they are read from instead: one that yields a `struct signalfd_siginfo` each.
///
/// # Errors
/// The system's.
pub fn catch() -> Result<OwnedFd> {
    let signals: SigSet = CAUGHT.into_iter().chain([Signal::SIGWINCH]).collect();
    signals.thread_block().context("cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let descriptor = SignalFd::with_flags(&signals, flags).context("cannot make a signalfd")?;
    Ok(descriptor.as_fd().try_clone_to_owned()?)
}

/// Reads one signal; none if the descriptor has none now, or has ended.
///
/// # Errors
/// The system's.
pub fn read(descriptor: &impl AsFd) -> Result<Option<Signal>> {
    let mut record = [0; RECORD];
    match nix::unistd::read(descriptor, &mut record) {
        Ok(RECORD) => {
            let [a, b, c, d, ..] = record;
            Ok(i32::try_from(u32::from_ne_bytes([a, b, c, d])).ok().and_then(|n| Signal::try_from(n).ok()))
        }
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(e) => Err(e).context("cannot read signals"),
    }
}

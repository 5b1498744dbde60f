//! poll(2), with names for what is waited for.

use std::time::Instant;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits until one of `interests` is ready or `deadline` has passed, and gives those that are ready.
///
/// # Errors
/// The system's.
pub fn ready<Source: Copy>(
    interests: &[(Source, PollFd<'_>)],
    deadline: Option<Instant>,
) -> Result<Vec<(Source, PollFlags)>> {
    let mut descriptors: Vec<_> = interests.iter().map(|(_, descriptor)| descriptor.clone()).collect();
    match poll(&mut descriptors, timeout(deadline)) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(Vec::new()),
        Err(e) => return Err(e).context("poll failed"),
    }
    let sources = interests.iter().map(|(source, _)| *source);
    let flags = descriptors.iter().map(|descriptor| descriptor.revents().unwrap_or(PollFlags::empty()));
    Ok(sources.zip(flags).filter(|(_, flags)| !flags.is_empty()).collect())
}

/// Rounded up, so that the deadline has passed when the wait is over.
fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
    i32::try_from(left).ok().and_then(|left| PollTimeout::try_from(left).ok()).unwrap_or(PollTimeout::MAX)
}

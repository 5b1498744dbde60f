//! The machine's power button, which QEMU's monitor presses (`system_powerdown`): it does what `vch stop` does. And what is left to
//! do after either: the container's process is killed when it has not ended in time.
//!
//! QEMU tells us of the button (event `POWERDOWN`), so the guest needs no driver for it.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::relay::Relay;
use crate::conversation::Phase;
use crate::exit::End;

/// How long a process may take to end when it is asked to, in seconds, if nobody says otherwise: docker's.
const GRACE: u64 = 10;

/// What the button has led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Button {
    /// It was not pressed.
    #[default]
    Up,
    /// It was, and nothing was done yet.
    Pressed,
    /// The process has got its stop signal.
    Done,
}

/// How long a process has from its stop signal until it is killed, if `seconds` are what was asked for; none: without end.
pub fn grace(seconds: Option<i64>) -> Option<Duration> {
    // As for docker, a negative number is no time at all to kill it.
    seconds.map_or(Some(GRACE), |seconds| u64::try_from(seconds).ok()).map(Duration::from_secs)
}

impl Relay<'_> {
    /// The process is killed when `grace` is over; if that was said before, at the earlier time.
    pub(super) fn kill_after(&mut self, grace: Duration) {
        let end = Instant::now().checked_add(grace);
        self.kill = self.kill.into_iter().chain(end).min();
    }

    /// Does the next step to the container's end, if it is time.
    pub(super) fn end_in_time(&mut self) -> Result<Option<End>> {
        let signal = if self.button == Button::Pressed {
            self.button = Button::Done;
            if let Some(grace) = grace(self.container.record.stop_timeout) {
                self.kill_after(grace);
            }
            self.container.record.stop_signal
        } else if self.kill.is_some_and(|end| end <= Instant::now()) {
            self.kill = None;
            libc::SIGKILL
        } else {
            return Ok(None);
        };
        // A container that is at its end needs no signal for it.
        if matches!(self.talk.phase(), Phase::Draining(_) | Phase::Stopping(_) | Phase::Failed(_)) {
            return Ok(None);
        }
        self.signal(signal, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_of_grace() {
        for (seconds, grace_of) in
            [(None, Some(10)), (Some(0), Some(0)), (Some(600), Some(600)), (Some(-1), None)]
        {
            assert_eq!(grace(seconds), grace_of.map(Duration::from_secs), "{seconds:?}");
        }
    }
}

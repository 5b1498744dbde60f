//! The machine's power button, which QEMU's monitor presses (`system_powerdown`): it does what `vch stop` does.
//!
//! QEMU tells us of it (event `POWERDOWN`), so the guest needs no driver for it.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::relay::Relay;
use crate::conversation::Phase;
use crate::exit::End;

/// How long the container's process has until it is killed: as with `vch stop`.
const GRACE: Duration = Duration::from_secs(10);

/// What the button has led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Button {
    /// It was not pressed.
    #[default]
    Up,
    /// It was, and nothing was done yet.
    Pressed,
    /// The process has got its stop signal, and is killed then.
    Grace(Instant),
    /// It was killed.
    Done,
}

impl Button {
    /// When it is time for the next step.
    pub(super) fn due(self) -> Option<Instant> {
        if let Self::Grace(end) = self { Some(end) } else { None }
    }
}

impl Relay<'_> {
    /// Does the next step, if it is time.
    pub(super) fn power_button(&mut self) -> Result<Option<End>> {
        let now = Instant::now();
        let signal = match self.button {
            Button::Pressed => {
                let record = &self.container.record;
                let grace = record.stop_timeout.map_or(GRACE, |seconds| Duration::from_secs(seconds.into()));
                self.button = Button::Grace(now + grace);
                record.stop_signal
            }
            Button::Grace(end) if end <= now => {
                self.button = Button::Done;
                libc::SIGKILL
            }
            Button::Up | Button::Grace(_) | Button::Done => return Ok(None),
        };
        // A container that is at its end needs no signal for it.
        if matches!(self.talk.phase(), Phase::Draining(_) | Phase::Stopping(_) | Phase::Failed(_)) {
            return Ok(None);
        }
        self.signal(signal, false)
    }
}

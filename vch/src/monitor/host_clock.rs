//! Whether the host's clock has been set, or the host has slept: then the guest's is wrong.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// Readable when it has.
#[derive(Debug)]
pub struct HostClock(TimerFd);

impl HostClock {
    /// Watches from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn watch() -> Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags).context("cannot watch the clock")?;
        let clock = Self(timer);
        clock.again()?;
        Ok(clock)
    }

    /// Waits for the next time.
    ///
    /// # Errors
    /// The system's.
    pub fn again(&self) -> Result<()> {
        // timerfd_create(2): such a timer ends with ECANCELED when the clock is set; which the kernel says after a sleep, too.
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        let never = Expiration::OneShot(TimeSpec::new(i64::MAX / 2_000_000_000, 0));
        match self.0.set(never, flags) {
            // Said of the last time, after the timer has been set (fs/timerfd.c, timerfd_setup).
            Err(Errno::ECANCELED) => Ok(()),
            set => set.context("cannot watch the clock"),
        }
    }

    /// To be polled.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

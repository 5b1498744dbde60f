//! When which step of the boot was done, and the guest's clock.

use crate::failure::{Context, Failure};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use protocol::{Stage, Step};
use std::time::Duration;

/// Steps that the host was not told of yet.
#[derive(Default)]
pub struct Timeline(Vec<Step>);

impl Timeline {
    /// Stamps a step that was just done with `CLOCK_BOOTTIME`.
    pub fn step(&mut self, name: &str) {
        self.0.push(Step { name: name.into(), at: now() });
    }

    /// Stamps a last step and hands over all that there are.
    pub fn take(&mut self, name: &str) -> Vec<Step> {
        self.step(name);
        std::mem::take(&mut self.0)
    }
}

/// `CLOCK_BOOTTIME` in nanoseconds.
pub fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| {
        let nanos = Duration::from(now).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    })
}

/// Sets the wall clock to `nanos` since 1970: the machine's own may have whole seconds only, or be wrong.
pub fn set_clock(nanos: u64) -> Result<(), Failure> {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(Duration::from_nanos(nanos)))
        .at(Stage::Spec, || "setting the clock")
}

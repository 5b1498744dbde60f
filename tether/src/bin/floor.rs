//! The least that a PID 1 can do: say when it was reached, and power off. `cargo xtask bench` compares tether with it.

use nix::sys::reboot::{RebootMode, reboot};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

fn main() {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    println!("floor: {}", now.as_nanos());
    let _drained = nix::sys::termios::tcdrain(std::io::stdout());
    let _off = reboot(RebootMode::RB_POWER_OFF);
}

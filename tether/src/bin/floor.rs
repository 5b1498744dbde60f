//! The least that a PID 1 can do: say when it was reached, and end the machine. `cargo xtask bench` compares tether with it.

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

fn main() {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    println!("floor: {}", now.as_nanos());
    let _drained = nix::sys::termios::tcdrain(std::io::stdout());
    let _mounted = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>);
    // As tether does.
    let can_power_off = std::path::Path::new("/sys/firmware/acpi").exists();
    let _off = reboot(if can_power_off { RebootMode::RB_POWER_OFF } else { RebootMode::RB_AUTOBOOT });
}

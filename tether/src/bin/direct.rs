//! A container started in the least way that there is, as libkrun does it: its one disk is the root, no scratch disk and no overlay,
//! nothing of the OCI config, no channel. `cargo xtask bench boot` compares tether with it. Says on the console when the program
//! was started.

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::time::{ClockId, clock_gettime};
use std::io;
use std::process::Command;
use std::time::Duration;

fn main() {
    if let Err(error) = run() {
        println!("direct: {error}");
    }
    let _drained = nix::sys::termios::tcdrain(io::stdout());
    let _off = reboot(RebootMode::RB_POWER_OFF);
}

fn run() -> io::Result<()> {
    const ROOT: &str = "/root";
    mounted("devtmpfs", "/dev")?;
    mount(Some("/dev/vdb"), ROOT, Some("erofs"), MsFlags::MS_RDONLY, None::<&str>)?;
    nix::unistd::chroot(ROOT)?;
    std::env::set_current_dir("/")?;
    for (kind, at) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        mounted(kind, at)?;
    }
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
    let status = Command::new("/bin/true").status()?;
    println!("direct: {} {status}", now.as_nanos());
    Ok(())
}

fn mounted(kind: &str, at: &str) -> io::Result<()> {
    Ok(mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)?)
}

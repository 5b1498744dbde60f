//! The end of the machine.

use crate::bounded::Call;
use nix::sys::reboot::{RebootMode, reboot};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whether this is a forked child, which is PID 1 of nothing but its own namespace.
static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// Whether a server that a filesystem is on may keep a sync from ending.
static MAY_HANG: AtomicBool = AtomicBool::new(false);
/// How long such a sync may take.
const SYNC: Duration = Duration::from_secs(10);

/// Says something on the console, which is there before the channel is and after it is gone. The host
/// reads it and shows it when the machine stops without a report.
pub fn say(what: &str) {
    // Not eprintln, which panics when it cannot write.
    let _lost = writeln!(std::io::stderr(), "tether: {what}");
    // A UART is slow, and power-off waits for nobody.
    let _drained = nix::sys::termios::tcdrain(std::io::stderr());
}

/// What the kernel has where it can power off. (Without ACPI it would only halt, and the machine stand still for ever.)
const ACPI: &str = "/sys/firmware/acpi";

/// Powers off; or restarts, where the machine cannot be powered off: the host takes that for the end, too. What is not written is lost.
pub fn off() -> ! {
    if std::path::Path::new(ACPI).exists() {
        let Err(errno) = reboot(RebootMode::RB_POWER_OFF);
        say(&format!("cannot power off: {}", errno.desc()));
    }
    let _restarting = reboot(RebootMode::RB_AUTOBOOT);
    loop {
        nix::unistd::pause();
    }
}

/// Says whether a sync may wait for another machine.
pub fn may_hang(may: bool) {
    MAY_HANG.store(may, Ordering::Relaxed);
}

/// Writes out what waits to be written, whatever filesystem it is on.
pub fn sync() {
    if !MAY_HANG.load(Ordering::Relaxed) {
        return nix::unistd::sync();
    }
    let call = Call::begin(|| {
        nix::unistd::sync();
        Ok(())
    });
    // What is not written by then never will be.
    let _outcome = call.map(|call| call.wait(SYNC));
}

/// A panic is a bug, but no reason for the kernel to panic with us: say it and power off. In a child
/// it ends just the child.
pub fn off_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("bug: {panic}"));
        if IN_CHILD.load(Ordering::Relaxed) {
            std::process::exit(127);
        }
        sync();
        off();
    }));
}

/// To be called first thing after a fork, in the child.
pub fn this_is_a_child() {
    IN_CHILD.store(true, Ordering::Relaxed);
}

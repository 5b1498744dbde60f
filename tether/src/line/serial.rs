//! A 16550 UART, the second: the first is the kernel's console. What is written while no host listens is lost.

use crate::failure::{Context, Failure};
use crate::uevents::{DEADLINE, Uevents};
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::termios::{BaudRate, ControlFlags, SetArg, cfmakeraw, cfsetspeed, tcgetattr, tcsetattr};
use protocol::Stage::Channel;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

const DEVICE: &str = "/dev/ttyS1";
/// What kind of UART it is; 0 is none, for the driver has more names than there are devices.
const KIND: &str = "/sys/class/tty/ttyS1/type";
/// How many bytes the UART collects before it interrupts; 16 is all that it has room for.
const COLLECTED: (&str, &str) = ("/sys/class/tty/ttyS1/rx_trig_bytes", "14");

nix::ioctl_none_bad!(
    /// Nobody else may open the terminal, but for processes with `CAP_SYS_ADMIN` (`ioctl_tty(2)`).
    be_alone,
    libc::TIOCEXCL
);

/// Whether the machine has it.
pub fn is_there() -> bool {
    fs::read_to_string(KIND).is_ok_and(|kind| kind.trim_end() != "0")
}

/// Waits for it, and opens it: each byte as it is, both ways.
pub fn open(events: &Uevents) -> Result<File, Failure> {
    events.wait_for(|| Ok(is_there().then_some(())))?.ok_or_else(|| {
        Failure::new(Channel, format!("no UART at {DEVICE} within {} s", DEADLINE.as_secs()))
    })?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
    let file = options.open(DEVICE).at(Channel, || format!("opening {DEVICE}"))?;
    let mut settings = tcgetattr(&file).at(Channel, || format!("reading the settings of {DEVICE}"))?;
    cfmakeraw(&mut settings);
    settings.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
    settings.control_flags -= ControlFlags::CRTSCTS | ControlFlags::HUPCL;
    cfsetspeed(&mut settings, BaudRate::B115200).at(Channel, || format!("setting the speed of {DEVICE}"))?;
    tcsetattr(&file, SetArg::TCSANOW, &settings).at(Channel, || format!("setting up {DEVICE}"))?;
    // SAFETY: TIOCEXCL has no argument.
    unsafe { be_alone(file.as_raw_fd()) }.at(Channel, || format!("having {DEVICE} alone"))?;
    let (setting, bytes) = COLLECTED;
    let _only_slower = fs::write(setting, bytes);
    Ok(file)
}

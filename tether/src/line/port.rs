//! A virtio-serial port. It keeps what was written to it until a host reads it; while none does, it counts as hung up.

use crate::failure::{Context, Failure};
use crate::uevents::{DEADLINE, Uevents};
use nix::fcntl::OFlag;
use protocol::Stage::Channel;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// As the kernel shows a console device's kind.
pub const VIRTIO_ID: &str = "0x0003";

/// The port's name, as the host gives it.
const PORT: &str = "org.containervm.channel";

/// Waits for the port to appear, and opens it.
pub fn open(events: &Uevents) -> Result<File, Failure> {
    let path = events.wait_for(|| Ok(find()))?.ok_or_else(|| {
        Failure::new(Channel, format!("no virtio-serial port named {PORT} within {} s", DEADLINE.as_secs()))
    })?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits());
    options.open(&path).at(Channel, || format!("opening {}", path.display()))
}

/// The device of the port named [`PORT`] (Documentation/ABI: `/sys/class/virtio-ports/*/name`).
fn find() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim_end() == PORT).then(|| PathBuf::from("/dev").join(port.file_name()))
    })
}

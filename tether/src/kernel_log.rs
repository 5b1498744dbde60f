//! What the kernel's log says about a process.

use nix::fcntl::OFlag;
use nix::libc;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// Whether the out-of-memory killer took the process with this PID (in tether's own namespace).
pub fn out_of_memory(pid: i32) -> bool {
    let killed = format!("Killed process {pid} (");
    let options =
        std::fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/kmsg");
    let Ok(mut log) = options else { return false };
    // Each read gives one record (Documentation/ABI/testing/dev-kmsg); EPIPE says that old ones were overwritten.
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(length) => {
                let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default());
                if text.contains(&killed) {
                    return true;
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return false,
        }
    }
}

//! What the kernel's log says about processes that memory ran out for.

use nix::fcntl::OFlag;
use nix::libc;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// The longest record, in bytes (Documentation/ABI/testing/dev-kmsg: a read gives one, of at most this).
const RECORD: usize = 8192;
/// Records that are read before others have their turn: a privileged container can write there as fast as it likes.
const AT_ONCE: usize = 64;

/// A process that the out-of-memory killer took.
#[derive(Debug, PartialEq, Eq)]
pub struct Victim {
    /// In tether's own namespace.
    pub pid: u32,
    /// As the kernel writes it, at most 16 bytes of which some may be escaped.
    pub name: String,
}

/// The log from some moment on.
pub struct KernelLog(File);

impl KernelLog {
    /// From now on. None if there is no log.
    pub fn from_now() -> Option<Self> {
        let mut log = open()?;
        log.0.seek(SeekFrom::End(0)).ok()?;
        Some(log)
    }

    /// To be polled.
    pub fn fd(&self) -> &File {
        &self.0
    }

    /// The victims among what has come, without waiting.
    pub fn victims(&mut self) -> Vec<Victim> {
        let mut record = [0; RECORD];
        let mut victims = vec![];
        for _ in 0..AT_ONCE {
            match self.0.read(&mut record) {
                Ok(length) => victims.extend(victim(record.get(..length).unwrap_or_default())),
                // Old records were overwritten.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        victims
    }
}

fn open() -> Option<KernelLog> {
    let options =
        std::fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/kmsg");
    options.ok().map(KernelLog)
}

/// What a record `LEVEL,NUMBER,TIME,FLAGS;TEXT` says of a victim. Only the kernel's own count: those of facility 0, in the bits
/// above the level's three.
fn victim(record: &[u8]) -> Option<Victim> {
    let text = String::from_utf8_lossy(record);
    let (head, text) = text.split_once(';')?;
    let level: u32 = head.split(',').next()?.parse().ok()?;
    let (_, rest) = text.split_once("Killed process ").filter(|_| level < 8)?;
    let (pid, rest) = rest.split_once(" (")?;
    let (name, _) = rest.rsplit_once(") total-vm:")?;
    Some(Victim { pid: pid.parse().ok()?, name: name.chars().take(64).collect() })
}

/// Whether the out-of-memory killer took the process with this PID (in tether's own namespace).
pub fn out_of_memory(pid: i32) -> bool {
    let Some(mut log) = open() else { return false };
    let mut record = [0; RECORD];
    loop {
        match log.0.read(&mut record) {
            Ok(length) => {
                let victim = victim(record.get(..length).unwrap_or_default());
                if victim.is_some_and(|victim| i32::try_from(victim.pid) == Ok(pid)) {
                    return true;
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn victims_are_the_kernels_own_word() {
        let of = |record: &str| victim(record.as_bytes()).map(|victim| (victim.pid, victim.name));
        let all =
            "3,512,90123,-;Out of memory: Killed process 77 (hungry) total-vm:9kB, anon-rss:1kB, UID:0\n";
        assert_eq!(of(all), Some((77, "hungry".into())));
        let group =
            "3,1,2,-;Memory cgroup out of memory: Killed process 8 (a) (b)) total-vm:9kB\n SUBSYSTEM=x\n";
        assert_eq!(of(group), Some((8, "a) (b)".into())));
        for other in [
            "12,512,90123,-;Out of memory: Killed process 77 (forged) total-vm:9kB",
            "3,512,90123,-;Out of memory: Killed process -1 (x) total-vm:9kB",
            "3,512,90123,-;Out of memory: Killed process 7",
            "6,1,2,-;hello",
            "x;Killed process 7 (x) total-vm:",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}

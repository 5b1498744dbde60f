//! The kernel's device mapper, by its ioctls (Linux, `include/uapi/linux/dm-ioctl.h`).
//!
//! Each call takes one buffer: `struct dm_ioctl`, and for a table a `struct dm_target_spec` and its parameters behind it. It is
//! written and read here by the offsets of its fields.

use nix::errno::Errno;
use nix::libc;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// The version of the interface that this is written for.
const VERSION: [u32; 3] = [4, 0, 0];
/// `sizeof(struct dm_ioctl)`.
const HEADER: u16 = 312;
/// `sizeof(struct dm_target_spec)`.
const TARGET: usize = 40;
/// `DM_NAME_LEN` and the length of a target's type, both with the NUL at their end.
const NAME: usize = 128;
const TYPE: usize = 16;
/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1;

/// `DM_DEV_CREATE_CMD` and its fellows.
#[derive(Clone, Copy)]
enum Command {
    Create = 3,
    /// Without `DM_SUSPEND_FLAG` it resumes, which makes the loaded table the live one.
    Resume = 6,
    LoadTable = 9,
}

/// The control device.
pub struct DeviceMapper(File);

/// What a device is mapped to.
pub struct Target<'a> {
    /// Its length in sectors of 512 bytes.
    pub sectors: u64,
    /// `verity`.
    pub kind: &'a str,
    /// As the target's documentation has them.
    pub parameters: &'a str,
}

impl DeviceMapper {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/mapper/control").map(Self)
    }

    /// Makes the read-only device `name` of one target. Gives its node, which devtmpfs has made.
    pub fn create(&self, name: &str, target: &Target) -> nix::Result<PathBuf> {
        let device = self.call(Command::Create, name, None)?;
        self.call(Command::LoadTable, name, Some(target))?;
        self.call(Command::Resume, name, None)?;
        // The kernel's new_encode_dev: the minor number's low byte, twelve bits of major, the minor's rest.
        let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
        Ok(PathBuf::from(format!("/dev/dm-{minor}")))
    }

    /// Gives the device number that the kernel answers with.
    fn call(&self, command: Command, name: &str, target: Option<&Target>) -> nix::Result<u32> {
        let mut message = encode(name, target)?;
        let request = request(command);
        // SAFETY: the request tells the kernel of a struct dm_ioctl, and that of the size of all, which is the vector's;
        // it reads and writes within that.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, message.as_mut_ptr()) };
        Errno::result(result)?;
        let device = message.get(40..44).and_then(|bytes| bytes.first_chunk());
        device.map(|bytes| u32::from_ne_bytes(*bytes)).ok_or(Errno::EIO)
    }
}

/// `_IOWR(DM_IOCTL, command, struct dm_ioctl)`.
fn request(command: Command) -> u32 {
    const READ_WRITE: u32 = 3;
    const DM_IOCTL: u32 = 0xfd;
    READ_WRITE << 30 | u32::from(HEADER) << 16 | DM_IOCTL << 8 | command as u32
}

fn encode(name: &str, target: Option<&Target>) -> nix::Result<Vec<u8>> {
    let table = target.map(encode_target).transpose()?.unwrap_or_default();
    let size = u32::try_from(usize::from(HEADER) + table.len()).map_err(|_| Errno::E2BIG)?;
    let mut message = Vec::with_capacity(usize::from(HEADER) + table.len());
    for number in VERSION {
        message.extend(number.to_ne_bytes());
    }
    message.extend(size.to_ne_bytes());
    message.extend(u32::from(HEADER).to_ne_bytes()); // where the target begins
    message.extend(u32::from(target.is_some()).to_ne_bytes()); // number of targets
    message.extend(0_u32.to_ne_bytes()); // open_count: the kernel's answer
    message.extend(READ_ONLY.to_ne_bytes());
    message.resize(48, 0); // event_nr, padding, dev
    message.extend(text(name, NAME)?);
    message.resize(HEADER.into(), 0); // no UUID
    message.extend(table);
    Ok(message)
}

fn encode_target(target: &Target) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0; 8]; // the first sector
    bytes.extend(target.sectors.to_ne_bytes());
    bytes.resize(24, 0); // status; the next target: there is none
    bytes.extend(text(target.kind, TYPE)?);
    debug_assert_eq!(bytes.len(), TARGET);
    bytes.extend(text(target.parameters, target.parameters.len() + 1)?);
    Ok(bytes)
}

/// `words` and NULs, `length` bytes in all.
fn text(words: &str, length: usize) -> nix::Result<Vec<u8>> {
    let mut bytes = words.as_bytes().to_vec();
    if bytes.len() >= length || bytes.contains(&0) {
        return Err(Errno::EINVAL);
    }
    bytes.resize(length, 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the header file's macros and structs give (compiled and printed with gcc on x86-64).
    #[test]
    fn requests_and_offsets_are_the_kernels() {
        assert_eq!(request(Command::Create), 0xc138_fd03);
        assert_eq!(request(Command::Resume), 0xc138_fd06);
        assert_eq!(request(Command::LoadTable), 0xc138_fd09);
        let target = Target { sectors: 0x1234, kind: "verity", parameters: "1 a" };
        let message = encode("layer-0", Some(&target)).unwrap();
        assert_eq!(message.len(), 312 + 40 + 4);
        for (at, expected) in [
            (0, &[4, 0, 0, 0][..]),
            (12, &[100, 1, 0, 0]), // 356
            (16, &[56, 1, 0, 0]),  // 312
            (20, &[1, 0, 0, 0]),
            (28, &[1, 0, 0, 0]),
            (48, b"layer-0\0"),
            (176, &[0; 136]),
            (320, &[0x34, 0x12, 0, 0, 0, 0, 0, 0]),
            (336, b"verity\0"),
            (352, b"1 a\0"),
        ] {
            assert_eq!(&message[at..at + expected.len()], expected, "at {at}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let target = |kind, parameters| Target { sectors: 1, kind, parameters };
        let long = "x".repeat(128);
        assert!(encode(&long, None).is_err());
        assert!(encode("a\0b", None).is_err());
        assert!(encode("a", Some(&target(&long[..16], ""))).is_err());
        assert!(encode("a", Some(&target("verity", "a\0b"))).is_err());
        assert!(encode(&long[..127], Some(&target(&long[..15], ""))).is_ok());
    }
}

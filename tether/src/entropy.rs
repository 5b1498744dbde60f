//! Random numbers that no other machine has, though it may have been started from the same frozen one.

use crate::failure::{Context, Failure};
use nix::errno::Errno;
use nix::libc;
use protocol::{Seed, Stage};
use std::fs::File;
use std::os::fd::AsRawFd;

// random(4), linux/random.h: `_IOW('R', 0x03, int[2])` and `_IO('R', 0x07)`, on x86-64.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// The kernel's `struct rand_pool_info`, with room for a seed.
#[repr(C)]
struct Pool {
    /// Bits.
    entropy_count: libc::c_int,
    /// Bytes.
    buf_size: libc::c_int,
    buf: [u8; 32],
}

/// Mixes the host's random numbers into the kernel's. Whatever reads random numbers after this gets others than it would have.
pub fn mix_in(Seed(buf): &Seed) -> Result<(), Failure> {
    let random = File::open("/dev/random").at(Stage::Spec, || "opening /dev/random")?;
    let pool = Pool { entropy_count: 256, buf_size: 32, buf: *buf };
    // SAFETY: RNDADDENTROPY reads a rand_pool_info and as many bytes behind it as `buf_size` says (random(4)), which `pool`
    // is and outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_ioctl, random.as_raw_fd(), RNDADDENTROPY, &raw const pool) };
    Errno::result(result).at(Stage::Spec, || "mixing in the host's random numbers (RNDADDENTROPY)")?;
    // Else it would be used only at the next reseed, up to a minute later.
    // SAFETY: RNDRESEEDCRNG takes no argument.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, random.as_raw_fd(), RNDRESEEDCRNG, 0) };
    Errno::result(result).map(drop).at(Stage::Spec, || "reseeding the random numbers (RNDRESEEDCRNG)")
}

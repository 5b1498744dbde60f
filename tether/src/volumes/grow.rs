//! A filesystem that grows with its disk.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

// BLKGETSIZE64 (linux/fs.h) says that it is of a size_t.
nix::ioctl_read!(device_size, 0x12, 114, usize);
// EXT4_IOC_RESIZE_FS (fs/ext4/ext4.h), with the new number of blocks.
nix::ioctl_write_ptr!(resize, b'f', 16, u64);

/// Makes the ext4 on `device`, which is mounted at `target`, as large as the device.
pub fn to_the_disks_size(device: &Path, target: &str) -> io::Result<()> {
    let disk = File::open(device)?;
    let mut superblock = [0; 1024];
    disk.read_exact_at(&mut superblock, 1024)?;
    let mut bytes = 0;
    // SAFETY: BLKGETSIZE64 writes 64 bits to `bytes`, which outlives the call.
    unsafe { device_size(disk.as_raw_fd(), &raw mut bytes) }?;
    let Some((block, blocks)) = geometry(&superblock) else { return Ok(()) };
    let wanted = bytes as u64 / block;
    if wanted <= blocks {
        return Ok(());
    }
    let root = File::open(target)?;
    // SAFETY: the kernel reads one u64 from `wanted`, which outlives the call.
    unsafe { resize(root.as_raw_fd(), &raw const wanted) }?;
    Ok(())
}

/// Bytes of a block, and number of blocks (Documentation/filesystems/ext4/super.rst).
fn geometry(superblock: &[u8; 1024]) -> Option<(u64, u64)> {
    let word =
        |at: usize| -> Option<u32> { Some(u32::from_le_bytes(superblock.get(at..at + 4)?.try_into().ok()?)) };
    let block = 1024_u64.checked_shl(word(0x18)?).filter(|block| (1024..=65536).contains(block))?;
    // The upper half counts only with INCOMPAT_64BIT.
    let upper = if word(0x60)? & 0x80 != 0 { word(0x150)? } else { 0 };
    Some((block, u64::from(upper) << 32 | u64::from(word(4)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblocks_geometry() {
        let mut superblock = [0; 1024];
        superblock[4..8].copy_from_slice(&7_u32.to_le_bytes());
        superblock[0x18] = 2;
        superblock[0x150] = 1;
        assert_eq!(geometry(&superblock), Some((4096, 7)));
        superblock[0x60] = 0x80;
        assert_eq!(geometry(&superblock), Some((4096, 7 | 1 << 32)));
        for exponent in [7, 54, 63, 64, 255] {
            superblock[0x18] = exponent;
            assert_eq!(geometry(&superblock), None, "{exponent}");
        }
    }
}

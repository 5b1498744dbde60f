//! What a disk is, by its first bytes.

use std::io;

use anyhow::{Result, bail};

use super::ReadAt;

/// Filesystems that are understood.
pub enum Format {
    /// `fs/erofs/erofs_fs.h`
    Erofs,
    /// `Documentation/filesystems/ext4/super.rst`
    Ext4,
}

/// Where both superblocks begin.
const SUPERBLOCK: usize = 1024;

/// Formats that users have, and that are told by name when refused: where the magic stands, the magic, the name.
const REFUSED: [(usize, &[u8], &str); 9] = [
    (0, b"QFI\xfb", "a qcow2 image; `qemu-img convert -O raw` makes it a raw one"),
    (0, b"KDMV", "a VMDK image; `qemu-img convert -O raw` makes it a raw one"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor; `qemu-img convert -O raw` makes it a raw image"),
    (0, b"vhdxfile", "a VHDX image; `qemu-img convert -O raw` makes it a raw one"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
    (0, b"hsqs", "a squashfs filesystem"),
    (0, b"XFSB", "an XFS filesystem"),
    (510, b"\x55\xaa", "a disk with partitions"),
];

/// The format of the disk in `source`.
///
/// # Errors
/// It is too short, or another one.
pub fn of(source: &dyn ReadAt) -> Result<Format> {
    let mut start = vec![0; 2048];
    match source.read_exact_at(&mut start, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => bail!("it is shorter than any filesystem"),
        // A folder, for one.
        read => read?,
    }
    if start[SUPERBLOCK..].starts_with(&0xe0f5_e1e2_u32.to_le_bytes()) {
        return Ok(Format::Erofs);
    }
    if start[SUPERBLOCK + 56..].starts_with(&0xef53_u16.to_le_bytes()) {
        return Ok(Format::Ext4);
    }
    match REFUSED.iter().find(|(at, magic, _)| start[*at..].starts_with(magic)) {
        Some((_, _, name)) => bail!("it is {name}; a raw disk with EROFS or ext4 can be read"),
        None => bail!("it holds neither EROFS nor ext4"),
    }
}

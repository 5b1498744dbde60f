//! How large an ext4 filesystem has to be: `mkext4` wants to know before it lays anything out.

use std::collections::HashSet;

use anyhow::{Context, Result};

use super::BLOCK;
use crate::disk::{Disk, Inode, Kind};
use crate::tarball::Xattr;

/// Blocks and inodes of a block group, at most (8 bits for each byte of a bitmap block).
const GROUP: u64 = 8 * BLOCK;
/// `mkext4` makes none smaller.
const MIN_BLOCKS: u64 = 2048;
/// The reserved inodes and `lost+found`.
const OWN_INODES: u64 = 11;
/// Bytes of a directory block that entries can count on: without the checksum's, `.` and `..`, and what one name more might
/// have needed.
const DIRECTORY_ROOM: u64 = BLOCK - 12 - 24 - 264;
/// Bytes for an inode's xattrs: of a block, without its header and the mark of the end.
pub const XATTR_ROOM: usize = 4096 - 32 - 4;

/// What a tree takes. Never too little, and little too much: what is free stays a hole.
#[derive(Default)]
pub struct Size {
    blocks: u64,
    inodes: u64,
    links: HashSet<u64>,
}

impl Size {
    /// Counts one name and, if it is the first, its inode.
    pub fn add(&mut self, inode: &Inode, disk: &Disk) -> Result<()> {
        if inode.links > 1 && inode.kind != Kind::Directory && !self.links.insert(inode.number) {
            return Ok(());
        }
        self.inodes += 1;
        self.blocks += match inode.kind {
            Kind::File => file(inode.size),
            Kind::Symlink => 1,
            Kind::Directory => directory(inode, disk)?,
            _ => 0,
        };
        self.blocks += u64::from(!disk.xattrs(inode)?.is_empty());
        Ok(())
    }

    /// Inodes, the filesystem's own among them.
    pub fn inodes(&self) -> Result<u32> {
        u32::try_from(self.inodes + OWN_INODES).context("more inodes than ext4 holds")
    }

    /// Length of the filesystem, in bytes.
    pub fn bytes(&self) -> Result<u64> {
        let inodes = u64::from(self.inodes()?);
        // Room for lost+found and the journal, which are taken away later.
        let content = self.blocks + 8;
        let mut groups = inodes.div_ceil(GROUP);
        loop {
            let descriptors = groups * 32 / BLOCK + 1;
            let copies = 1 + descriptors;
            let overhead = groups * (copies + 2) + inodes.div_ceil(16) + groups;
            // Inode tables are in one piece each: 16 of them may leave a gap before a copy of the superblock.
            let needed = content + overhead + groups / 16 * GROUP / 16;
            // As many groups as the inodes need, and in the last one room for a copy of the superblock.
            let blocks = needed.max(MIN_BLOCKS).max((groups - 1) * GROUP + 2 * copies);
            if blocks.div_ceil(GROUP) == groups {
                return Ok(blocks * BLOCK);
            }
            groups = blocks.div_ceil(GROUP);
        }
    }
}

/// Blocks of a file's contents and, where it is in more than four pieces, of its extent tree.
fn file(size: u64) -> u64 {
    let data = size.div_ceil(BLOCK);
    // No extent is longer than a group, and each may be cut once by a group's own blocks.
    let extents = 2 * data.div_ceil(GROUP) + 1;
    let tree = if extents > 4 { extents / 340 + 2 } else { 0 };
    data + tree
}

/// Blocks of a directory, with the hash tree over them.
fn directory(inode: &Inode, disk: &Disk) -> Result<u64> {
    let entry = |name: &[u8]| (8 + name.len() as u64).next_multiple_of(4);
    let bytes: u64 = disk.entries(inode)?.iter().map(|e| entry(&e.name)).sum();
    let leaves = bytes / DIRECTORY_ROOM + 1;
    // One block that holds `.` and `..` too, or a tree with its root.
    Ok(if leaves == 1 { 1 } else { leaves + leaves / 500 + 2 })
}

/// Bytes that an xattr takes of [`XATTR_ROOM`].
pub fn xattr(xattr: &Xattr) -> usize {
    16 + xattr.name.len().next_multiple_of(4) + xattr.value.len().next_multiple_of(4)
}

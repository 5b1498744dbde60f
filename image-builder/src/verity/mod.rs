//! dm-verity: a layer disk's hash tree, by which the guest's kernel checks every block that it reads.
//!
//! The tree stands behind the filesystem, in the same file. In 4 KiB blocks, with D blocks of filesystem (Linux,
//! `Documentation/admin-guide/device-mapper/verity.rst`; cryptsetup's wiki, "DMVerity", for the superblock):
//!
//! ```text
//! 0 .. D         the filesystem: the data
//! D              veritysetup's superblock (512 bytes), then zeros
//! D + 1 ..       the tree, its top level first, the level of the data's hashes last
//! ```
//!
//! Hash type 1, SHA-256, no salt: a tree block is 128 hashes of 32 bytes, of the 128 blocks that it stands for in the
//! level below; what it does not need is zeros. Levels are added until one has a single block, and the **root hash** is
//! that block's. A disk of one data block has no level at all: the root hash is the block's own.
//!
//! So all is known from D, and D from the file's length ([`Geometry`]). The kernel's table line for such a disk is
//! `0 <8 D> verity 1 DISK DISK 4096 4096 <D> <D + 1> sha256 <root hash> -`, and `veritysetup verify DISK DISK ROOT
//! --hash-offset=<4096 D>` agrees. The hashes of a disk's data are 32 D bytes in one piece ([`Geometry::leaves`]): who puts
//! the data blocks of many disks into one can put their hashes together and needs to hash only those.
//!
//! Promises: the same data give the same bytes. Memory is half a MiB for each processor, whatever the length. Cost: 1/127
//! of the length, and one SHA-256 over it, on all processors; a hole in the file is not read, but its hashes take their
//! place.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

use crate::digest::Digest;

mod check;
mod geometry;
mod hash;
mod superblock;
mod written;

pub use check::{Damage, check};
pub use geometry::Geometry;
pub use superblock::Superblock;
pub use written::HashedDisk;

/// Size of data blocks and of tree blocks, in bytes.
pub const BLOCK: u64 = BLOCK_SIZE as u64;
/// The same, where it is the length of an array.
pub const BLOCK_SIZE: usize = 4096;

/// A disk with its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Where everything is.
    pub geometry: Geometry,
    /// The UUID in the tree's superblock, which is the filesystem's.
    pub uuid: [u8; 16],
    /// The root hash, as the tree itself has it: it says nothing about the blocks below before they are checked.
    pub root_hash: Digest,
}

/// Appends superblock and tree to a filesystem of `length` bytes, which is all that `file` holds. The file's offset is
/// moved.
///
/// # Errors
/// `length` is not the file's or not in whole blocks; the file cannot be read or written.
///
/// ```
/// let file = tempfile::tempfile()?;
/// file.set_len(5 * 4096)?;
/// let info = image_builder::verity::append(&file, 5 * 4096, [7; 16])?;
/// assert_eq!(file.metadata()?.len(), 7 * 4096);
/// assert_eq!(image_builder::verity::read(&file)?, info);
/// assert_eq!(image_builder::verity::check(&file, &info.root_hash)?, None);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn append(file: &File, length: u64, uuid: [u8; 16]) -> Result<Info> {
    append_with(file, length, uuid, |geometry| hash::write_tree(file, geometry.levels()))
}

/// [`append`], where `write_tree` writes the levels.
fn append_with(
    file: &File,
    length: u64,
    uuid: [u8; 16],
    write_tree: impl FnOnce(&Geometry) -> Result<()>,
) -> Result<Info> {
    let found = file.metadata().context("cannot read the disk's length")?.len();
    ensure!(found == length, "the disk has {found} bytes, not {length}");
    ensure!(length.is_multiple_of(BLOCK), "the disk's {length} bytes are not whole blocks of {BLOCK}");
    let geometry = Geometry::new(length / BLOCK)?;
    file.set_len(geometry.length()).context("cannot make room for the hash tree")?;
    let superblock = Superblock { uuid, data_blocks: geometry.data_blocks() };
    file.write_all_at(&superblock.encode(), length).context("cannot write the hash tree's superblock")?;
    write_tree(&geometry).context("cannot write the hash tree")?;
    let root_hash = root_hash(file, &geometry)?;
    Ok(Info { geometry, uuid, root_hash })
}

/// What the disk in `file` says of its tree. One or two blocks are read; [`check`] reads all.
///
/// # Errors
/// There is no tree, or a part of one; its superblock is not one that [`append`] writes for a disk of this length.
pub fn read(file: &File) -> Result<Info> {
    let length = file.metadata().context("cannot read the disk's length")?.len();
    let Some(geometry) = Geometry::of_length(length) else {
        bail!("a disk of {length} bytes has no hash tree, or a part of one");
    };
    let superblock = Superblock::decode(&block_at(file, geometry.data_blocks())?)?;
    ensure!(
        superblock.data_blocks == geometry.data_blocks(),
        "the hash tree is for {} blocks, the disk has {}",
        superblock.data_blocks,
        geometry.data_blocks()
    );
    let root_hash = root_hash(file, &geometry)?;
    Ok(Info { geometry, uuid: superblock.uuid, root_hash })
}

/// The hash of the top block, or of the only data block.
fn root_hash(file: &File, geometry: &Geometry) -> Result<Digest> {
    Ok(Digest::of(&block_at(file, geometry.top())?))
}

fn block_at(file: &File, number: u64) -> Result<[u8; BLOCK_SIZE]> {
    let mut block = [0; BLOCK_SIZE];
    file.read_exact_at(&mut block, number * BLOCK).with_context(|| format!("cannot read block {number}"))?;
    Ok(block)
}

#[cfg(test)]
mod tests;

//! Extent trees: where the contents of an inode stand.

use anyhow::{Result, bail, ensure};
use mkext4::csum;
use mkext4::spec::{self, ExtentHeader, ExtentIdx, iflags};

use super::{Ext4, Raw};
use crate::disk::Extent;

/// EXT4_MAX_EXTENT_DEPTH.
const MAX_DEPTH: u16 = 5;
/// 100 MB of them: a file of a terabyte in pieces of 256 KiB.
const MAX_EXTENTS: usize = 4 << 20;

impl Ext4 {
    /// What the inode's extent tree maps, within its size. Extents that are not written yet are holes.
    pub(super) fn read_extents(&self, number: u64, raw: &Raw) -> Result<Vec<Extent>> {
        let inode = &raw.inode;
        if inode.size == 0 {
            return Ok(Vec::new());
        }
        if inode.flags & iflags::EXTENTS == 0 {
            bail!("a block map, as of ext2 and ext3: only extents are supported");
        }
        let seed = csum::inode_seed(self.seed, u32::try_from(number)?, inode.generation);
        let mut tree = Tree { fs: self, seed, size: inode.size, next: 0, extents: Vec::new() };
        tree.node(&inode.block, None)?;
        Ok(tree.extents)
    }
}

/// A walk over a tree. Every leaf must go on behind the one before: so no block is read twice, and the walk ends.
struct Tree<'a> {
    fs: &'a Ext4,
    /// What the checksums of its blocks start from.
    seed: u32,
    /// The file's, in bytes.
    size: u64,
    /// The first logical block that has not been mapped.
    next: u64,
    extents: Vec<Extent>,
}

impl Tree<'_> {
    fn node(&mut self, bytes: &[u8], depth: Option<u16>) -> Result<()> {
        let header = ExtentHeader::decode(bytes)?;
        let room = (bytes.len() - ExtentHeader::LEN) / ExtentHeader::ENTRY_LEN;
        // Only the root, of a file all hole, has no entries.
        let empty = header.entries == 0 && depth.is_some();
        let good = header.depth <= depth.unwrap_or(MAX_DEPTH)
            && depth.is_none_or(|depth| depth == header.depth)
            && usize::from(header.entries) <= room;
        ensure!(good && !empty, "damaged: a malformed extent tree");
        for index in 0..usize::from(header.entries) {
            let entry = spec::extent::entry(bytes, index);
            if header.depth == 0 {
                self.leaf(&spec::Extent::decode(entry))?;
            } else {
                let block = self.child(ExtentIdx::decode(entry).leaf)?;
                self.node(&block, Some(header.depth - 1))?;
            }
        }
        Ok(())
    }

    fn child(&self, number: u64) -> Result<Vec<u8>> {
        let block = self.fs.block(number)?;
        // Behind the entries that have room, not at the block's end (ext4_extent_tail).
        let tail =
            ExtentHeader::LEN + ExtentHeader::ENTRY_LEN * usize::from(ExtentHeader::decode(&block)?.max);
        let sum = block.get(tail..tail + 4).and_then(|sum| sum.try_into().ok()).map(u32::from_le_bytes);
        if self.fs.checksums() && sum != Some(csum::crc32c_raw(self.seed, &block[..tail.min(block.len())])) {
            bail!("damaged: the checksum of block {number} of the extent tree is wrong");
        }
        Ok(block)
    }

    fn leaf(&mut self, extent: &spec::Extent) -> Result<()> {
        let (first, count) = (u64::from(extent.logical), u64::from(extent.len()));
        ensure!(first >= self.next && count > 0, "damaged: its extents overlap");
        self.next = first + count;
        self.fs.check_blocks(extent.start, count)?;
        let block = self.fs.block;
        let length = (count * block).min(self.size.saturating_sub(first * block));
        ensure!(self.extents.len() < MAX_EXTENTS, "a file in more than {MAX_EXTENTS} pieces");
        if !extent.is_unwritten() && length > 0 {
            self.extents.push(Extent { offset: first * block, position: extent.start * block, length });
        }
        Ok(())
    }
}

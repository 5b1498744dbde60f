//! What `mkext4` gives every filesystem and a layer disk must not have: the journal, for nobody writes to it (and the kernel would
//! start a thread for it), and `lost+found`, for the container would see it.
//!
//! Both are taken away as `tune2fs -O ^has_journal` and `rmdir` would: their inodes and blocks are free again, in all the places
//! that count them, and the checksums are right.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use mkext4::csum;
use mkext4::spec::{self, DirentIter, GroupDesc, Superblock, compat};

use super::BLOCK;
use crate::disk::{Ext4, Extent, Filesystem};

const BLOCK_SIZE: usize = 4096;
/// Where the superblock stands in block 0; its copies start their blocks.
const SUPERBLOCK: u64 = 1024;
/// Size of a group descriptor: `mkext4` makes the short ones.
const DESCRIPTOR: usize = 32;
/// `lost+found` is made first of all.
const LOST_FOUND: u32 = spec::FIRST_INO;

/// Takes journal and `lost+found` from the filesystem that `mkext4` wrote to `file`.
///
/// # Errors
/// It cannot be read or written, or is not as `mkext4` writes it.
pub fn strip(file: &File) -> Result<()> {
    let fs = Ext4::open(Arc::new(file.try_clone()?))?;
    let extents = |number: u32| fs.extents(&fs.inode(u64::from(number))?);
    let (journal, lost, root) = (extents(spec::JOURNAL_INO)?, extents(LOST_FOUND)?, extents(spec::ROOT_INO)?);
    let mut editor = Editor::open(file)?;
    let journal_blocks = editor.free_blocks(&journal)?;
    editor.free_blocks(&lost)?;
    editor.edit_inode(spec::JOURNAL_INO, |bytes| bytes.fill(0))?;
    editor.edit_inode(LOST_FOUND, |bytes| bytes.fill(0))?;
    editor.free_inode(LOST_FOUND)?;
    editor.unlink(&root)?;
    editor.finish(|sb| {
        sb.feature_compat &= !compat::HAS_JOURNAL;
        (sb.journal_inum, sb.jnl_backup_type, sb.jnl_blocks) = (0, 0, [0; 17]);
        sb.overhead_clusters -= journal_blocks;
    })
}

/// A filesystem whose counts and bitmaps are being changed.
struct Editor<'a> {
    file: &'a File,
    superblock: Superblock,
    groups: Vec<GroupDesc>,
    seed: u32,
}

impl<'a> Editor<'a> {
    fn open(file: &'a File) -> Result<Self> {
        let mut bytes = [0; Superblock::LEN];
        file.read_exact_at(&mut bytes, SUPERBLOCK)?;
        let superblock = Superblock::decode(&bytes)?;
        let mut table = vec![0; DESCRIPTOR * usize::try_from(superblock.group_count())?];
        file.read_exact_at(&mut table, BLOCK)?;
        let groups = table.chunks(DESCRIPTOR).map(GroupDesc::decode).collect::<mkext4::Result<_>>()?;
        Ok(Self { file, seed: csum::fs_seed(&superblock.uuid), superblock, groups })
    }

    fn block(&self, number: u64) -> Result<[u8; BLOCK_SIZE]> {
        let mut bytes = [0; BLOCK_SIZE];
        self.file.read_exact_at(&mut bytes, number * BLOCK)?;
        Ok(bytes)
    }

    /// Gives back the blocks of `extents`, and tells how many they were.
    fn free_blocks(&mut self, extents: &[Extent]) -> Result<u32> {
        let per_group = u64::from(self.superblock.blocks_per_group);
        let ranges = extents.iter().map(|e| e.position / BLOCK..(e.position + e.length) / BLOCK);
        let blocks: BTreeSet<u64> = ranges.flatten().collect();
        for block in &blocks {
            let (group, bit) = (usize::try_from(block / per_group)?, usize::try_from(block % per_group)?);
            let descriptor = &mut self.groups[group];
            let at = descriptor.block_bitmap;
            descriptor.free_blocks_count += 1;
            let mut bitmap = self.block(at)?;
            clear(&mut bitmap, bit)?;
            self.groups[group].block_bitmap_csum = u32::from(csum::block_bitmap(self.seed, &bitmap));
            self.file.write_all_at(&bitmap, at * BLOCK)?;
        }
        self.superblock.free_blocks_count += blocks.len() as u64;
        Ok(u32::try_from(blocks.len())?)
    }

    /// Gives back the inode `number` of a directory, which is in the first group.
    fn free_inode(&mut self, number: u32) -> Result<()> {
        let at = self.groups[0].inode_bitmap;
        let mut bitmap = self.block(at)?;
        clear(&mut bitmap, usize::try_from(number - 1)?)?;
        let sum = csum::inode_bitmap(self.seed, &bitmap, self.superblock.inodes_per_group);
        self.file.write_all_at(&bitmap, at * BLOCK)?;
        let descriptor = &mut self.groups[0];
        descriptor.inode_bitmap_csum = u32::from(sum);
        descriptor.free_inodes_count += 1;
        descriptor.used_dirs_count -= 1;
        self.superblock.free_inodes_count += 1;
        Ok(())
    }

    /// Changes the inode `number`, which is in the first group.
    fn edit_inode(&self, number: u32, edit: impl FnOnce(&mut [u8])) -> Result<()> {
        let size = u64::from(self.superblock.inode_size);
        let at = self.groups[0].inode_table * BLOCK + u64::from(number - 1) * size;
        let mut bytes = vec![0; usize::try_from(size)?];
        self.file.read_exact_at(&mut bytes, at)?;
        edit(&mut bytes);
        Ok(self.file.write_all_at(&bytes, at)?)
    }

    /// Takes the name `lost+found` from the root directory.
    fn unlink(&self, root: &[Extent]) -> Result<()> {
        let blocks = root.iter().flat_map(|e| e.position / BLOCK..(e.position + e.length) / BLOCK);
        for number in blocks {
            let mut block = self.block(number)?;
            let mut entries = DirentIter::new(&block).filter_map(Result::ok);
            let Some(offset) = entries.find(|e| e.inode == LOST_FOUND).map(|e| e.offset) else { continue };
            // An entry of inode 0 is an empty one (Documentation/filesystems/ext4/directory.rst).
            block[offset..offset + 4].fill(0);
            let sum = csum::dirent_block(csum::inode_seed(self.seed, spec::ROOT_INO, 0), &block);
            block[BLOCK_SIZE - 4..].copy_from_slice(&sum.to_le_bytes());
            self.file.write_all_at(&block, number * BLOCK)?;
            return self.edit_inode(spec::ROOT_INO, |bytes| {
                if let Ok(mut inode) = spec::Inode::decode(bytes) {
                    // Of one, there are more than ext4 counts (`dir_nlink`).
                    inode.links_count -= u16::from(inode.links_count > 2);
                    inode.encode(bytes);
                    inode.checksum = csum::inode(self.seed, spec::ROOT_INO, inode.generation, bytes);
                    inode.encode(bytes);
                }
            });
        }
        anyhow::bail!("there is no lost+found to take away")
    }

    /// Writes the group descriptors and, after a last change to it, the superblock, with all their copies.
    fn finish(mut self, edit: impl Fn(&mut Superblock)) -> Result<()> {
        let mut table = vec![0; DESCRIPTOR * self.groups.len()];
        for (number, (descriptor, bytes)) in
            (0..).zip(self.groups.iter_mut().zip(table.chunks_mut(DESCRIPTOR)))
        {
            descriptor.encode32(bytes);
            descriptor.checksum = csum::group_desc(self.seed, number, bytes);
            descriptor.encode32(bytes);
        }
        edit(&mut self.superblock);
        for group in (0..u32::try_from(self.groups.len())?).filter(|group| has_superblock(*group)) {
            let first = u64::from(group) * u64::from(self.superblock.blocks_per_group) * BLOCK;
            let mut superblock = self.superblock.clone();
            superblock.block_group_nr = u16::try_from(group).context("more groups than copies can tell")?;
            let mut bytes = [0; Superblock::LEN];
            superblock.encode(&mut bytes);
            superblock.checksum = csum::superblock(&bytes);
            superblock.encode(&mut bytes);
            let offset = if group == 0 { SUPERBLOCK } else { 0 };
            self.file.write_all_at(&bytes, first + offset)?;
            self.file.write_all_at(&table, first + BLOCK)?;
        }
        Ok(())
    }
}

/// Whether the group has a copy of the superblock: 0, 1 and powers of 3, 5 and 7 (`sparse_super`).
fn has_superblock(group: u32) -> bool {
    let power_of =
        |base: u32| std::iter::successors(Some(1), |n: &u32| n.checked_mul(base)).any(|n| n == group);
    group == 0 || [3, 5, 7].into_iter().any(power_of)
}

fn clear(bitmap: &mut [u8], bit: usize) -> Result<()> {
    let mask = 1 << (bit % 8);
    ensure!(bitmap[bit / 8] & mask != 0, "what is to be given back is not in use");
    bitmap[bit / 8] &= !mask;
    Ok(())
}

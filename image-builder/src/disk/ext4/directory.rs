//! Directories: blocks of entries. The blocks of a hash tree's inner nodes look like blocks without entries, by design.

use anyhow::{Result, ensure};
use mkext4::csum;
use mkext4::spec::{DirentIter, dirent, inode::FileType};

use super::Ext4;
use crate::disk::Entry;
use crate::tarball::quoted;

/// More than a million names of 255 bytes; a bound of what is read into memory.
const MAX_SIZE: u64 = 320 << 20;

impl Ext4 {
    pub(super) fn read_directory(&self, number: u64) -> Result<Vec<Entry>> {
        let raw = self.read_raw(number)?;
        ensure!(raw.inode.file_type() == FileType::Dir, "not a directory");
        ensure!(raw.inode.size <= MAX_SIZE, "a directory of more than {} MiB", MAX_SIZE >> 20);
        let seed = csum::inode_seed(self.seed, u32::try_from(number)?, raw.inode.generation);
        let mut entries = Vec::new();
        for extent in self.read_extents(number, &raw)? {
            let first = extent.position / self.block;
            for block in first..first + extent.length / self.block {
                self.read_entries(&self.block(block)?, seed, &mut entries)?;
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn read_entries(&self, block: &[u8], seed: u32, entries: &mut Vec<Entry>) -> Result<()> {
        if let Some(sum) = dirent::tail_checksum(block).filter(|_| self.checksums()) {
            ensure!(sum == csum::dirent_block(seed, block), "damaged: a block's checksum is wrong");
        }
        for entry in DirentIter::new(block) {
            let entry = entry?;
            if matches!(entry.name, b"." | b"..") {
                continue;
            }
            let good = !entry.name.is_empty() && !entry.name.iter().any(|byte| matches!(byte, b'/' | 0));
            ensure!(good, "damaged: the name {}", quoted(entry.name));
            entries.push(Entry { name: entry.name.to_vec(), number: u64::from(entry.inode) });
        }
        Ok(())
    }
}

//! Checking a whole disk against a root hash, as the guest's kernel does block by block.

use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use super::hash::{Group, in_parallel, nth};
use super::{block_at, read};
use crate::digest::Digest;

/// What is wrong with a disk: the first block, by its number in the file, that does not have the hash that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The hash tree is another: its top block (or the only data block) does not have the root hash.
    Root,
    /// This block of the hash tree.
    Tree(u64),
    /// This block of the filesystem.
    Data(u64),
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(out, "its hash tree does not have the root hash that is expected"),
            Self::Tree(block) => write!(out, "block {block}, of the hash tree, is damaged"),
            Self::Data(block) => write!(out, "block {block} is damaged"),
        }
    }
}

/// Reads the disk in `file` and its tree, and compares all with `root_hash`. The file's offset is moved.
///
/// # Errors
/// Those of [`read`]: there is no tree to compare with; and of reading the file.
pub fn check(file: &File, root_hash: &Digest) -> Result<Option<Damage>> {
    let info = read(file)?;
    if info.root_hash != *root_hash {
        return Ok(Some(Damage::Root));
    }
    for (below, level) in info.geometry.levels().rev() {
        // From the top down: what a damaged tree block says of the blocks below is no evidence against them.
        let wrong = AtomicU64::new(u64::MAX);
        in_parallel(level.end - level.start, Group::new, |group, number| {
            let children = nth(&below, number);
            let found = group.hashes(file, children.clone())?;
            let block = block_at(file, level.start + number)?;
            let (expected, _) = block.as_chunks();
            if let Some((block, _)) = children.zip(found.iter().zip(expected)).find(|(_, (a, b))| a != b) {
                wrong.fetch_min(block, Ordering::Relaxed);
            }
            Ok(())
        })?;
        let wrong = wrong.into_inner();
        if wrong != u64::MAX {
            return Ok(Some(info.geometry.damage(wrong)));
        }
    }
    Ok(None)
}

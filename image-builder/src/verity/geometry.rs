//! Where the blocks of a tree are.

use std::ops::Range;

use anyhow::{Result, ensure};

use super::{BLOCK, BLOCK_SIZE, Damage};

/// Hashes in a tree block, of [`HASH`] bytes each.
pub(super) const HASHES: usize = BLOCK_SIZE / 32;
/// Bytes of a hash.
const HASH: u64 = 32;
/// The most data blocks: what EROFS can address, 16 TiB.
const MOST: u64 = 1 << 32;

/// The places of a disk's data, superblock and tree, all calculated from the number of data blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    data_blocks: u64,
    /// The block numbers of each level, the hashes of the data first.
    levels: Vec<Range<u64>>,
}

impl Geometry {
    /// For a disk of so many data blocks.
    ///
    /// # Errors
    /// None, or more than 2^32.
    pub fn new(data_blocks: u64) -> Result<Self> {
        ensure!(
            (1..=MOST).contains(&data_blocks),
            "a hash tree is for 1 to {MOST} blocks, not {data_blocks}"
        );
        let mut sizes = Vec::new();
        let mut below = data_blocks;
        while below > 1 {
            below = below.div_ceil(HASHES as u64);
            sizes.push(below);
        }
        let mut start = data_blocks + 1;
        let mut levels: Vec<_> = sizes
            .iter()
            .rev()
            .map(|size| {
                start += size;
                start - size..start
            })
            .collect();
        levels.reverse();
        Ok(Self { data_blocks, levels })
    }

    /// For a disk that is `length` bytes with its tree; none where no number of data blocks gives that.
    pub fn of_length(length: u64) -> Option<Self> {
        let blocks = length / BLOCK;
        // The tree's share is a little over 1/128; the search ends within a few steps for every length.
        let mut low = 1;
        let mut high = blocks.min(MOST);
        while low < high {
            let middle = low.midpoint(high);
            if Self::new(middle).ok()?.length() < length {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Self::new(low).ok().filter(|geometry| geometry.length() == length)
    }

    /// Blocks of data, from the disk's start; also the number of the superblock's block.
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// The number of the tree's first block: dm-verity's `hash_start_block`.
    pub fn hash_start(&self) -> u64 {
        self.data_blocks + 1
    }

    /// Length of all in bytes.
    pub fn length(&self) -> u64 {
        self.levels.first().map_or(self.hash_start(), |leaves| leaves.end) * BLOCK
    }

    /// The bytes of the file that hold the hashes of the data blocks, 32 for each in their order. Empty for a single
    /// block, whose hash is the root hash.
    pub fn leaves(&self) -> Range<u64> {
        self.levels.first().map_or(0..0, |level| {
            let start = level.start * BLOCK;
            start..start + self.data_blocks * HASH
        })
    }

    /// What it means that block `number` of the file does not have the hash that is expected.
    pub fn damage(&self, number: u64) -> Damage {
        match number {
            _ if number == self.top() => Damage::Root,
            _ if number < self.data_blocks => Damage::Data(number),
            _ => Damage::Tree(number),
        }
    }

    /// The number of the block whose hash is the root hash.
    pub(super) fn top(&self) -> u64 {
        self.levels.last().map_or(0, |level| level.start)
    }

    /// For each level from the data's hashes up: the blocks that it has the hashes of, and its own.
    pub(super) fn levels(&self) -> impl DoubleEndedIterator<Item = (Range<u64>, Range<u64>)> {
        let below = |level: usize| {
            level.checked_sub(1).map_or(0..self.data_blocks, |below| self.levels[below].clone())
        };
        self.levels.iter().enumerate().map(move |(level, blocks)| (below(level), blocks.clone()))
    }
}

//! Making the tree: level by level from the data up, each on all processors.

use std::fs::File;
use std::num::NonZero;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use sha2::{Digest, Sha256};

use super::geometry::HASHES;
use super::{BLOCK, BLOCK_SIZE};

/// A tree block.
type Hashes = [[u8; 32]; HASHES];

/// Writes `levels`, as [`Geometry::levels`](super::Geometry::levels) has them. The file's offset is moved.
pub(super) fn write_tree(file: &File, levels: impl Iterator<Item = (Range<u64>, Range<u64>)>) -> Result<()> {
    for (below, level) in levels {
        in_parallel(level.end - level.start, Group::new, |group, number| {
            let hashes = group.hashes(file, nth(&below, number))?;
            let at = (level.start + number) * BLOCK;
            file.write_all_at(hashes.as_flattened(), at).with_context(|| format!("cannot write at byte {at}"))
        })?;
    }
    Ok(())
}

/// The blocks that tree block `number` of the level above `below` has the hashes of.
pub(super) fn nth(below: &Range<u64>, number: u64) -> Range<u64> {
    let start = below.start + number * HASHES as u64;
    start..below.end.min(start + HASHES as u64)
}

/// Does `work` for all numbers below `count`, on all processors; each has a `state` of its own. After an error no new number
/// is begun, and one of the errors is returned.
pub(super) fn in_parallel<S>(
    count: u64,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, u64) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicU64::new(0);
    let run = || {
        let mut state = state();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            if let Err(error) = work(&mut state, number) {
                next.store(count, Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    thread::scope(|scope| {
        let others: Vec<_> = (1..processors.min(count)).map(|_| scope.spawn(run)).collect();
        let mut result = run();
        for other in others {
            result = result.and(other.join().unwrap_or_else(|_| Err(anyhow!("a hashing thread panicked"))));
        }
        result
    })
}

const ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

/// Hashes blocks.
pub(super) struct BlockHasher {
    /// The hash of a block of zeros: most blocks of sparse files are.
    pub(super) zeros: [u8; 32],
}

impl BlockHasher {
    pub(super) fn new() -> Self {
        Self { zeros: Sha256::digest(ZEROS).into() }
    }

    pub(super) fn hash(&self, block: &[u8; BLOCK_SIZE]) -> [u8; 32] {
        if *block == ZEROS { self.zeros } else { Sha256::digest(block).into() }
    }
}

/// Up to 128 neighbouring blocks: what one tree block stands for.
pub(super) struct Group {
    blocks: Vec<u8>,
    hasher: BlockHasher,
}

impl Group {
    pub(super) fn new() -> Self {
        Self { blocks: vec![0; BLOCK_SIZE * HASHES], hasher: BlockHasher::new() }
    }

    /// The hashes of `blocks` of `file`, zeros after them. The file's offset is moved.
    pub(super) fn hashes(&mut self, file: &File, blocks: Range<u64>) -> Result<Hashes> {
        let (start, end) = (blocks.start * BLOCK, blocks.end * BLOCK);
        let mut hashes = [[0; 32]; HASHES];
        let used = &mut hashes[..usize::try_from(blocks.end - blocks.start)?];
        if is_hole(file, start, end)? {
            used.fill(self.hasher.zeros);
            return Ok(hashes);
        }
        let bytes = &mut self.blocks[..used.len() * BLOCK_SIZE];
        file.read_exact_at(bytes, start).with_context(|| format!("cannot read at byte {start}"))?;
        for (hash, block) in used.iter_mut().zip(bytes.as_chunks().0) {
            *hash = self.hasher.hash(block);
        }
        Ok(hashes)
    }
}

/// Whether the file has no data from `start` to `end`.
fn is_hole(file: &File, start: u64, end: u64) -> Result<bool> {
    match lseek(file.as_fd(), i64::try_from(start)?, Whence::SeekData) {
        Ok(data) => Ok(data.cast_unsigned() >= end),
        Err(Errno::ENXIO) => Ok(true),
        // A filesystem that knows no holes.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(false),
        Err(e) => Err(e).context("cannot look for holes"),
    }
}

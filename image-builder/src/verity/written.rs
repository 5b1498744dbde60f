//! Hashing a disk as it is written, while its blocks are in the processor's cache: nothing is read again for the tree's
//! lowest level, which is all but 1/128 of the work.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result};

use super::hash::{BlockHasher, write_tree};
use super::{BLOCK, BLOCK_SIZE, Info, append_with};

/// A disk being written in whole blocks. Seeking ahead leaves a hole; seeking back is for writing a block again.
pub struct HashedDisk<W> {
    disk: W,
    /// Of each block of the disk, in their order. In a file, for a large disk has many; their place on the disk depends on
    /// how many.
    hashes: BufWriter<File>,
    hasher: BlockHasher,
    /// Of the next block, in bytes.
    position: u64,
}

impl<W> HashedDisk<W> {
    /// A disk from its start. `hashes` is an empty file, of no use afterwards.
    pub fn new(disk: W, hashes: File) -> Self {
        Self { disk, hashes: BufWriter::new(hashes), hasher: BlockHasher::new(), position: 0 }
    }

    /// Appends superblock and tree to the filesystem of `length` bytes that was written, and is in `disk`.
    ///
    /// # Errors
    /// As [`super::append`].
    pub fn finish(mut self, mut disk: &File, length: u64, uuid: [u8; 16]) -> Result<Info> {
        append_with(disk, length, uuid, |geometry| {
            self.hashes.seek(SeekFrom::Start(0)).context("cannot write the hashes")?;
            let leaves = geometry.leaves();
            let mut hashes = BufReader::new(self.hashes.get_ref()).take(leaves.end - leaves.start);
            disk.seek(SeekFrom::Start(leaves.start))
                .and_then(|_| io::copy(&mut hashes, &mut disk))
                .context("cannot write the hashes")?;
            write_tree(disk, geometry.levels().skip(1))
        })
    }

    fn hash(&mut self, hash: [u8; 32]) -> io::Result<()> {
        self.position += BLOCK;
        self.hashes.write_all(&hash)
    }
}

impl<W: Write> Write for HashedDisk<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (blocks, rest) = bytes.as_chunks::<BLOCK_SIZE>();
        if !rest.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not in whole blocks"));
        }
        self.disk.write_all(bytes)?;
        for block in blocks {
            let hash = self.hasher.hash(block);
            self.hash(hash)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.disk.flush()?;
        self.hashes.flush()
    }
}

impl<W: Seek> Seek for HashedDisk<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(to) = to else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "only from the start"));
        };
        if !to.is_multiple_of(BLOCK) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not to a whole block"));
        }
        self.disk.seek(SeekFrom::Start(to))?;
        while self.position < to {
            self.hash(self.hasher.zeros)?;
        }
        if self.position > to {
            self.hashes.seek(SeekFrom::Start(to / BLOCK * 32))?;
            self.position = to;
        }
        Ok(to)
    }
}

//! The disk being written: sequential, buffered, in blocks; only the superblock is written last, at the start.

use std::io::{Seek, SeekFrom, Write};

use anyhow::{Context, Result, bail};

use super::BLOCK;
use crate::tarball::DataSink;

/// What is written at once: all writes but the last are of this size and at multiples of it, so that the kernel can take
/// large pages for them, and that [`crate::verity::HashedDisk`] sees whole blocks. Large enough that system calls do not show, small enough to stay in the processor's cache.
const BUFFER: usize = 256 << 10;

/// Buffers writes to `W` and knows where they land.
pub struct Output<W> {
    out: W,
    buffer: Vec<u8>,
    /// Position of the buffer's start, in bytes.
    flushed: u64,
    max_size: u64,
}

impl<W: Write + Seek> Output<W> {
    /// A disk of at most `max_size` bytes, whose block 0 is kept free.
    pub fn new(out: W, max_size: u64) -> Result<Self> {
        let mut output = Self { out, buffer: Vec::with_capacity(BUFFER), flushed: 0, max_size };
        output.hole(BLOCK)?;
        Ok(output)
    }

    /// Number of the block that the next byte goes to.
    ///
    /// # Errors
    /// Beyond what EROFS can address: 2^32 blocks, 16 TiB.
    pub fn next_block(&self) -> Result<u32> {
        u32::try_from(self.position().div_ceil(BLOCK))
            .context("the layer passes 16 TiB, the most EROFS can address")
    }

    /// Checks that `length` more bytes may come: better told before they are written than after.
    ///
    /// # Errors
    /// With them the disk would pass its bound.
    pub fn check_room(&self, length: u64) -> Result<()> {
        let max = self.max_size;
        if self.position().checked_add(length).is_none_or(|end| end > max) {
            bail!("with {length} bytes more, the layer's disk would pass its bound of {max} bytes");
        }
        Ok(())
    }

    /// Appends `bytes`.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.room()?));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Zeros up to the next block.
    pub fn align(&mut self) -> Result<()> {
        self.hole(self.position().next_multiple_of(BLOCK) - self.position())
    }

    /// Writes `first` to the start of the disk and ends.
    pub fn finish(mut self, first: &[u8]) -> Result<()> {
        self.write_buffer()?;
        self.out.seek(SeekFrom::Start(0)).context("cannot seek in the layer disk")?;
        self.out.write_all(first).and_then(|()| self.out.flush()).context("cannot write the layer disk")
    }

    /// Room in the buffer, at least one byte.
    fn room(&mut self) -> Result<usize> {
        if self.buffer.len() == BUFFER {
            self.flush()?;
        }
        Ok(BUFFER - self.buffer.len())
    }

    /// Zeros are left out: a compressed layer may have far more of them than fit on the host.
    fn flush(&mut self) -> Result<()> {
        if self.buffer.iter().any(|&byte| byte != 0) {
            return self.write_buffer();
        }
        let length = self.buffer.len() as u64;
        self.buffer.clear();
        self.skip(length)
    }

    fn write_buffer(&mut self) -> Result<()> {
        self.check_room(0)?;
        self.out.write_all(&self.buffer).context("cannot write the layer disk")?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// A hole after the empty buffer.
    fn skip(&mut self, length: u64) -> Result<()> {
        self.check_room(length)?;
        self.flushed += length;
        self.out.seek(SeekFrom::Start(self.flushed)).context("cannot seek in the layer disk")?;
        Ok(())
    }

    fn zeros(&mut self, mut length: u64) -> Result<()> {
        while length > 0 {
            let now = self.room()?.min(usize::try_from(length)?);
            self.buffer.resize(self.buffer.len() + now, 0);
            length -= now as u64;
        }
        Ok(())
    }
}

impl<W: Write + Seek> DataSink for Output<W> {
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)
    }

    /// Bytes written so far.
    fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// What of it makes whole buffers is left out of the file and takes no room on the host.
    fn hole(&mut self, length: u64) -> Result<()> {
        const WHOLE: u64 = BUFFER as u64;
        let start = self.position();
        let end = start.checked_add(length).context("a hole beyond 16 EiB")?;
        let (first, last) = (start.next_multiple_of(WHOLE), end - end % WHOLE);
        if first >= last {
            return self.zeros(length);
        }
        self.zeros(first - start)?;
        self.flush()?;
        self.skip(last - first)?;
        self.zeros(end - last)
    }
}

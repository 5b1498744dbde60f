//! A layer's recipe: its tar stream less the file data, which stand on the layer's disk. The two together give the
//! stream back, byte for byte.
//!
//! An LZ4 frame of [`MAGIC`] and then, over and over: a number and as many bytes of the stream; a number, of the bytes
//! that follow in the stream and stand on the disk, and if it is not 0, where: counted from the first block after the
//! data before. Numbers are LEB128. Files stand on the disk in the stream's order, so nearly all of the latter are 0.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use lz4_flex::frame::{BlockMode, FrameDecoder, FrameEncoder, FrameInfo};

use super::folder::retry;
use crate::erofs::BLOCK;
use crate::tarball::Record;

const MAGIC: &[u8; 8] = b"tarsplt1";
/// Longer pieces are cut: so much is held in memory.
const PIECE: usize = 64 << 10;

/// Writes a recipe while the stream is read.
pub struct Recorder<W: Write> {
    out: FrameEncoder<BufWriter<W>>,
    /// Bytes of the stream that are not written yet.
    piece: Vec<u8>,
    /// The first block, in bytes, after the data before.
    next: u64,
    /// Bytes that may still come.
    room: u64,
}

impl<W: Write> Recorder<W> {
    /// A recipe of a stream that has at most `max_size` bytes beside its file data: what follows the archive's end mark
    /// counts as well.
    ///
    /// # Errors
    /// `out`'s.
    pub fn new(out: W, max_size: u64) -> Result<Self> {
        // Headers are alike over many entries: blocks that know those before take half the space.
        let info = FrameInfo::new().block_mode(BlockMode::Linked);
        let mut out = FrameEncoder::with_frame_info(info, BufWriter::new(out));
        out.write_all(MAGIC).context("cannot write the layer's recipe")?;
        Ok(Self { out, piece: Vec::with_capacity(PIECE), next: 0, room: max_size })
    }

    /// Records all that is left of `stream`.
    ///
    /// # Errors
    /// `stream`'s and the output's; more than the bound allows.
    pub fn rest(&mut self, stream: &mut dyn Read) -> Result<()> {
        let mut buffer = vec![0; PIECE];
        loop {
            match retry(|| stream.read(&mut buffer)).context("cannot read the layer's tar stream")? {
                0 => return Ok(()),
                n => self.literal(&buffer[..n])?,
            }
        }
    }

    /// Ends the recipe and gives back what it was written to.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> Result<W> {
        self.put(0, 0)?;
        let out = self.out.finish().context("cannot write the layer's recipe")?;
        out.into_inner().map_err(|e| e.into_error()).context("cannot write the layer's recipe")
    }

    fn put(&mut self, at: u64, length: u64) -> Result<()> {
        let mut numbers = Vec::with_capacity(32);
        number(self.piece.len() as u64, &mut numbers);
        let tail = numbers.len();
        number(length, &mut numbers);
        if length > 0 {
            let gap = at.checked_sub(self.next).context("file data out of the disk's order")?;
            number(gap, &mut numbers);
            self.next = (at + length).next_multiple_of(BLOCK);
        }
        [&numbers[..tail], &self.piece, &numbers[tail..]]
            .iter()
            .try_for_each(|part| self.out.write_all(part))
            .context("cannot write the layer's recipe")?;
        self.piece.clear();
        Ok(())
    }
}

impl<W: Write> Record for Recorder<W> {
    fn literal(&mut self, mut bytes: &[u8]) -> Result<()> {
        let Some(room) = self.room.checked_sub(bytes.len() as u64) else {
            bail!("the layer has more bytes that are not of files than its bound allows");
        };
        self.room = room;
        while !bytes.is_empty() {
            if self.piece.len() == PIECE {
                self.put(0, 0)?;
            }
            let n = bytes.len().min(PIECE - self.piece.len());
            self.piece.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn data(&mut self, at: u64, length: u64) -> Result<()> {
        if length == 0 { Ok(()) } else { self.put(at, length) }
    }
}

/// Writes the tar stream that `recipe` and `disk` make to `out`. Whether it is the layer's, its digest tells.
///
/// # Errors
/// A recipe that is damaged or cut, a disk that is too short, and `out`'s.
pub fn rebuild(recipe: impl Read, disk: &File, out: &mut impl Write) -> Result<()> {
    let mut recipe = BufReader::with_capacity(PIECE, FrameDecoder::new(recipe));
    let mut magic = [0; MAGIC.len()];
    recipe.read_exact(&mut magic).context("the recipe is damaged")?;
    ensure!(&magic == MAGIC, "the recipe is of a kind that is not known");
    let mut buffer = vec![0; 256 << 10];
    let mut next = 0u64;
    while let Some(piece) = read_number(&mut recipe)? {
        copy(piece, &mut buffer, out, |part, _| recipe.read_exact(part).context("the recipe is damaged"))?;
        let length = read_number(&mut recipe)?.context("the recipe is cut")?;
        if length > 0 {
            let gap = read_number(&mut recipe)?.context("the recipe is cut")?;
            let at = next.checked_add(gap).context("the recipe is damaged")?;
            let end = at.checked_add(length).and_then(|end| end.checked_next_multiple_of(BLOCK));
            next = end.context("the recipe is damaged")?;
            copy(length, &mut buffer, out, |part, done| {
                disk.read_exact_at(part, at + done).context("cannot read the layer disk")
            })?;
        }
    }
    Ok(())
}

/// Copies `length` bytes that `read` gives, which is told how many there were before.
fn copy(
    length: u64,
    buffer: &mut [u8],
    out: &mut impl Write,
    mut read: impl FnMut(&mut [u8], u64) -> Result<()>,
) -> Result<()> {
    let mut done = 0;
    while done < length {
        let n = usize::try_from(length - done).unwrap_or(usize::MAX).min(buffer.len());
        read(&mut buffer[..n], done)?;
        out.write_all(&buffer[..n]).context("cannot write the layer's tar stream")?;
        done += n as u64;
    }
    Ok(())
}

/// LEB128, as WebAssembly and DWARF have it.
fn number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// None at the end of the recipe.
fn read_number(recipe: &mut impl BufRead) -> Result<Option<u64>> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let Some(&byte) = recipe.fill_buf().context("the recipe is damaged")?.first() else {
            ensure!(shift == 0, "the recipe is cut");
            return Ok(None);
        };
        recipe.consume(1);
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(Some(value));
        }
    }
    bail!("the recipe is damaged: a number beyond 63 bits")
}

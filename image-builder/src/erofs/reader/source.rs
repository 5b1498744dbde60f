//! What a disk is read from, and a small cache in front of it.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that can be read at any position: a file, or bytes in memory.
pub trait ReadAt {
    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` when there are not as many.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let bytes = start.and_then(|start| self.get(start..)?.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

/// Size of a piece in the cache.
const PIECE: u64 = 64 << 10;
/// Pieces in the cache: inodes and the blocks of directories are read in turns.
const PIECES: usize = 16;

/// Metadata is read in pieces, for an inode alone is not worth a system call.
pub struct Cached<D> {
    /// The disk itself, for what is large and read once.
    pub disk: D,
    /// Where it ends.
    length: u64,
    /// Numbers of pieces and their bytes, each at its number modulo [`PIECES`].
    pieces: RefCell<[(Option<u64>, Vec<u8>); PIECES]>,
}

impl<D: ReadAt> Cached<D> {
    /// An empty cache in front of `disk`, of whose bytes only the first `length` count.
    pub fn new(disk: D, length: u64) -> Self {
        Self { disk, length, pieces: RefCell::default() }
    }

    /// `length` bytes from `at` on.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let (number, start) = (at / PIECE, usize::try_from(at % PIECE).unwrap_or_default());
        if (start + length) as u64 > PIECE {
            let mut bytes = vec![0; length];
            self.disk.read_exact_at(&mut bytes, at)?;
            return Ok(bytes);
        }
        let mut pieces = self.pieces.borrow_mut();
        let place = &mut pieces[usize::try_from(number % PIECES as u64).unwrap_or_default()];
        if place.0 != Some(number) {
            *place = (None, self.piece(number * PIECE)?);
            place.0 = Some(number);
        }
        let bytes = place.1.get(start..start + length).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(bytes.to_vec())
    }

    /// The disk's last piece is short.
    fn piece(&self, at: u64) -> io::Result<Vec<u8>> {
        let length = self.length.saturating_sub(at).min(PIECE);
        let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
        self.disk.read_exact_at(&mut piece, at)?;
        Ok(piece)
    }
}

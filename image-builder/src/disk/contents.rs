//! A file's contents as a stream.

use std::io::{self, Read};

use super::{Extent, Source};

/// Reads a file from its extents; what none of them covers is zeros.
pub struct Contents {
    source: Source,
    size: u64,
    extents: Vec<Extent>,
    /// Index of the first extent that does not end before `at`.
    next: usize,
    /// Position in the file.
    at: u64,
}

impl Contents {
    /// The first `size` bytes. `extents` are ascending and do not overlap.
    pub(super) fn new(source: Source, size: u64, extents: Vec<Extent>) -> Self {
        Self { source, size, extents, next: 0, at: 0 }
    }
}

impl Read for Contents {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.extents.get(self.next).is_some_and(|e| e.offset + e.length <= self.at) {
            self.next += 1;
        }
        let extent = self.extents.get(self.next);
        let (end, position) = match extent {
            Some(e) if e.offset <= self.at => (e.offset + e.length, Some(e.position + self.at - e.offset)),
            Some(e) => (e.offset, None),
            None => (self.size, None),
        };
        let left = end.min(self.size) - self.at;
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..length];
        match position {
            Some(position) => self.source.read_exact_at(buffer, position)?,
            None => buffer.fill(0),
        }
        self.at += length as u64;
        Ok(length)
    }
}

//! A file's lines from its end, in bounded memory, whatever is in the file.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::MOST_LINE;

/// Read at a time.
const BLOCK: usize = 64 << 10;

/// Goes through the complete lines of a file, the last first. What follows the last newline is not one.
#[derive(Debug)]
pub struct Backward<'a> {
    file: &'a File,
    /// Where in the file the buffer begins.
    from: u64,
    /// What is not given yet, with the newline that ends it.
    buffer: Vec<u8>,
}

impl<'a> Backward<'a> {
    /// Goes back from where the file ends now.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn new(file: &'a File) -> Result<Self> {
        let from = file.metadata()?.len();
        let mut lines = Self { file, from, buffer: Vec::new() };
        lines.skip()?;
        Ok(lines)
    }

    /// Where the lines that are left end, in bytes of the file: at first, where the last newline is.
    pub fn end(&self) -> u64 {
        self.from + self.buffer.len() as u64
    }

    /// The line before the last, without its newline, and where it begins. Lines that are too long to be entries are
    /// left out.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn previous(&mut self, line: &mut Vec<u8>) -> Result<Option<u64>> {
        loop {
            let Some(length) = self.buffer.len().checked_sub(1) else { return Ok(None) };
            if let Some(range) = self.last(length) {
                let start = range.start;
                line.clear();
                line.extend_from_slice(&self.buffer[range]);
                self.buffer.truncate(start);
                return Ok(Some(self.from + start as u64));
            }
            if length > MOST_LINE {
                self.skip()?;
            } else {
                let mut longer = self.block()?;
                longer.append(&mut self.buffer);
                self.buffer = longer;
            }
        }
    }

    /// The last line in the buffer, if it begins there.
    fn last(&self, length: usize) -> Option<Range<usize>> {
        match memchr::memrchr(b'\n', &self.buffer[..length]) {
            Some(newline) => Some(newline + 1..length),
            None => (self.from == 0).then_some(0..length),
        }
    }

    /// Goes back to the newline before what is in the buffer, or to the beginning.
    fn skip(&mut self) -> Result<()> {
        loop {
            self.buffer = self.block()?;
            if let Some(newline) = memchr::memrchr(b'\n', &self.buffer) {
                self.buffer.truncate(newline + 1);
                return Ok(());
            }
            if self.from == 0 {
                self.buffer.clear();
                return Ok(());
            }
        }
    }

    /// The block before the buffer.
    fn block(&mut self) -> Result<Vec<u8>> {
        let length = BLOCK.min(usize::try_from(self.from).unwrap_or(BLOCK));
        let mut block = vec![0; length];
        let from = self.from - length as u64;
        match self.file.read_exact_at(&mut block, from) {
            // Someone has cut the file meanwhile: what is left of it is another file's beginning, so to say.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(Error::other("it became shorter")),
            read => read.map(|()| {
                self.from = from;
                block
            }),
        }
    }
}

//! A file's lines in order, in bounded memory, whatever is in the file, while it may still grow.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileExt;

use super::MOST_LINE;

/// The longest line and its newline, and enough to read at a time.
const BUFFER: usize = MOST_LINE + 1 + (64 << 10);

/// Goes through the complete lines of a file. What follows the last newline is looked at again each time, for the
/// writer cuts it off and writes it anew when it could not write all of it.
#[derive(Debug, Default)]
pub struct Forward {
    buffer: Vec<u8>,
    /// What of the buffer is not given yet.
    start: usize,
    end: usize,
    /// Where in the file that ends.
    at: u64,
    /// Where in the file a line begins that is too long, and whose end has not come.
    long: Option<u64>,
}

/// What is in the buffer.
#[derive(Debug)]
pub enum Step<'a> {
    /// A line, without its newline.
    Line(&'a [u8]),
    /// A line too long to be an entry has ended.
    TooLong,
    /// No complete line: [`Forward::fill`].
    Nothing,
}

impl Forward {
    /// Goes to a line's beginning, `at` bytes into a file.
    pub fn go_to(&mut self, at: u64) {
        (self.start, self.end, self.at, self.long) = (0, 0, at, None);
    }

    /// The next line that has been read.
    pub fn step(&mut self) -> Step<'_> {
        let left = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some(length) = memchr::memchr(b'\n', left) else { return Step::Nothing };
        let line = self.start..self.start + length;
        self.start = line.end + 1;
        if self.long.take().is_some() {
            return Step::TooLong;
        }
        Step::Line(self.buffer.get(line).unwrap_or_default())
    }

    /// Reads on, after [`Step::Nothing`]. False at the end of the file, for now.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn fill(&mut self, file: &File) -> Result<bool> {
        self.make_room();
        let Some(room) = self.buffer.get_mut(self.end..) else { return Ok(false) };
        let read = loop {
            match file.read_at(room, self.at) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.end += read;
        self.at += read as u64;
        Ok(read > 0 || self.give_back(file)?)
    }

    fn make_room(&mut self) {
        self.buffer.resize(BUFFER, 0);
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.long.is_some() || self.end > MOST_LINE {
            self.long.get_or_insert(self.at - self.end as u64);
            self.end = 0;
        }
    }

    /// At the end of the file: the line that has no end yet will be read again. True if that is to be now.
    fn give_back(&mut self, file: &File) -> Result<bool> {
        match self.long {
            // Not all of it, unless it was cut off: it may be endless.
            Some(start) if file.metadata()?.len() < self.at => {
                self.go_to(start);
                return Ok(true);
            }
            Some(_) => {}
            None => self.go_to(self.at - self.end as u64),
        }
        Ok(false)
    }

    /// The memory that this takes, in bytes.
    pub fn memory(&self) -> usize {
        self.buffer.capacity()
    }
}

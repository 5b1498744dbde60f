//! Where the last lines of a log begin.

use anyhow::{Context, Result};

use super::backward::Backward;
use super::files::LogFile;
use super::line::{self, Line};
use super::{Offsets, Stream};

/// When all lines are found, so many bytes more are searched for the beginnings of those that have several entries: one
/// that was written long ago must not make us read all there is.
const FURTHER: usize = 1 << 20;

/// A line of a file.
pub(super) struct Place {
    /// Which of the files.
    pub index: usize,
    /// Where in the file it begins.
    pub at: u64,
}

/// Where the last `count` lines of `files`, the oldest first, begin: a place, and how far each stream had come there.
/// What comes after the place, but before the stream had come so far, does not belong to them. No offsets if there is
/// no entry.
pub(super) fn find(files: &[LogFile], count: u64) -> Result<(Place, Option<Offsets>)> {
    let mut tail = Tail { left: count, further: 0, wanted: None, seen: [false; 2], open: [false; 2] };
    let mut place = None;
    let (mut line, mut output) = (Vec::new(), Vec::new());
    for (index, file) in files.iter().enumerate().rev() {
        let cannot = || format!("cannot read the log {}", file.path.display());
        let mut lines = Backward::new(&file.file).with_context(cannot)?;
        // With no lines wanted, or none there, it is the end.
        place.get_or_insert(Place { index, at: lines.end() });
        while let Some(at) = lines.previous(&mut line).with_context(cannot)? {
            let Some(entry) = line::parse(&line, &mut output) else { continue };
            if tail.take(&entry, output.ends_with(b"\n")) {
                place = Some(Place { index, at });
            }
            if tail.is_complete(line.len()) {
                return Ok((place.unwrap_or(Place { index, at }), tail.wanted));
            }
        }
    }
    Ok((place.unwrap_or(Place { index: 0, at: 0 }), tail.wanted))
}

/// What has been found, going backward.
struct Tail {
    /// How many lines are still to be found.
    left: u64,
    /// How many bytes were searched since there are none.
    further: usize,
    /// What each stream's part of the tail begins with.
    wanted: Option<Offsets>,
    /// Whether an entry of the stream was met.
    seen: [bool; 2],
    /// Whether the stream's entry before this one may belong to a line that was found.
    open: [bool; 2],
}

impl Tail {
    /// Whether this entry, the one before the last that was taken, belongs to the tail.
    fn take(&mut self, entry: &Line, ends_line: bool) -> bool {
        let wanted = self.wanted.get_or_insert(entry.after);
        let stream = entry.stream as usize;
        // A last line that has not ended is one, too.
        if ends_line || !self.seen[stream] {
            self.open[stream] = self.left > 0;
            self.left = self.left.saturating_sub(1);
        }
        self.seen[stream] = true;
        if self.open[stream] {
            *wanted.of_mut(entry.stream) = entry.before.of(entry.stream);
        }
        // Nothing is before a stream's beginning.
        let belongs = self.open[stream];
        self.open[stream] &= entry.before.of(entry.stream) > 0;
        belongs
    }

    /// Whether all is found, after an entry in a line of so many bytes.
    fn is_complete(&mut self, length: usize) -> bool {
        if self.left > 0 {
            return false;
        }
        self.further += length;
        self.open == [false; 2] || self.further > FURTHER
    }
}

/// Both streams are told apart by index.
const _: () = assert!(Stream::Stdout as usize == 0 && Stream::Stderr as usize == 1);

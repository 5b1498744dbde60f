//! Reads a log, which may grow and be rotated meanwhile, by this process or another.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use super::files::{self, LogFile};
use super::forward::{Forward, Step};
use super::line::{self, Line};
use super::{MOST_FILES, Offsets, Stream, stamp, tail};

/// A place in a log, for one who reads it. Readers know nothing of each other, and the writer nothing of them.
///
/// A reader holds the files open that it has not read yet, so it loses nothing when they are rotated away while it is
/// slow. It takes hold of newer ones when it reads from the disk, and by [`keep_up`](Self::keep_up): that must happen
/// before a file has come and gone, as many rotations later as files are kept. It holds [`MOST_FILES`] at most, since
/// that is disk space. Who is slower is told what was [`lost`](Entry::lost).
///
/// It blocks for nothing but the disk. To follow, call [`next`](Self::next) until it gives `None`, and again when the
/// writer has written ([`Watch`](super::Watch)).
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    /// Those that are not read yet, the oldest first: it is being read.
    pub(super) files: VecDeque<LogFile>,
    lines: Forward,
    output: Vec<u8>,
    /// What each stream goes on with, if that is known.
    expected: [Option<u64>; 2],
    /// What came before the first entry that was read.
    begun: Option<Offsets>,
    /// Whether each stream's next byte begins a line.
    fresh: [bool; 2],
    only: Option<Stream>,
    since: Option<SystemTime>,
    damaged: u64,
}

/// A piece of output: a line, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where it was written.
    pub stream: Stream,
    /// When it came.
    pub time: SystemTime,
    /// How many bytes of the stream came before it.
    pub offset: u64,
    /// The output, exactly.
    pub output: &'a [u8],
    /// How many bytes of the stream, right before these, should have been given and are no more: they were rotated away
    /// or damaged.
    pub lost: u64,
    /// Whether it begins a line.
    pub begins_line: bool,
}

impl Entry<'_> {
    /// Writes the output, with its time before each line if `timestamps`, as `docker logs` does.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut impl Write, timestamps: bool) -> io::Result<()> {
        if timestamps && self.begins_line {
            out.write_all(&stamp::format(self.time))?;
            out.write_all(b" ")?;
        }
        out.write_all(self.output)
    }
}

impl Reader {
    /// Reads from the oldest entry that is kept.
    ///
    /// # Errors
    /// There is no log, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let files: VecDeque<_> = files::open_newer(path, None)?.into_iter().rev().collect();
        if files.is_empty() {
            bail!("there is no log {}", path.display());
        }
        Ok(Self {
            path: path.to_owned(),
            files,
            lines: Forward::default(),
            output: Vec::new(),
            expected: [None; 2],
            begun: None,
            fresh: [true; 2],
            only: None,
            since: None,
            damaged: 0,
        })
    }

    /// Reads what comes after `offsets`, which need not be the beginning of an entry. What of it is not kept any more
    /// counts as [`lost`](Entry::lost).
    ///
    /// # Errors
    /// There is no log, or it cannot be read.
    pub fn from(path: &Path, offsets: Offsets) -> Result<Self> {
        let mut reader = Self::open(path)?;
        reader.expected = [Some(offsets.stdout), Some(offsets.stderr)];
        // Nothing before a file that begins at or before both offsets is wanted.
        let earlier = |first: Offsets| first.stdout <= offsets.stdout && first.stderr <= offsets.stderr;
        for index in (1..reader.files.len()).rev() {
            if reader.first(index)?.is_some_and(|first| earlier(first.before)) {
                reader.files.drain(..index);
                break;
            }
        }
        reader.lines.go_to(0);
        Ok(reader)
    }

    /// Reads the last `count` lines of both streams together, without reading what is before them, and then goes on. A
    /// line that has no end yet counts, and one of several entries is one line, unless more than 1 MiB stands between
    /// them.
    ///
    /// # Errors
    /// There is no log, or it cannot be read.
    pub fn tail(path: &Path, count: u64) -> Result<Self> {
        let mut reader = Self::open(path)?;
        let (place, wanted) = tail::find(reader.files.make_contiguous(), count)?;
        if let Some(offsets) = wanted {
            reader.expected = [Some(offsets.stdout), Some(offsets.stderr)];
        }
        reader.files.drain(..place.index);
        reader.lines.go_to(place.at);
        Ok(reader)
    }

    /// Leaves out the entries that came before `time`.
    #[must_use]
    pub fn since(self, time: SystemTime) -> Self {
        Self { since: Some(time), ..self }
    }

    /// Leaves out the other stream.
    #[must_use]
    pub fn only(self, stream: Stream) -> Self {
        Self { only: Some(stream), ..self }
    }

    /// The next entry. `None` if there is none yet.
    ///
    /// # Errors
    /// The log cannot be read.
    #[expect(clippy::should_implement_trait, reason = "what it gives is lent")]
    pub fn next(&mut self) -> Result<Option<Entry<'_>>> {
        loop {
            let parsed = match self.lines.step() {
                Step::Line(line) => Some(line::parse(line, &mut self.output)),
                Step::TooLong => Some(None),
                Step::Nothing => None,
            };
            let Some(line) = parsed else {
                if self.read_on()? {
                    continue;
                }
                return Ok(None);
            };
            let Some(line) = line else {
                self.damaged += 1;
                continue;
            };
            if let Some(place) = self.accept(&line) {
                let Place { skip, lost, begins_line } = place;
                let Line { stream, time, before, .. } = line;
                let output = self.output.get(skip..).unwrap_or_default();
                let offset = before.of(stream) + skip as u64;
                return Ok(Some(Entry { stream, time, offset, output, lost, begins_line }));
            }
        }
    }

    /// How many files it holds, [`MOST_FILES`] at most: with so many, it may lose what comes.
    pub fn held(&self) -> usize {
        self.files.len()
    }

    /// How many lines were skipped because they are no log's.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }
}

/// What of an entry is given.
struct Place {
    /// So many bytes have been given already.
    skip: usize,
    lost: u64,
    begins_line: bool,
}

impl Reader {
    /// What of `line`, whose output has been read, is to be given.
    fn accept(&mut self, line: &Line) -> Option<Place> {
        let stream = line.stream as usize;
        let (start, end) = (line.before.of(line.stream), line.after.of(line.stream));
        // The first entry tells of both streams: what the other says next may be lost before it is seen.
        let begun = self.begun.get_or_insert(line.before).of(line.stream);
        let known = self.expected[stream];
        let expected = known.unwrap_or(start);
        if end <= expected {
            return None;
        }
        self.expected[stream] = Some(end);
        let lost = start.saturating_sub(known.unwrap_or(begun));
        let skip = usize::try_from(expected.saturating_sub(start)).unwrap_or(usize::MAX);
        let ends_line = self.output.ends_with(b"\n");
        let begins_line = std::mem::replace(&mut self.fresh[stream], ends_line) || lost > 0;
        let wanted = self.only.is_none_or(|only| only == line.stream)
            && self.since.is_none_or(|since| line.time >= since);
        wanted.then_some(Place { skip, lost, begins_line })
    }

    /// Reads more. False at the end of the newest file.
    fn read_on(&mut self) -> Result<bool> {
        // In this order: what has a successor before its end is read is not written any more.
        self.keep_up()?;
        let Some(file) = self.files.front() else { return Ok(false) };
        if self
            .lines
            .fill(&file.file)
            .with_context(|| format!("cannot read the log {}", file.path.display()))?
        {
            return Ok(true);
        }
        if self.files.len() < 2 {
            return Ok(false);
        }
        self.files.pop_front();
        self.lines.go_to(0);
        Ok(true)
    }

    /// Takes hold of the files that are newer than those it has, without reading: for one who does not read for long,
    /// while the log may be rotated more often than it keeps files.
    ///
    /// # Errors
    /// One cannot be opened.
    pub fn keep_up(&mut self) -> Result<()> {
        let known = self.files.back().map(|file| file.identity);
        let newest = files::newest(&self.path)?;
        if newest.is_none() || newest == known || self.files.len() >= MOST_FILES {
            return Ok(());
        }
        let newer = files::open_newer(&self.path, known)?;
        self.files.extend(newer.into_iter().rev());
        Ok(())
    }

    /// The first entry of one of the files.
    fn first(&mut self, index: usize) -> Result<Option<Line>> {
        let Some(file) = self.files.get(index) else { return Ok(None) };
        self.lines.go_to(0);
        loop {
            match self.lines.step() {
                Step::Line(line) => {
                    let line = line::parse(line, &mut self.output);
                    if line.is_some() {
                        return Ok(line);
                    }
                }
                Step::TooLong => {}
                Step::Nothing => {
                    let read = self.lines.fill(&file.file);
                    if !read.with_context(|| format!("cannot read the log {}", file.path.display()))? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The memory that this takes at most, in bytes.
    pub fn memory(&self) -> usize {
        self.lines.memory() + self.output.capacity()
    }
}

//! Appends to a log, and knows after any end of its process how far it came.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use super::backward::Backward;
use super::encode::Encoder;
use super::{MOST_FILES, Offsets, Stream, files, line, rotation, stamp};

/// So many bytes of lines are written at once, and an entry more.
const BATCH: usize = 256 << 10;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a file. One entry is written though it is longer. By default 10 MB.
    pub max_size: u64,
    /// The most files, the one that is written included: 1 to [`MOST_FILES`]. By default 5.
    pub max_files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_size: 10_000_000, max_files: 5 }
    }
}

/// The one that appends to a log. Another is refused while this one is there, in this process or another.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    limits: Limits,
    file: File,
    /// The file's complete lines, in bytes.
    length: u64,
    /// Whether something stands behind them.
    torn: bool,
    offsets: Offsets,
    encoder: Encoder,
    batch: Vec<u8>,
}

impl Writer {
    /// Opens the log at `path`, or makes it; its folder must be there. A line that was half written is cut off.
    ///
    /// # Errors
    /// It is being written already, it is something else than a log, or cannot be read or written.
    pub fn open(path: &Path, limits: Limits) -> Result<Self> {
        if limits.max_size == 0 || !(1..=MOST_FILES).contains(&limits.max_files) {
            bail!("a log has 1 to {MOST_FILES} files of at least one byte, not {limits:?}");
        }
        let mut writer = Self {
            path: path.to_owned(),
            limits,
            file: open(path)?,
            length: 0,
            torn: true,
            offsets: Offsets::default(),
            encoder: Encoder::default(),
            batch: Vec::new(),
        };
        let (offsets, length) = last(&writer.file, path)?;
        // If nothing was logged since the file was made, or a rotation was cut short, the one before knows.
        writer.offsets = offsets.map_or_else(|| older(path), Ok)?;
        writer.length = length;
        rotation::discard(path)?;
        writer.mend()?;
        Ok(writer)
    }

    /// What has ever been logged: it need not be sent again.
    pub fn offsets(&self) -> Offsets {
        self.offsets
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends `output`, which came at `time`, and returns the offsets after it. One write(2), as long as no file is
    /// full and `output` is not many times as long as what a channel gives at once.
    ///
    /// # Errors
    /// Not all of it could be written, and why; a full disk, mostly. What was is in [`offsets`](Self::offsets): the rest may be
    /// appended later, from there.
    pub fn append(&mut self, stream: Stream, output: &[u8], time: SystemTime) -> Result<Offsets> {
        let result = self.append_all(stream, output, time);
        self.batch.clear();
        if result.is_err() {
            self.encoder.forget();
        }
        result.map(|()| self.offsets)
    }

    fn append_all(&mut self, stream: Stream, mut output: &[u8], time: SystemTime) -> Result<()> {
        self.mend()?;
        let text = std::str::from_utf8(output).is_ok();
        let stamp = stamp::format(time);
        let mut next = self.offsets;
        // Whether the batch is the beginning of a new file.
        let mut fresh = false;
        while !output.is_empty() {
            let start = self.batch.len();
            let taken = self.encoder.push(&mut self.batch, stream, output, text, &stamp, &next);
            let before = if fresh { 0 } else { self.length } + start as u64;
            let entry = (self.batch.len() - start) as u64;
            if before > 0 && before + entry > self.limits.max_size {
                self.flush(start, fresh, next)?;
                fresh = true;
            }
            *next.of_mut(stream) += taken as u64;
            output = &output[taken..];
            if self.batch.len() >= BATCH {
                self.flush(self.batch.len(), fresh, next)?;
                fresh = false;
            }
        }
        self.flush(self.batch.len(), fresh, next)
    }

    /// Writes the first `length` bytes of the batch, and removes them from it. `after` are the offsets then.
    fn flush(&mut self, length: usize, fresh: bool, after: Offsets) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        if fresh {
            self.rotate(length).with_context(|| format!("cannot rotate the log {}", self.path.display()))?;
        } else if let Err((written, why)) = write_all(&self.file, &self.batch[..length]) {
            self.keep(written);
            return Err(why).with_context(|| format!("cannot write to the log {}", self.path.display()));
        } else {
            self.length += length as u64;
        }
        self.offsets = after;
        self.batch.drain(..length);
        Ok(())
    }

    /// Begins a new file with the first `length` bytes of the batch.
    fn rotate(&mut self, length: usize) -> Result<()> {
        let file = rotation::begin(&self.path)?;
        let lines = &self.batch[..length];
        let made = write_all(&file, lines)
            .or_else(|(_, why)| {
                // The oldest file is about to go. If that is what the disk lacks, it goes now.
                rotation::drop_oldest(&self.path, self.limits.max_files).map_err(|_| why)?;
                file.set_len(0)?;
                write_all(&file, lines).map_err(|(_, why)| why)
            })
            .map_err(anyhow::Error::from)
            .and_then(|()| rotation::finish(&self.path, self.limits.max_files));
        if let Err(why) = made {
            // Nobody has seen it. If it stays, it is removed the next time.
            let _ = rotation::discard(&self.path);
            return Err(why);
        }
        self.file = file;
        self.length = length as u64;
        Ok(())
    }

    /// Keeps the lines that are complete, of the `written` bytes of the batch that reached the file: a reader may have
    /// had them already. The rest is cut off.
    fn keep(&mut self, written: usize) {
        let complete = memchr::memrchr(b'\n', &self.batch[..written]).map_or(0, |newline| newline + 1);
        if let Some(lines) = self.batch[..complete].strip_suffix(b"\n") {
            let start = memchr::memrchr(b'\n', lines).map_or(0, |newline| newline + 1);
            // Always a line: it was made here.
            if let Some(line) = line::parse(&lines[start..], &mut Vec::new()) {
                self.offsets = line.after;
            }
        }
        self.length += complete as u64;
        self.torn = written > complete;
        // If it cannot be done now, it is done before the next write.
        let _ = self.mend();
    }

    /// Cuts off what was half written.
    fn mend(&mut self) -> Result<()> {
        if self.torn {
            self.file.set_len(self.length).with_context(|| {
                format!("cannot cut off what was half written to {}", self.path.display())
            })?;
            self.torn = false;
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A child that another thread is just starting has the file, too, up to its execve: it would keep the lock.
        drop(self.file.unlock());
    }
}

/// Opens the newest file of a log, or makes it, and keeps other writers away.
fn open(path: &Path) -> Result<File> {
    let cannot = || format!("cannot open the log {}", path.display());
    let file = match OpenOptions::new().read(true).append(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            rotation::abandoned(path)?;
            rotation::create(path)
        }
        opened => opened,
    };
    let file = file.with_context(cannot)?;
    let identity = files::identity(&file, path)?;
    rotation::lock(&file, path)?;
    // Who had the lock until now may have renamed it.
    if files::newest(path)? != Some(identity) {
        bail!("the log {} is being written by another process", path.display());
    }
    Ok(file)
}

/// The offsets after the last good line of a file, and where its complete lines end. No offsets if there is nothing in
/// it, or only the beginning of its first line.
fn last(file: &File, path: &Path) -> Result<(Option<Offsets>, u64)> {
    let cannot = || format!("cannot read the log {}", path.display());
    let mut lines = Backward::new(file).with_context(cannot)?;
    let end = lines.end();
    let (mut line, mut output) = (Vec::new(), Vec::new());
    while lines.previous(&mut line).with_context(cannot)?.is_some() {
        if let Some(line) = line::parse(&line, &mut output) {
            return Ok((Some(line.after), end));
        }
    }
    let mut head = [0; line::HEAD.len()];
    let length = file.read_at(&mut head, 0).with_context(cannot)?;
    if end > 0 || !line::HEAD.starts_with(&head[..length]) {
        bail!("{} is not a log: not one line of it is a log's", path.display());
    }
    Ok((None, 0))
}

/// The offsets that the files before the newest end with.
fn older(path: &Path) -> Result<Offsets> {
    for number in files::numbers(path)? {
        let Some(older) = files::open(files::numbered(path, number))? else { continue };
        if let (Some(offsets), _) = last(&older.file, &older.path)? {
            return Ok(offsets);
        }
    }
    Ok(Offsets::default())
}

/// Writes all of `bytes`, or says how many it has written.
fn write_all(mut file: &File, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err((written, e)),
        }
    }
    Ok(())
}

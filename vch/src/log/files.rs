//! The files of a log, which the writer may rename at any time.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

/// An open file of a log.
#[derive(Debug)]
pub struct LogFile {
    /// The file, to be read.
    pub file: File,
    /// Which it is. No other file has it while this one is open.
    pub identity: Identity,
    /// Its name when it was opened.
    pub path: PathBuf,
}

/// The name of the file that was rotated away `number` files ago.
pub fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 { path.to_owned() } else { with_suffix(path, &number.to_string()) }
}

/// The name of a file that is being made.
pub fn unfinished(path: &Path) -> PathBuf {
    with_suffix(path, "new")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The numbers of the files that were rotated away, rising.
///
/// # Errors
/// The folder cannot be read.
pub fn numbers(path: &Path) -> Result<Vec<u32>> {
    let name = path.file_name().with_context(|| format!("{} is no name for a log", path.display()))?;
    let folder = folder(path);
    let entries = folder.read_dir().with_context(|| format!("cannot list {}", folder.display()))?;
    let mut numbers = Vec::new();
    for entry in entries {
        let found = entry.with_context(|| format!("cannot list {}", folder.display()))?.file_name();
        let suffix = found.as_encoded_bytes().strip_prefix(name.as_encoded_bytes());
        let suffix = suffix.and_then(|suffix| suffix.strip_prefix(b"."));
        let number = suffix.and_then(|suffix| std::str::from_utf8(suffix).ok()?.parse::<u32>().ok());
        // Not "007" or "+7": that is someone else's.
        numbers.extend(
            number.filter(|number| *number > 0 && numbered(path, *number).file_name() == Some(&found)),
        );
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The folder that a log is in.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Which file has the log's name now. `None` if there is none: before the first output, and for an instant in each
/// rotation.
///
/// # Errors
/// It cannot be known.
pub fn newest(path: &Path) -> Result<Option<Identity>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(Identity { device: found.dev(), inode: found.ino() })),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot look at the log {}", path.display())),
    }
}

/// Opens the newest files of a log, the newest first: those that are newer than `known`, or all.
///
/// # Errors
/// One cannot be opened, or is not a regular file.
pub fn open_newer(path: &Path, known: Option<Identity>) -> Result<Vec<LogFile>> {
    // Files are only ever renamed to a higher number, the highest first. So whoever opens them from the lowest on may
    // meet one twice, but misses none.
    let last = numbers(path)?.last().map_or(0, |last| last.saturating_add(1));
    let mut files: Vec<LogFile> = Vec::new();
    for number in 0..=last {
        let Some(found) = open(numbered(path, number))? else { continue };
        if Some(found.identity) == known {
            break;
        }
        if files.iter().all(|file| file.identity != found.identity) {
            files.push(found);
        }
    }
    Ok(files)
}

/// Opens one file to be read, if it is there.
pub(super) fn open(path: PathBuf) -> Result<Option<LogFile>> {
    // A FIFO by this name must not stop us.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot open the log {}", path.display())),
    };
    let identity = identity(&file, &path)?;
    Ok(Some(LogFile { file, identity, path }))
}

/// Which file this is.
///
/// # Errors
/// It is not a regular file.
pub(super) fn identity(file: &File, path: &Path) -> Result<Identity> {
    let found = file.metadata().with_context(|| format!("cannot look at the log {}", path.display()))?;
    if !found.is_file() {
        bail!("{} is not a log: it is not a regular file", path.display());
    }
    Ok(Identity { device: found.dev(), inode: found.ino() })
}

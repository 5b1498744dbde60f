//! `x.log` becomes `x.log.1`, which becomes `x.log.2`, and so on, as docker's do.
//!
//! The new file is made under another name, and gets its own with its first entries in it. So at every instant the
//! newest file that is not empty has the log's state, whenever the process is killed, even if there is one file only.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::files::{numbered, numbers, unfinished};

/// Makes the next file of a log, under the name that it has while it is unfinished. It is ours alone.
///
/// # Errors
/// It cannot be made.
pub fn begin(path: &Path) -> Result<File> {
    discard(path)?;
    let new = unfinished(path);
    let file = create(&new).with_context(|| format!("cannot make {}", new.display()))?;
    lock(&file, &new)?;
    Ok(file)
}

/// Removes what [`begin`] has made, if there is something.
///
/// # Errors
/// It cannot be removed.
pub fn discard(path: &Path) -> Result<()> {
    remove(&unfinished(path))
}

/// Nobody is between [`begin`] and [`finish`].
///
/// # Errors
/// Another process is.
pub(super) fn abandoned(path: &Path) -> Result<()> {
    match File::open(unfinished(path)) {
        Ok(file) => lock(&file, path),
        // The next rotation will say what else is wrong with it.
        Err(_) => Ok(()),
    }
}

/// Removes the files that the next rotation would push out.
///
/// # Errors
/// One cannot be removed.
pub fn drop_oldest(path: &Path, max_files: usize) -> Result<()> {
    let found = numbers(path)?;
    let full = found.len() + 1 >= max_files;
    for number in found.iter().filter(|number| full && **number as usize + 1 >= max_files) {
        remove(&numbered(path, *number))?;
    }
    Ok(())
}

/// Gives every file the next name, the unfinished one the log's; of the older ones all go that are too many.
///
/// # Errors
/// Something cannot be renamed. What has the log's name then is the same file as before.
pub fn finish(path: &Path, max_files: usize) -> Result<()> {
    let last = u32::try_from(max_files.saturating_sub(1)).unwrap_or(u32::MAX);
    let found = numbers(path)?;
    for number in found.iter().filter(|number| **number > last) {
        remove(&numbered(path, *number))?;
    }
    // A rotation that was cut short has left a number out: it is filled before anything is thrown away.
    let free = (1..last).find(|number| !found.contains(number)).unwrap_or(last);
    if free > 0 {
        // Renaming over a file makes some file systems (ext4) write to the disk first.
        remove(&numbered(path, free))?;
    }
    for number in (1..free).rev() {
        rename(&numbered(path, number), &numbered(path, number + 1))?;
    }
    let kept = last > 0;
    let first = numbered(path, 1);
    if kept {
        rename(path, &first)?;
    }
    rename(&unfinished(path), path).inspect_err(|_| {
        if kept {
            // Whoever opens the log is to find it. If this fails, too, it is found under the other name.
            let _ = fs::rename(&first, path);
        }
    })
}

/// Makes an empty file to be appended to, readable by its owner alone: output may hold secrets.
pub(super) fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path)
}

/// Keeps other writers away, as long as the file is open.
pub(super) fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(fs::TryLockError::WouldBlock) => {
            bail!("the log {} is being written by another process", path.display())
        }
        Err(fs::TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

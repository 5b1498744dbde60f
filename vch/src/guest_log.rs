//! What the guest's console has said, kept in the container's folder: the kernel's errors and worse (all of its log with
//! `--debug`), and tether's last words.
//!
//! Two files, `guest.log` and the older `guest.log.1`, of at most 256 KiB each. It is for people who look for a fault: a line that the disk
//! has no room for is lost, and nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The most in a file, in bytes.
const MOST: u64 = 256 << 10;

/// The writer's end.
pub struct GuestLog {
    path: PathBuf,
    /// Made with the first line.
    file: Option<File>,
    length: u64,
}

impl GuestLog {
    /// In the folder `dir`, behind what is there.
    pub fn of(dir: &Path) -> Self {
        let path = path(dir);
        let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        Self { path, file: None, length }
    }

    /// Adds a line, which is harmless to a terminal.
    pub fn add(&mut self, line: &str) {
        if self.length + line.len() as u64 >= MOST {
            let _ = fs::rename(&self.path, older(&self.path));
            (self.file, self.length) = (None, 0);
        }
        if self.file.is_none() {
            let options = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path);
            self.file = options.ok();
        }
        if let Some(file) = &mut self.file
            && file.write_all(format!("{line}\n").as_bytes()).is_ok()
        {
            self.length += line.len() as u64 + 1;
        }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("guest.log")
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// All that is kept of the container in `dir`.
///
/// # Errors
/// It cannot be read.
pub fn read(dir: &Path) -> Result<String> {
    let path = path(dir);
    let mut text = vec![];
    for file in [older(&path), path] {
        match fs::read(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            bytes => text.extend(bytes.with_context(|| format!("cannot read {}", file.display()))?),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), "");
        let mut log = GuestLog::of(dir.path());
        log.add("first");
        drop(log);
        let mut log = GuestLog::of(dir.path());
        log.add("second");
        assert_eq!(read(dir.path()).unwrap(), "first\nsecond\n");
        for number in 0..100_000 {
            log.add(&format!("line {number}"));
        }
        let text = read(dir.path()).unwrap();
        assert!(text.len() as u64 <= 2 * MOST && text.len() as u64 > MOST, "{}", text.len());
        let numbers: Vec<u32> = text.lines().map(|line| line[5..].parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]) && numbers.last() == Some(&99_999));
    }
}

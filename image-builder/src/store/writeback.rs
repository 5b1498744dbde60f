//! Writing a file that will be synced at its end: the device begins while more is still being made.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;

/// What is handed to the device at once.
const STEP: u64 = 8 << 20;

/// A file whose pages go to the device soon after they are written.
pub struct WriteBack<'a> {
    file: &'a File,
    position: u64,
    /// All before it is on its way.
    begun: u64,
}

impl<'a> WriteBack<'a> {
    /// From the file's start.
    pub fn new(file: &'a File) -> Self {
        Self { file, position: 0, begun: 0 }
    }

    /// The sync at the end will tell of errors.
    fn begin(&mut self) {
        let range = i64::try_from(self.begun).ok().zip(i64::try_from(self.position - self.begun).ok());
        if let Some((start, length)) = range {
            // SAFETY: takes no pointers, and the descriptor is open.
            unsafe {
                libc::sync_file_range(self.file.as_raw_fd(), start, length, libc::SYNC_FILE_RANGE_WRITE)
            };
        }
        self.begun = self.position;
    }
}

impl Write for WriteBack<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.position += n as u64;
        if self.position >= self.begun + STEP {
            self.begin();
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for WriteBack<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = self.file.seek(to)?;
        Ok(self.position)
    }
}

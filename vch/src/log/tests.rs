//! What a log promises, tried out. Nothing here needs root; what does says so.

mod crash;
mod format;
mod full_disk;
mod reading;
mod recovery;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use super::{Limits, Offsets, Reader, Stream, Writer};

const BOTH: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// A folder for a log, and its name.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    (folder, path)
}

/// 2026-11-24T02:50:00.123456789Z, and so many seconds.
fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::new(1_795_488_600 + seconds, 123_456_789)
}

fn writer(path: &Path, max_size: u64, max_files: usize) -> Writer {
    Writer::open(path, Limits { max_size, max_files }).unwrap()
}

/// All that `reader` gives of each stream. Nothing may be lost.
fn drain(reader: &mut Reader) -> [Vec<u8>; 2] {
    let mut output = [Vec::new(), Vec::new()];
    while let Some(entry) = reader.next().unwrap() {
        assert_eq!(entry.lost, 0, "{entry:?}");
        output[entry.stream as usize].extend_from_slice(entry.output);
    }
    output
}

/// All that is kept, both streams in order.
fn text(mut reader: Reader) -> String {
    let mut text = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        entry.write_to(&mut text, false).unwrap();
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A generator that every run repeats.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).unwrap() % limit
    }

    /// Output of some kind: text, colours, characters of two to four bytes, or anything.
    fn output(&mut self, length: usize) -> Vec<u8> {
        let kind = self.below(5);
        let mut output = Vec::new();
        while output.len() < length {
            match (kind, self.below(12)) {
                (0 | 1, 0) | (2, 0..3) => output.push(b'\n'),
                (0, _) => output.extend_from_slice(b"ordinary "),
                (1, _) => output.extend_from_slice("\u{1b}[1m\"é€😀\\\t\u{2028}\u{fffd}\r\u{7f}".as_bytes()),
                (2, _) => output.push(self.next().to_le_bytes()[0]),
                (3, _) => output.extend_from_slice("€😀".as_bytes()),
                (_, _) => output.extend_from_slice(&[b'x'; 1000]),
            }
        }
        output.truncate(length);
        output
    }
}

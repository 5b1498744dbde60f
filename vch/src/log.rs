//! The container's output, kept on the host: bounded, rotated, and exact to the byte.
//!
//! What is in the log has been received and may be acknowledged to the guest; the rest is sent again. So the log, not
//! the process that writes it, knows how much of the output has come: it may be killed with -9 at any instant. (A crash
//! of the host itself may take what the kernel had not yet written to disk: nothing is synced.)
//!
//! - [`writer`]: appends and recovers; [`rotation`]: `x.log` becomes `x.log.1`; [`files`]: which files there are
//! - [`reader`]: from the beginning, [`tail`](Reader::tail), [`from`](Reader::from); follows; [`watch`]: when to look
//!   again
//! - [`mod@line`]: one entry, read; [`encode`]: one entry, written; [`stamp`]: its time
//! - [`forward`], [`backward`]: a file's lines, either way, in bounded memory
//!
//! # Format
//! What docker's `json-file` driver writes, one JSON object a line, with keys of ours that docker's readers ignore:
//!
//! ```json
//! {"log":"text\n","stream":"stdout","time":"2026-11-24T02:50:00.123456789Z","offset":[1234,56]}
//! {"log":"caf�\n","stream":"stderr","time":"2026-11-24T02:50:01.000000000Z","offset":[1239,56],"raw":"Y2Fm6Qo="}
//! ```
//!
//! - An entry ends at a newline, after 16 KiB at the latest (as docker's do; but not within a character), or where the
//!   output ended for the time being: then `log` ends without a newline, and the stream's next entry goes on with the
//!   line.
//! - `log` is the text. Where the output is not UTF-8, it has U+FFFD in place of each wrong sequence, as docker has it,
//!   and `raw` has the exact bytes in base64. A character that is cut in two by the end of an entry is shown by the
//!   second: both have a `raw`.
//! - `time` is in UTC, always with nine digits of nanoseconds.
//! - `offset` is how many bytes of stdout and of stderr came before this entry, since the log was begun. So any single
//!   line tells the whole state, and a file needs no header.
//!
//! Keys stand in this order, without spaces, and text has only the escapes that it must have (`\" \\ \n \r \t`,
//! `\u001b`): a line that is anything else is damage, and is skipped. The newest file is `x.log`, the next older
//! `x.log.1` and so on; `x.log.new` is one that is being made.

pub mod backward;
pub mod encode;
pub mod files;
pub mod forward;
pub mod line;
pub mod reader;
pub mod rotation;
pub mod stamp;
mod tail;
pub mod watch;
pub mod writer;

pub use reader::{Entry, Reader};
pub use watch::Watch;
pub use writer::{Limits, Writer};

/// The most bytes of output in one entry, its newline included. Docker's.
pub const MOST_OUTPUT: usize = 16 << 10;
/// The longest line of a file, in bytes: every byte as an escape, the same in base64, and what stands around them.
pub const MOST_LINE: usize = 6 * MOST_OUTPUT + MOST_OUTPUT.div_ceil(3) * 4 + 256;
/// The most files of a log, and the most that a reader holds open.
pub const MOST_FILES: usize = 32;

/// Where a process writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// What it says.
    Stdout,
    /// What it complains about. A terminal has none: all its output is stdout.
    Stderr,
}

/// Bytes of each stream, since the log was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// Of stdout.
    pub stdout: u64,
    /// Of stderr.
    pub stderr: u64,
}

impl Offsets {
    /// Those of `stream`.
    pub fn of(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }

    /// Those of `stream`, to be changed.
    pub fn of_mut(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

#[cfg(test)]
mod tests;

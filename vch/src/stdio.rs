//! The user's side: stdin, stdout, stderr, and signals.
//!
//! Promise: nothing here waits. The descriptors are shared with whoever started us, so they are not made non-blocking:
//! pipes and terminals are opened anew for that, and what cannot be is written in pieces that poll(2) vouches for.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};

/// What poll(2) means by "writable", for a pipe (pipe(7), `PIPE_BUF`): so much can be written without waiting.
const SAFE: usize = 4096;

/// What the container's streams are connected to, and where signals come from.
#[derive(Debug)]
pub struct Stdio {
    /// Read from when the container wants it.
    pub stdin: OwnedFd,
    /// Written to as the container writes.
    pub stdout: OwnedFd,
    /// Written to as the container writes; our own sentences go there too.
    pub stderr: OwnedFd,
    /// Yields a `struct signalfd_siginfo` for each signal that we are to act upon: [`catch`](crate::signals::catch)'s, or any other.
    pub signals: Option<OwnedFd>,
}

impl Stdio {
    /// This process's own, with `signals`.
    ///
    /// # Errors
    /// The system's.
    pub fn inherited(signals: Option<OwnedFd>) -> Result<Self> {
        Ok(Self {
            stdin: std::io::stdin().as_fd().try_clone_to_owned()?,
            stdout: std::io::stdout().as_fd().try_clone_to_owned()?,
            stderr: std::io::stderr().as_fd().try_clone_to_owned()?,
            signals,
        })
    }

    /// Writes `text` to stderr if that takes no wait. A word that nobody can read is lost, and nothing else.
    pub fn tell(&self, text: &str) {
        if ready(&self.stderr, PollFlags::POLLOUT) {
            let bytes = text.as_bytes();
            let _ = nix::unistd::write(&self.stderr, bytes.get(..SAFE).unwrap_or(bytes));
        }
    }
}

fn ready(descriptor: &OwnedFd, events: PollFlags) -> bool {
    let mut poller = [PollFd::new(descriptor.as_fd(), events)];
    poll(&mut poller, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        && poller[0].revents().is_some_and(|got| got.intersects(events))
}

/// Somewhere to write to, without waiting.
#[derive(Debug)]
pub struct Output {
    descriptor: OwnedFd,
    /// The most that is written at a time.
    piece: usize,
    /// Our own words, which go before the container's next ones.
    words: Vec<u8>,
}

impl Output {
    /// On `descriptor`, which is kept as it is.
    ///
    /// # Errors
    /// The system's.
    pub fn new(descriptor: &OwnedFd) -> Result<Self> {
        let kind = kind(descriptor)?;
        let own = match kind {
            SFlag::S_IFIFO | SFlag::S_IFCHR => reopen(descriptor, false),
            _ => None,
        };
        let piece = if own.is_some() || kind == SFlag::S_IFREG { usize::MAX } else { SAFE };
        let descriptor = own.map_or_else(|| descriptor.try_clone(), Ok)?;
        Ok(Self { descriptor, piece, words: Vec::new() })
    }

    /// Adds a line of our own.
    pub fn say(&mut self, line: &str) {
        self.words.extend_from_slice(line.as_bytes());
        self.words.push(b'\n');
    }

    /// Forgets our own words: nobody will read them.
    pub fn give_up(&mut self) {
        self.words.clear();
    }

    /// Bytes of our own that wait to be written.
    pub fn waiting(&self) -> usize {
        self.words.len()
    }

    /// Writes our own words, or else `pending`; says how many bytes of `pending` were written. 0 means later.
    ///
    /// # Errors
    /// The system's: `EPIPE` when nobody reads any more.
    pub fn write(&mut self, pending: &[u8]) -> Result<usize, Errno> {
        let ours = !self.words.is_empty();
        let bytes = if ours { &self.words } else { pending };
        let piece = bytes.get(..self.piece).unwrap_or(bytes);
        match nix::unistd::write(&self.descriptor, piece) {
            Ok(count) if ours => {
                self.words.drain(..count);
                Ok(0)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            written => written,
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Somewhere to read from, without waiting.
#[derive(Debug)]
pub struct Input {
    descriptor: OwnedFd,
    /// What was given, to be polled: a FIFO that is opened when its last writer has gone never tells of the end.
    original: OwnedFd,
}

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    /// So many bytes, at least one.
    Bytes(usize),
    /// The end.
    End,
    /// Nothing now.
    Later,
}

impl Input {
    /// On `descriptor`, which is kept as it is.
    ///
    /// # Errors
    /// The system's.
    pub fn new(descriptor: &OwnedFd) -> Result<Self> {
        let own = match kind(descriptor)? {
            SFlag::S_IFIFO | SFlag::S_IFCHR => reopen(descriptor, true),
            _ => None,
        };
        let original = descriptor.try_clone()?;
        Ok(Self { descriptor: own.map_or_else(|| descriptor.try_clone(), Ok)?, original })
    }

    /// Reads into `room`, which is not empty.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, room: &mut [u8]) -> Result<Got, Errno> {
        match nix::unistd::read(&self.descriptor, room) {
            // EIO: the terminal has been hung up, or is another process group's (read(2)).
            Ok(0) | Err(Errno::EIO) => Ok(Got::End),
            Ok(count) => Ok(Got::Bytes(count)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Got::Later),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.original.as_fd()
    }
}

fn kind(descriptor: &OwnedFd) -> Result<SFlag> {
    let mode = fstat(descriptor).context("cannot stat a standard stream")?.st_mode;
    Ok(SFlag::from_bits_truncate(mode) & SFlag::S_IFMT)
}

/// The same pipe or terminal under an open file description of our own, non-blocking. It may be refused: another
/// user's terminal, a pipe whose reader has gone.
fn reopen(descriptor: &OwnedFd, read: bool) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let mut open = OpenOptions::new();
    open.read(read).write(!read).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    open.open(path).ok().map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::io::Read;

    fn socket_pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn a_full_pipe_or_socket_does_not_hold_us() {
        for (reader, writer) in [nix::unistd::pipe().unwrap(), socket_pair()] {
            let mut output = Output::new(&writer).unwrap();
            let mut written = 0;
            while ready(&writer, PollFlags::POLLOUT) {
                written += output.write(&[7; 100_000]).unwrap();
            }
            assert!(written >= SAFE);
            let flags = OFlag::from_bits_truncate(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
            assert!(!flags.contains(OFlag::O_NONBLOCK), "the shared description is as it was");
            drop(reader);
            assert_eq!(output.write(b"x"), Err(Errno::EPIPE));
        }
    }

    #[test]
    fn our_words_go_first_and_whole() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut output = Output::new(&writer).unwrap();
        output.say("ours");
        assert_eq!(output.write(b"theirs").unwrap(), 0);
        assert_eq!(output.write(b"theirs").unwrap(), 6);
        drop((output, writer));
        let mut text = String::new();
        std::fs::File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "ours\ntheirs");
    }

    #[test]
    fn input_has_bytes_or_waits_or_ends() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let input = Input::new(&reader).unwrap();
        let mut room = [0; 10];
        assert_eq!(input.read(&mut room), Ok(Got::Later));
        nix::unistd::write(&writer, b"abc").unwrap();
        assert_eq!(input.read(&mut room), Ok(Got::Bytes(3)));
        drop(writer);
        assert_eq!(input.read(&mut room), Ok(Got::End));
    }
}

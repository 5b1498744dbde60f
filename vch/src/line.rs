//! A line between two of our processes: the protocol's link on a UNIX socket, which is never waited for.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags};
use protocol::{Link, Stream};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::random;

/// Read at a time.
const CHUNK: usize = 64 << 10;

/// One end of it. `In` and `Out` are the messages that it receives and sends.
pub struct Line<In, Out> {
    socket: UnixStream,
    /// What is said on it.
    pub link: Link<In, Out>,
}

impl<In: DeserializeOwned, Out: Serialize> Line<In, Out> {
    /// The end that has connected: it is in the protocol's host's place.
    ///
    /// # Errors
    /// The system's.
    pub fn connected(socket: UnixStream) -> Result<Self> {
        socket.set_nonblocking(true)?;
        let nonce = random::bytes().context("cannot read random numbers")?;
        Ok(Self { socket, link: Link::host(nonce, false) })
    }

    /// The end that was connected to.
    ///
    /// # Errors
    /// The system's.
    pub fn accepted(socket: UnixStream) -> Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, link: Link::guest() })
    }

    /// What to poll for; without `hearing` nothing is read.
    pub fn interest(&self, hearing: bool) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, hearing);
        flags.set(PollFlags::POLLOUT, !self.link.output().is_empty());
        PollFd::new(self.socket.as_fd(), flags)
    }

    /// Writes and reads what poll(2) has said is possible. Says whether the other end is still there.
    ///
    /// # Errors
    /// What has come makes no sense.
    pub fn turn(&mut self, flags: PollFlags) -> Result<bool> {
        // What was said before the other end has gone is still to be read.
        let there = !flags.contains(PollFlags::POLLOUT) || self.flush();
        if there && flags == PollFlags::POLLOUT {
            return Ok(true);
        }
        let mut chunk = [0; CHUNK];
        match self.socket.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.link.receive(chunk.get(..count).unwrap_or_default())?;
                Ok(true)
            }
            Err(error) => Ok(there && is_passing(&error)),
        }
    }

    /// Writes what waits, as far as the socket takes it. Says whether the other end is still there.
    pub fn flush(&mut self) -> bool {
        if self.link.output().is_empty() {
            return true;
        }
        match self.socket.write(self.link.output()) {
            Ok(count) => {
                self.link.wrote(count);
                true
            }
            Err(error) => is_passing(&error),
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Adds as much of `bytes` to a stream as there is room for; gives how much.
pub fn put<In, Out>(link: &mut Link<In, Out>, session: u32, stream: Stream, bytes: &[u8]) -> usize
where
    In: DeserializeOwned,
    Out: Serialize,
{
    let mut rest = bytes;
    while !rest.is_empty() {
        let copy = |room: &mut [u8]| {
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            Ok::<_, Infallible>(count)
        };
        match link.fill(session, stream, copy) {
            Ok(Some(count)) if count > 0 => rest = &rest[count..],
            _ => break,
        }
    }
    bytes.len() - rest.len()
}

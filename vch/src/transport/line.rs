//! The host's end of the channel's line.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use protocol::{HostLink, Patience, State};

use super::vsock::Doors;

/// The line, whatever carries it.
#[derive(Debug)]
pub struct Line {
    end: End,
    lossy: bool,
    patience: Patience,
    /// Something has come or gone, beside greetings, since the last look at `patience`.
    moved: bool,
}

#[derive(Debug)]
enum End {
    Stream(UnixStream),
    Doors(Doors),
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The line is new: nothing that was written to the last one is on it.
    Came,
    /// The line is gone; the guest will make another one.
    Went,
    /// The line has ended for good.
    Ended,
}

impl Line {
    /// A socket of QEMU's, which does not block.
    pub fn stream(socket: UnixStream, lossy: bool) -> Self {
        Self { end: End::Stream(socket), lossy, patience: Patience::default(), moved: false }
    }

    /// A line that the guest makes.
    pub fn doors(doors: Doors) -> Self {
        Self { end: End::Doors(doors), lossy: false, patience: Patience::default(), moved: false }
    }

    /// Whether it loses bytes.
    pub fn is_lossy(&self) -> bool {
        self.lossy
    }

    /// Whether there is a line now.
    pub fn is_up(&self) -> bool {
        match &self.end {
            End::Stream(_) => true,
            End::Doors(doors) => doors.line().is_some(),
        }
    }

    /// What to poll, also for becoming writable if there is something to be said.
    pub fn interests(&self, sending: bool) -> Vec<PollFd<'_>> {
        let mut flags = PollFlags::POLLIN;
        flags.set(PollFlags::POLLOUT, sending);
        match &self.end {
            End::Stream(socket) => vec![PollFd::new(socket.as_fd(), flags)],
            End::Doors(doors) => {
                let others = doors.others().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                doors.line().map(|line| PollFd::new(line, flags)).into_iter().chain(others).collect()
            }
        }
    }

    /// Reads what has come for a link in this state.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&mut self, chunk: &mut [u8], state: State) -> Result<Arrival> {
        let arrival = match &mut self.end {
            End::Doors(doors) => doors.read(chunk)?,
            End::Stream(socket) => match socket.read(chunk) {
                Ok(0) => Arrival::Ended,
                Ok(count) => Arrival::Bytes(count),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    Arrival::Nothing
                }
                // A reset is how a socket ends whose other end left something unread.
                Err(e) if e.kind() == ErrorKind::ConnectionReset => Arrival::Ended,
                Err(e) => return Err(e.into()),
            },
        };
        self.moved |= matches!(arrival, Arrival::Bytes(_)) && state == State::Connected;
        Ok(arrival)
    }

    /// Writes what the link has to say, as far as the line takes it. Says whether it took any.
    ///
    /// # Errors
    /// The system's.
    pub fn flush(&mut self, link: &mut HostLink) -> io::Result<bool> {
        if link.output().is_empty() {
            return Ok(false);
        }
        let written = match &mut self.end {
            End::Doors(doors) => doors.write(link.output()),
            End::Stream(socket) => socket.write(link.output()),
        };
        match written {
            Ok(count) => {
                self.moved |= link.state() == State::Connected;
                link.wrote(count);
                Ok(count > 0)
            }
            Err(e) => match e.raw_os_error().map(Errno::from_raw) {
                // EPIPE: QEMU is gone. What it has sent before is still to be read.
                Some(Errno::EAGAIN | Errno::EINTR | Errno::EPIPE | Errno::ECONNRESET) => Ok(false),
                _ => Err(e),
            },
        }
    }

    /// When to call [`Line::turn`], whatever happens.
    pub fn due(&self) -> Option<Instant> {
        let lost = match &self.end {
            End::Doors(doors) => doors.deadline(),
            End::Stream(_) => None,
        };
        self.patience.end().into_iter().chain(lost).min()
    }

    /// Begins anew where the line has lost what was said last.
    ///
    /// # Errors
    /// A line that was lost did not come back.
    pub fn turn(&mut self, link: &mut HostLink) -> Result<()> {
        let now = Instant::now();
        if let End::Doors(doors) = &self.end
            && doors.deadline().is_some_and(|deadline| deadline <= now)
        {
            bail!("the guest's vsock connection has ended, and it has not made another one");
        }
        let moved = std::mem::take(&mut self.moved);
        if self.lossy && self.patience.is_over(now, moved, link.unacknowledged()) {
            link.resync();
        }
        Ok(())
    }

    /// What an arrival means for the link; bytes are handed to it.
    ///
    /// # Errors
    /// What came is not the protocol's.
    pub fn tell(arrival: Arrival, chunk: &[u8], link: &mut HostLink) -> Result<(), protocol::ProtocolError> {
        match arrival {
            Arrival::Bytes(count) => link.receive(chunk.get(..count).unwrap_or_default())?,
            Arrival::Came => link.listen(),
            Arrival::Went => link.disconnect(),
            Arrival::Nothing | Arrival::Ended => {}
        }
        Ok(())
    }
}

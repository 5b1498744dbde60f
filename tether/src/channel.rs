//! The channel: the line to the host, and the protocol's state machine on it.

use crate::failure::Failure;
use crate::line::{Got, Line};
use crate::relay;
use crate::uevents::Uevents;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{Event, GuestLink, Patience, ProtocolError, Report, Stage, State, Stream, ToGuest, ToHost};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// The container's process, as the channel knows it.
pub const SESSION: u32 = 0;

/// How long the host may take to acknowledge a last message before the machine powers off regardless.
const LAST_WORD: Duration = Duration::from_secs(10);

/// The most that a read of a port gives, in bytes. After less there is nothing more for now.
const PAGE: usize = 4096;

/// Bytes of answers that may wait for the host while the machine ends.
const LAST_ANSWERS: usize = 64 << 10;

/// The line to the host, and what is said on it.
pub struct Channel {
    /// The protocol's end.
    pub link: GuestLink,
    /// No host has the other end of the port, as far as the last read knew. Until one has, the port counts as hung up.
    pub deserted: bool,
    line: Line,
    patience: Patience,
    /// Something has come or gone, beside greetings, since the last look at `patience`.
    moved: bool,
    /// The line has another descriptor than when that was last asked.
    renewed: bool,
}

impl Channel {
    /// Waits for the line's device, and opens it.
    pub fn open(events: &Uevents) -> Result<Self, Failure> {
        let line = Line::open(events)?;
        Ok(Self {
            patience: line.patience(),
            line,
            link: GuestLink::guest(),
            deserted: false,
            moved: false,
            renewed: false,
        })
    }

    /// The line, to be polled, if there is one now.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.line.fd()
    }

    /// Whether to look for its becoming writable.
    pub fn is_sending(&self) -> bool {
        self.line.is_dialling() || !self.link.output().is_empty()
    }

    /// Whether the line's descriptor is another one than at the last call.
    pub fn is_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
    }

    /// When [`Channel::turn`] is to be called, whatever happens.
    pub fn due(&self) -> Option<Instant> {
        let patience = self.patience.end().filter(|_| self.line.is_up());
        self.line.due().into_iter().chain(patience).min()
    }

    /// Writes what waits, and does what is due.
    pub fn turn(&mut self) -> Result<(), Failure> {
        let was_up = self.line.is_up();
        self.renewed |= self.line.turn();
        if self.line.may_fall_silent() && self.line.is_up() {
            let (moved, unacknowledged) = (std::mem::take(&mut self.moved), self.link.unacknowledged());
            if self.patience.is_over(Instant::now(), moved, unacknowledged) {
                if self.line.hang_up() {
                    self.renewed = true;
                } else {
                    self.link.resync();
                }
            }
        }
        if was_up && !self.line.is_up() {
            self.link.disconnect();
        }
        self.flush()
    }

    /// Queues a message.
    pub fn send(&mut self, message: &ToHost) -> Result<(), Failure> {
        self.link.send(message).map_err(broken)
    }

    /// Says that an exec cannot be, and ends its session's streams.
    pub fn refuse(&mut self, session: u32, failure: Failure) -> Result<(), Failure> {
        if session != SESSION {
            relay::hang_up(&mut self.link, session);
        }
        self.send(&ToHost::Exec { session, report: Report::Failed(failure.brief()) })
    }

    /// Writes what waits to be written, as far as the line takes it.
    fn flush(&mut self) -> Result<(), Failure> {
        while !self.link.output().is_empty() {
            let count = self.line.write(self.link.output())?;
            if count == 0 {
                break;
            }
            self.moved |= self.link.state() == State::Connected;
            self.link.wrote(count);
        }
        Ok(())
    }

    /// Reads what has come.
    pub fn receive(&mut self) -> Result<(), Failure> {
        let mut bytes = [0; 32 << 10];
        let mut count = 0;
        // A port gives a page at a time. All that the turn of the loop costs, a batch of them costs once.
        let got = loop {
            let got = self.line.read(bytes.get_mut(count..).unwrap_or_default())?;
            if let Got::Bytes(more) = got {
                count += more;
                if more >= PAGE && count < bytes.len() {
                    continue;
                }
            }
            break got;
        };
        if count > 0 {
            self.moved |= self.link.state() == State::Connected;
            self.link.receive(bytes.get(..count).unwrap_or_default()).map_err(broken)?;
        }
        self.deserted = got == Got::Nobody;
        match got {
            Got::Bytes(_) | Got::Nothing | Got::Nobody => {}
            Got::NewLine => self.link.knock(),
            Got::Lost => {
                self.renewed = true;
                self.link.disconnect();
            }
        }
        Ok(())
    }

    /// The next message that has come, if any.
    pub fn message(&mut self) -> Result<Option<ToGuest>, Failure> {
        loop {
            match self.link.event().map_err(broken)? {
                Some(Event::Message(message)) => return Ok(Some(message)),
                // A host has come, or come back: all that concerns it is the link's.
                Some(Event::Connected(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// Waits for the next message, or for one of `events`: then there may be none. Only for the time when nothing else can happen.
    pub fn next_message(&mut self, events: Option<&Uevents>) -> Result<Option<ToGuest>, Failure> {
        self.turn()?;
        if let Some(message) = self.message()? {
            return Ok(Some(message));
        }
        self.wait(None, events.map(Uevents::fd))?;
        self.receive()?;
        self.message()
    }

    /// Whether the line is a UART, as machines have that know nothing of us.
    pub fn is_uart(&self) -> bool {
        matches!(self.line, Line::Serial(_))
    }

    /// Ends the streams, sends the last message and waits until the host has all of it, at most [`LAST_WORD`].
    pub fn say_last(&mut self, message: &ToHost) {
        let end = Instant::now() + LAST_WORD;
        self.link.end(SESSION, Stream::Stdout);
        self.link.end(SESSION, Stream::Stderr);
        let _best_effort = self.send(message);
        loop {
            if Instant::now() >= end || self.turn().is_err() {
                return;
            }
            if self.wait(Some(end), None).is_err() || self.receive().is_err() {
                return;
            }
            loop {
                match self.message() {
                    Ok(None) => break,
                    Ok(Some(ToGuest::Acknowledged)) | Err(_) => return,
                    Ok(Some(ToGuest::Exec(exec))) if self.link.unheard() < LAST_ANSWERS => {
                        let why = Failure::new(Stage::Run, "the container has ended");
                        let _best_effort = self.refuse(exec.session, why);
                    }
                    Ok(Some(_)) => {}
                }
            }
        }
    }

    /// Waits until something can be done, or `other` be read, or until `end`.
    fn wait(&self, end: Option<Instant>, other: Option<BorrowedFd>) -> Result<(), Failure> {
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, self.is_sending());
        let line = self.fd().map(|fd| PollFd::new(fd, wanted));
        let other = other.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let mut fds: Vec<_> = line.into_iter().chain(other).collect();
        let timeout = timeout(end.into_iter().chain(self.due()).min());
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Failure::system(Stage::Channel, "waiting for the host", errno)),
        }
        // The port can be opened a moment before the host's end counts as connected; until then poll(2)
        // returns at once with POLLHUP.
        if fds.iter().filter_map(PollFd::revents).any(|events| events.contains(PollFlags::POLLHUP)) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// How long to wait until then, rounded up.
pub fn timeout(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else { return PollTimeout::NONE };
    let left = until.saturating_duration_since(Instant::now()).as_millis().saturating_add(1);
    i32::try_from(left).ok().and_then(|left| PollTimeout::try_from(left).ok()).unwrap_or(PollTimeout::MAX)
}

fn broken(error: ProtocolError) -> Failure {
    Failure::new(Stage::Channel, error.to_string())
}

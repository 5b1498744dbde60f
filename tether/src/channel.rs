//! The channel: the port to the host, and the protocol's state machine on it.

use crate::failure::{Context, Failure};
use crate::relay;
use crate::uevents::{DEADLINE, Uevents};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{Event, GuestLink, ProtocolError, Report, Stage, Stream, ToGuest, ToHost};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The virtio-serial port's name, as the host gives it.
const PORT: &str = "org.containervm.channel";

/// The container's process, as the channel knows it.
pub const SESSION: u32 = 0;

/// How long the host may take to acknowledge a last message before the machine powers off regardless.
const LAST_WORD: Duration = Duration::from_secs(10);

/// Bytes of answers that may wait for the host while the machine ends.
const LAST_ANSWERS: usize = 64 << 10;

/// An open line to the host.
pub struct Channel {
    /// The protocol's end.
    pub link: GuestLink,
    /// No host has the other end of the port, as far as the last read knew. Until one has, the port counts as hung up.
    pub deserted: bool,
    port: File,
}

impl Channel {
    /// Waits for the port to appear, and opens it.
    pub fn open(events: &Uevents) -> Result<Self, Failure> {
        let path = events.wait_for(|| Ok(find_port()))?.ok_or_else(|| {
            Failure::new(
                Stage::Channel,
                format!("no virtio-serial port named {PORT} within {} s", DEADLINE.as_secs()),
            )
        })?;
        let port = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&path)
            .at(Stage::Channel, || format!("opening {}", path.display()))?;
        Ok(Self { link: GuestLink::guest(), deserted: false, port })
    }

    /// The port, to be polled.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
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

    /// Writes what waits to be written, as far as the port takes it.
    pub fn flush(&mut self) -> Result<(), Failure> {
        while !self.link.output().is_empty() {
            match self.port.write(self.link.output()) {
                Ok(count) => self.link.wrote(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                error => drop(error.at(Stage::Channel, || "writing to the channel")?),
            }
        }
        Ok(())
    }

    /// Reads what has come.
    pub fn receive(&mut self) -> Result<(), Failure> {
        let mut bytes = [0; 32 << 10];
        let read = self.port.read(&mut bytes);
        self.deserted = matches!(read, Ok(0));
        match read {
            Ok(count) => self.link.receive(bytes.get(..count).unwrap_or_default()).map_err(broken),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            error => error.map(drop).at(Stage::Channel, || "reading from the channel"),
        }
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

    /// Waits for the next message. Only for the time when nothing else can happen.
    pub fn wait_for_message(&mut self) -> Result<ToGuest, Failure> {
        loop {
            self.flush()?;
            if let Some(message) = self.message()? {
                return Ok(message);
            }
            self.wait(PollTimeout::NONE)?;
            self.receive()?;
        }
    }

    /// Ends the streams, sends the last message and waits until the host has all of it, at most [`LAST_WORD`].
    pub fn say_last(&mut self, message: &ToHost) {
        let end = Instant::now() + LAST_WORD;
        self.link.end(SESSION, Stream::Stdout);
        self.link.end(SESSION, Stream::Stderr);
        let _best_effort = self.send(message);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if left.is_zero() || self.flush().is_err() {
                return;
            }
            if self.wait(timeout).is_err() || self.receive().is_err() {
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

    fn wait(&self, timeout: PollTimeout) -> Result<(), Failure> {
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !self.link.output().is_empty());
        let mut fds = [PollFd::new(self.port.as_fd(), wanted)];
        poll(&mut fds, timeout).map(drop).at(Stage::Channel, || "waiting for the host")?;
        // The port can be opened a moment before the host's end counts as connected; until then poll(2)
        // returns at once with POLLHUP.
        let [port] = fds;
        if port.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn broken(error: ProtocolError) -> Failure {
    Failure::new(Stage::Channel, error.to_string())
}

/// The device of the port named [`PORT`] (Documentation/ABI: `/sys/class/virtio-ports/*/name`).
fn find_port() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim_end() == PORT).then(|| PathBuf::from("/dev").join(port.file_name()))
    })
}

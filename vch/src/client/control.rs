//! A client that only says something, or waits for the end.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags};
use protocol::Event;

use crate::monitor::message::{Attach, Ended, ToClient, ToMonitor, ToMonitorLink};
use crate::monitor::wait;
use crate::random;

/// A line to a monitor.
pub struct Control {
    line: UnixStream,
    link: ToMonitorLink,
    ended: Option<Ended>,
}

/// What came of waiting.
#[derive(Debug)]
pub enum Heard {
    /// The container has ended.
    Ended(Ended),
    /// What was said has been taken.
    Taken,
    /// It is too late.
    Late,
    /// The monitor is gone.
    Lost,
}

impl Control {
    /// On a line that was just made.
    ///
    /// # Errors
    /// The system's.
    pub fn new(line: UnixStream) -> Result<Self> {
        line.set_nonblocking(true)?;
        let mut link = ToMonitorLink::host(random::bytes().context("cannot read random numbers")?, false);
        link.send(&ToMonitor::Attach(Attach { output: None, stdin: false, owner: false, size: None }))?;
        Ok(Self { line, link, ended: None })
    }

    /// Says `message`, and waits until the monitor has taken it.
    ///
    /// # Errors
    /// The system's.
    pub fn say(&mut self, message: &ToMonitor, deadline: Option<Instant>) -> Result<Heard> {
        self.link.send(message)?;
        self.until(deadline, |control| control.link.unheard() == 0)
    }

    /// Waits for the container's end.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&mut self, deadline: Option<Instant>) -> Result<Heard> {
        self.until(deadline, |_| false)
    }

    fn until(&mut self, deadline: Option<Instant>, done: impl Fn(&Self) -> bool) -> Result<Heard> {
        loop {
            if let Some(ended) = &self.ended {
                return Ok(Heard::Ended(ended.clone()));
            }
            if done(self) {
                return Ok(Heard::Taken);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(Heard::Late);
            }
            if !self.turn(deadline)? {
                return Ok(Heard::Lost);
            }
        }
    }

    /// Waits for something to do, and does it. Says whether the line still stands.
    fn turn(&mut self, deadline: Option<Instant>) -> Result<bool> {
        let passing = |e: &std::io::Error| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !self.link.output().is_empty());
        for ((), flags) in wait::ready(&[((), PollFd::new(self.line.as_fd(), wanted))], deadline)? {
            if flags.contains(PollFlags::POLLOUT) {
                match self.line.write(self.link.output()) {
                    Ok(count) => self.link.wrote(count),
                    Err(e) if passing(&e) => {}
                    Err(_) => return Ok(false),
                }
            }
            if flags == PollFlags::POLLOUT {
                continue;
            }
            let mut chunk = [0; 4096];
            match self.line.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(count) => self.link.receive(chunk.get(..count).unwrap_or_default())?,
                Err(e) if passing(&e) => {}
                Err(_) => return Ok(false),
            }
            while let Some(event) = self.link.event()? {
                if let Event::Message(ToClient::Ended(ended)) = event {
                    self.ended = Some(*ended);
                }
            }
        }
        Ok(true)
    }
}

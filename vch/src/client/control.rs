//! A client that only says something, or waits for the end.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::Result;
use protocol::{Event, Stats};

use crate::monitor::message::{Attach, Ended, ToClient, ToMonitor, ToMonitorLine};
use crate::monitor::wait;

/// A line to a monitor.
pub struct Control {
    line: ToMonitorLine,
    ended: Option<Ended>,
    stats: Option<Stats>,
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
        let mut line = ToMonitorLine::connected(line)?;
        line.link.send(&ToMonitor::Attach(Attach {
            output: None,
            stdin: false,
            owner: false,
            size: None,
        }))?;
        Ok(Self { line, ended: None, stats: None })
    }

    /// Says `messages`, at once, and waits until the monitor has taken them.
    ///
    /// # Errors
    /// The system's.
    pub fn say(&mut self, messages: &[ToMonitor], deadline: Option<Instant>) -> Result<Heard> {
        for message in messages {
            self.line.link.send(message)?;
        }
        self.until(deadline, |control| control.line.link.unheard() == 0)
    }

    /// What the container uses; none if it has ended, the monitor is gone, or the guest does not answer in time.
    ///
    /// # Errors
    /// The system's.
    pub fn stats(&mut self, deadline: Instant) -> Result<Option<Stats>> {
        self.line.link.send(&ToMonitor::Stats)?;
        self.until(Some(deadline), |control| control.stats.is_some())?;
        Ok(self.stats.take())
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
        for ((), flags) in wait::ready(&[((), self.line.interest(true))], deadline)? {
            if !self.line.turn(flags)? {
                return Ok(false);
            }
            while let Some(event) = self.line.link.event()? {
                match event {
                    Event::Message(ToClient::Ended(ended)) => self.ended = Some(*ended),
                    Event::Message(ToClient::Stats(stats)) => self.stats = Some(stats),
                    _ => {}
                }
            }
        }
        Ok(true)
    }
}

//! What the clients say, and what they send as stdin.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use protocol::Stream;
use protocol::oci::ConsoleSize;

use super::message::ToMonitor;
use super::relay::{CHUNK, Relay};
use crate::conversation::{Phase, SESSION};
use crate::exit::End;
use crate::line::put;

impl Relay<'_> {
    /// Does what the clients say.
    pub(super) fn obey(&mut self) -> Result<Option<End>> {
        for message in self.clients.messages(self.log.offsets()) {
            let end = match message {
                ToMonitor::Signal { number, insists } => self.signal(number, insists)?,
                ToMonitor::KillAfter(milliseconds) => {
                    self.kill_after(Duration::from_millis(milliseconds));
                    None
                }
                ToMonitor::Resize { height, width } => self.resize(ConsoleSize { height, width })?,
                ToMonitor::Closed(stream) => Some(End::Closed(stream)),
                ToMonitor::Stop => Some(match self.talk.phase() {
                    // It has ended by itself, and so it is written down.
                    Phase::Draining(status) | Phase::Stopping(status) => End::Exited(*status),
                    _ => End::Killed(Signal::SIGKILL),
                }),
                // Taken down already.
                ToMonitor::Attach(_) | ToMonitor::Exec(_) | ToMonitor::Stats => None,
            };
            if end.is_some() {
                return Ok(end);
            }
        }
        let abandoned = self.bound && !self.clients.has_owner();
        Ok(abandoned.then_some(End::Killed(Signal::SIGHUP)))
    }

    pub(super) fn signal(&mut self, number: i32, insists: bool) -> Result<Option<End>> {
        let known = Signal::try_from(number).ok();
        let again = insists && known.is_some_and(asks_to_end) && self.forwarded.is_some_and(asks_to_end);
        match (self.talk.phase(), known) {
            (Phase::Running, _) if !again => {
                self.forwarded = known;
                // A client that says more than the guest takes is not worth a queue.
                if self.talk.link.unheard() < CHUNK {
                    self.talk.signal(number)?;
                }
                Ok(None)
            }
            // What it has written to its volumes is not to be lost: only its process ends at once.
            (Phase::Running, _) if self.has_volumes() => {
                self.talk.signal(libc::SIGKILL)?;
                Ok(None)
            }
            (Phase::Draining(_) | Phase::Stopping(_), _) if self.has_volumes() => Ok(None),
            (Phase::Stopping(status), _) => Ok(Some(End::Exited(*status))),
            (_, Some(Signal::SIGUSR1 | Signal::SIGUSR2) | None) => Ok(None),
            (Phase::Draining(status), _) => Ok(Some(End::Exited(*status))),
            (_, Some(signal)) => Ok(Some(End::Killed(signal))),
        }
    }

    fn resize(&mut self, size: ConsoleSize) -> Result<Option<End>> {
        if self.size != Some(size) && *self.talk.phase() == Phase::Running {
            self.size = Some(size);
            if self.talk.link.unheard() < CHUNK {
                self.talk.resize(size)?;
            }
        }
        Ok(None)
    }

    /// Asks the guest what it uses, for those who want to know, and tells them its answer.
    pub(super) fn stats(&mut self) -> Result<()> {
        if let Some(stats) = self.talk.stats.take() {
            self.clients.give_stats(stats);
        }
        if *self.talk.phase() == Phase::Running
            && self.talk.is_connected()
            && self.clients.want_stats()
            && self.talk.link.unheard() < CHUNK
        {
            self.talk.ask()?;
        }
        Ok(())
    }

    pub(super) fn stdin(&mut self) -> Result<()> {
        if *self.talk.phase() != Phase::Running {
            return Ok(());
        }
        let link = &mut self.talk.link;
        if link.unwanted(SESSION, Stream::Stdin) {
            self.clients.stop_stdin();
        }
        let ended = self.clients.stdin(|bytes| put(link, SESSION, Stream::Stdin, bytes));
        if ended {
            link.end(SESSION, Stream::Stdin);
        }
        Ok(())
    }
}

/// Whether this signal, sent twice, means that the container's process is not to be asked again. The others are just
/// passed on, as often as they come.
pub fn asks_to_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGQUIT)
}

//! What comes from the VM: the channel, the console, QMP, and QEMU's stderr.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;

use super::message::ToClient;
use super::power_button::Button;
use super::relay::{AGAIN, CHUNK, ERRORS, LAST_WORDS, Relay, Source};
use crate::containers::State;
use crate::conversation::Phase;
use crate::exit::{End, Outcome};
use crate::network::backlog;
use crate::qmp::Event;
use crate::transport::Arrival;

impl Relay<'_> {
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.again.is_none() {
            self.wires.channel.flush(&mut self.talk.link).context("cannot write to the channel")?;
        }
        Ok(())
    }

    pub(super) fn channel(&mut self) -> Result<()> {
        let mut chunk = [0; CHUNK];
        let arrival = self
            .wires
            .channel
            .read(&mut chunk, self.talk.link.state())
            .context("cannot read from the channel")?;
        self.open
            .retain(|open| *open != Source::Channel || !matches!(arrival, Arrival::Went | Arrival::Ended));
        if arrival == Arrival::Came && !self.open.contains(&Source::Channel) {
            self.open.push(Source::Channel);
        }
        let before = self.talk.phase().clone();
        let received = self.talk.receive(arrival, &chunk);
        self.warn_of_damage();
        self.warn_of_victims();
        received?;
        if before != *self.talk.phase() {
            self.entered();
        }
        Ok(())
    }

    /// Says which layers the guest has found damaged.
    fn warn_of_damage(&mut self) {
        for (layer, block) in self.talk.damaged.drain(..) {
            let what = self.layers.get(layer).map_or_else(
                || format!("layer {}: block {block} is damaged", layer + 1),
                |layer| layer.damage(block),
            );
            let line = format!("{what}; without the file, the next run makes it anew");
            self.clients.tell(&ToClient::Warning(line));
        }
    }

    /// Says which processes memory ran out for.
    fn warn_of_victims(&mut self) {
        for (pid, name) in self.talk.victims.drain(..) {
            let line = format!("memory ran out, and the guest's kernel has killed process {name:?} ({pid})");
            self.guest_log.add(&format!("vch: {line}"));
            self.clients.mention(&ToClient::Warning(line));
        }
    }

    /// A new phase has begun: it is written down before the guest can know that we have heard of it.
    fn entered(&mut self) {
        match self.talk.phase() {
            Phase::Starting => {
                self.clock.step("the guest is ready");
                self.open_ports();
            }
            Phase::Running => {
                self.clock.step("the container has started");
                self.deadline = None;
                self.write_down(&State::Running { started: super::now() });
            }
            Phase::Failed(failure) => {
                self.deadline = None;
                let end = self.failed(failure);
                self.write_down_exit(end);
            }
            Phase::Draining(status) => {
                self.deadline = None;
                let end = End::Exited(*status);
                self.clock.step("the container has ended");
                self.write_down_exit(end);
            }
            Phase::Booting | Phase::Stopping(_) => {}
        }
    }

    /// QEMU listens on the published ports by now: nobody is turned away for coming at the same time as others.
    fn open_ports(&mut self) {
        let ports = &self.container.record.ports;
        if let Some(Err(error)) = self.qemu.map(|qemu| backlog::deepen(qemu, ports)) {
            let error = error.context(
                "of clients that connect to a published port at once, all but two wait or are reset",
            );
            self.clients.mention(&ToClient::Warning(format!("{error:#}")));
        }
    }

    fn write_down_exit(&mut self, end: End) {
        let outcome = Outcome { end, forwarded: self.forwarded, guest: vec![], host: vec![], peak_rss: 0 };
        let state = super::exited(self.container, super::exit_of(&Ok(outcome)));
        self.write_down(&state);
    }

    fn write_down(&mut self, state: &State) {
        while let Err(error) = self.container.set_state(state) {
            // Gone: then nobody will want to know.
            if !self.container.dir.exists() {
                return;
            }
            self.clients.mention(&ToClient::Warning(format!("{error:#}; trying again")));
            let deadline = Instant::now() + AGAIN;
            if self.clients.wait(Some(deadline)).is_err() {
                return;
            }
        }
    }

    pub(super) fn console(&mut self) -> Result<()> {
        let mut chunk = [0; 4096];
        let count = read(Source::Console, &self.wires.console, &mut chunk, &mut self.open)?;
        let mut lines = self.console.receive(chunk.get(..count).unwrap_or_default());
        if count == 0 {
            lines.extend(self.console.flush());
        }
        lines.iter().for_each(|line| self.guest_log.add(line));
        if self.debug {
            lines.into_iter().for_each(|line| self.clients.mention(&ToClient::Console(line)));
        }
        // The kernel resets the machine after a panic, unless someone gave it other parameters.
        if self.console.panic().is_some() && !matches!(self.talk.phase(), Phase::Stopping(_)) {
            let soon = Instant::now() + LAST_WORDS;
            self.deadline = Some(self.deadline.map_or(soon, |deadline| deadline.min(soon)));
        }
        Ok(())
    }

    pub(super) fn monitor(&mut self) -> Result<()> {
        let mut chunk = [0; 4096];
        let count = read(Source::Monitor, &self.wires.monitor, &mut chunk, &mut self.open)?;
        for event in self.monitor.receive(chunk.get(..count).unwrap_or_default()) {
            match event {
                Event::Shutdown(reason) => self.shutdown = Some(reason),
                Event::PowerButton if self.button == Button::Up => self.button = Button::Pressed,
                Event::PowerButton => {}
                Event::Refused(why) => return Err(anyhow!("QEMU cannot restore the template: {why}")),
                Event::Resumed => self.talk.refresh()?,
                Event::DiskError { no_space: true, .. } => {
                    return Err(anyhow!(
                        "the host's disk is full: the VM's scratch disk, or a volume, could not grow"
                    ));
                }
                Event::DiskError { reason, .. } => {
                    return Err(anyhow!("the host could not give the VM its disk ({reason})"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn errors(&mut self) -> Result<()> {
        let Some(errors) = &self.wires.errors else { return Ok(()) };
        let mut chunk = [0; 4096];
        match nix::unistd::read(errors, &mut chunk) {
            Ok(0) => self.open.retain(|open| *open != Source::Errors),
            Ok(count) => {
                let room = ERRORS - self.errors.len();
                self.errors.extend(chunk.iter().take(count.min(room)));
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(e) => return Err(e).context("cannot read QEMU's stderr"),
        }
        Ok(())
    }
}

/// Reads what there is; 0 bytes mean that there is nothing now, or that the line has ended, which is noted.
fn read(source: Source, mut line: &UnixStream, chunk: &mut [u8], open: &mut Vec<Source>) -> Result<usize> {
    match line.read(chunk) {
        Ok(count) if count > 0 => Ok(count),
        // A reset is how a socket ends whose other end left something unread.
        Ok(_) => {
            open.retain(|open| *open != source);
            Ok(0)
        }
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {
            open.retain(|open| *open != source);
            Ok(0)
        }
        Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {
            Ok(0)
        }
        Err(e) => Err(e).with_context(|| format!("cannot read from the VM ({source:?})")),
    }
}

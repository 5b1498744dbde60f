//! What a client does with each of its lines: the monitor's, and the user's.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use protocol::oci::ConsoleSize;
use protocol::{Event, Stream};

use super::detach::{Keys, Scanned};
use super::{Client, Finish, Role, Source, is_closed};
use crate::conversation::SESSION;
use crate::log::Offsets;
use crate::monitor::asks_to_end;
use crate::monitor::message::{ToClient, ToMonitor};
use crate::signals;
use crate::stdio::Got;
use crate::terminal::{self, Raw};

impl Client<'_> {
    pub(super) fn handle(&mut self, source: Source, flags: PollFlags) -> Result<Option<Finish>> {
        match source {
            Source::Monitor => self.monitor(flags),
            // Nobody will send any more: such a descriptor would be ready for ever.
            Source::Signals if !flags.contains(PollFlags::POLLIN) => {
                self.listening = false;
                Ok(None)
            }
            Source::Signals => self.signals(),
            Source::Stdin => self.stdin(),
            Source::Stdout => self.output(Stream::Stdout),
            Source::Stderr => self.output(Stream::Stderr),
        }
    }

    fn monitor(&mut self, flags: PollFlags) -> Result<Option<Finish>> {
        const BROKEN: &str = "the container's monitor is of another version, or broken";
        if !self.line.turn(flags).context(BROKEN)? {
            return Ok(Some(Finish::Lost));
        }
        while let Some(event) = self.line.link.event().context(BROKEN)? {
            if let Event::Message(message) = event {
                self.hear(message)?;
            }
        }
        if self.line.link.unwanted(SESSION, Stream::Stdin) {
            self.stdin = None;
        }
        Ok(None)
    }

    fn hear(&mut self, message: ToClient) -> Result<()> {
        match message {
            ToClient::Layer(layer) => self.progress.building(self.stdio, layer),
            ToClient::Created(id) => {
                self.progress.clear(self.stdio);
                self.id = Some(id);
            }
            ToClient::From(stdout, stderr) => self.begin = Some(Offsets { stdout, stderr }),
            ToClient::Started => {
                self.progress.clear(self.stdio);
                self.running = true;
                if self.raw && self.mode.is_none() {
                    self.mode = Some(Raw::enter(&self.stdio.stdin)?);
                }
                self.resize(self.role == Role::Visitor)?;
            }
            ToClient::Warning(text) => {
                self.progress.clear(self.stdio);
                self.stderr.say(&format!("vch: warning: {text}"));
            }
            ToClient::Stats(_) => {} // an answer to others
            ToClient::Console(line) => self.stderr.say(&format!("[guest] {line}")),
            ToClient::Ended(ended) => {
                self.progress.clear(self.stdio);
                self.mode = None;
                self.stdin = None;
                self.ended = Some(*ended);
            }
        }
        Ok(())
    }

    fn signals(&mut self) -> Result<Option<Finish>> {
        let Some(signal) = self.stdio.signals.as_ref().map(signals::read).transpose()?.flatten() else {
            return Ok(None);
        };
        if signal == Signal::SIGWINCH {
            self.resize(false)?;
            return Ok(None);
        }
        let insists = self.role != Role::Visitor;
        if self.asked && asks_to_end(signal) && !insists {
            return Ok(Some(Finish::Detached));
        }
        self.asked |= asks_to_end(signal);
        self.line.link.send(&ToMonitor::Signal { number: signal as i32, insists })?;
        Ok(None)
    }

    fn resize(&mut self, always: bool) -> Result<()> {
        let size = terminal::size(&self.stdio.stdin);
        if let Some(ConsoleSize { height, width }) = size
            && self.raw
            && (always || self.size != size)
            && self.running
        {
            self.size = size;
            self.line.link.send(&ToMonitor::Resize { height, width })?;
        }
        Ok(())
    }

    fn stdin(&mut self) -> Result<Option<Finish>> {
        let Some(stdin) = &self.stdin else { return Ok(None) };
        let (mut end, mut detached) = (false, false);
        let keys = &mut self.keys;
        let raw = self.raw;
        let read = |room: &mut [u8]| -> Result<usize, Errno> {
            let held = keys.as_ref().map_or(0, Keys::held);
            // What is held back may have to go first.
            let Some(most) = room.len().checked_sub(held).filter(|most| *most > 0) else { return Ok(0) };
            let got = stdin.read(&mut room[..most])?;
            end = got == Got::End;
            let Got::Bytes(count) = got else { return Ok(0) };
            match keys {
                Some(keys) if raw => {
                    let Scanned { bytes, pressed } = keys.scan(&room[..count]);
                    detached = pressed;
                    room[..bytes.len()].copy_from_slice(&bytes);
                    Ok(bytes.len())
                }
                _ => Ok(count),
            }
        };
        self.line.link.fill(SESSION, Stream::Stdin, read).context("cannot read stdin")?;
        if end {
            self.stdin = None;
            self.line.link.end(SESSION, Stream::Stdin);
        }
        Ok(detached.then_some(Finish::Detached))
    }

    fn output(&mut self, stream: Stream) -> Result<Option<Finish>> {
        let output = if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr };
        match output.write(self.line.link.pending(SESSION, stream)) {
            Ok(count) => self.line.link.consume(SESSION, stream, count),
            Err(errno) if self.role != Role::Visitor => {
                if self.failed.is_none() {
                    self.failed = Some((stream, errno));
                    // An exec's process learns of it when it writes more.
                    if self.role == Role::Owner {
                        self.line.link.send(&ToMonitor::Closed(stream))?;
                    }
                }
                output.give_up();
                self.line.link.stop(SESSION, stream);
            }
            Err(errno) if is_closed(errno) => return Ok(Some(Finish::Closed(stream))),
            Err(errno) => {
                let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
                return Err(errno).with_context(|| format!("cannot write to {name}"));
            }
        }
        Ok(None)
    }
}

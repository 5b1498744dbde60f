//! A client's line, and how far it is with the container's output.

use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags};
use protocol::{Event, Stream};

use super::message::{Attach, Ended, Exec, Start, ToClient, ToClientLine, ToClientLink, ToMonitor};
use crate::conversation::SESSION;
use crate::line::{Line, put};
use crate::log::{self, Offsets, Reader};

/// The most of the log that is read for a client before others have their turn, in bytes of output.
const TURN: usize = 256 << 10;
/// Control messages that a client has not taken, in bytes, before it gets no more that it can do without.
const UNHEARD: usize = 64 << 10;

/// A client.
pub struct Connection {
    line: ToClientLine,
    /// What it wants, once it has said so.
    pub attach: Option<Attach>,
    /// What it wants instead: then it is none of those that watch the container.
    pub exec: Option<Box<Exec>>,
    /// Whether it has asked what the container uses.
    pub wants_stats: bool,
    /// Of stdout and stderr.
    outputs: [Place; 2],
    /// Whether it was told that the container runs.
    started: bool,
    /// Whether it was told how the container ended.
    pub told: bool,
    /// It has hung up, or made no sense.
    pub gone: bool,
}

/// How far a client is with a stream.
#[derive(Default)]
struct Place {
    /// Bytes of the stream that the link has got.
    sent: u64,
    /// Reads the log for a client that is behind, or was.
    reader: Option<Reader>,
    /// Read, and behind `sent`.
    pending: Vec<u8>,
}

fn index(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}

/// The log's word for an output.
pub fn logged(stream: Stream) -> log::Stream {
    if stream == Stream::Stderr { log::Stream::Stderr } else { log::Stream::Stdout }
}

impl Connection {
    /// On a line that was just accepted.
    ///
    /// # Errors
    /// The system's.
    pub fn new(line: UnixStream) -> Result<Self> {
        Ok(Self {
            line: Line::accepted(line)?,
            attach: None,
            exec: None,
            wants_stats: false,
            outputs: Default::default(),
            started: false,
            told: false,
            gone: false,
        })
    }

    /// The line itself, of one that was no client for long.
    pub fn into_line(self) -> ToClientLine {
        self.line
    }

    /// What to poll for.
    pub fn interest(&self) -> PollFd<'_> {
        self.line.interest(true)
    }

    /// Writes and reads what is possible.
    pub fn turn(&mut self, flags: PollFlags) {
        self.gone |= !self.line.turn(flags).unwrap_or(false);
    }

    /// Writes what waits, as far as the line takes it.
    pub fn flush(&mut self) {
        self.gone |= !self.line.flush();
    }

    /// What it says next, but for what it wants, which is taken down here; `now` is how much output there is.
    pub fn message(&mut self, now: Offsets) -> Option<ToMonitor> {
        loop {
            match (self.line.link.event(), self.attach) {
                (Ok(Some(Event::Message(ToMonitor::Attach(attach)))), None) => self.attached(attach, now),
                (Ok(Some(Event::Message(ToMonitor::Exec(exec)))), None) => {
                    self.exec = Some(exec);
                    return None;
                }
                (Ok(Some(Event::Message(ToMonitor::Stats))), Some(_)) => self.wants_stats = true,
                (Ok(Some(Event::Message(message))), Some(_)) => return Some(message),
                (Ok(Some(Event::Connected(_))), _) => {}
                (Ok(None), _) => return None,
                _ => {
                    self.gone = true;
                    return None;
                }
            }
        }
    }

    /// Takes down what it wants, if it has said so, before there is any output.
    pub fn hello(&mut self) {
        while self.attach.is_none() && !self.gone {
            match self.line.link.event() {
                Ok(Some(Event::Message(ToMonitor::Attach(attach)))) => {
                    self.attached(attach, Offsets::default());
                }
                Ok(Some(Event::Connected(_))) => {}
                Ok(None) => return,
                _ => self.gone = true,
            }
        }
    }

    fn attached(&mut self, attach: Attach, now: Offsets) {
        self.attach = Some(attach);
        let (stdout, stderr) = match attach.output {
            Some(Start::At(stdout, stderr)) => (stdout.min(now.stdout), stderr.min(now.stderr)),
            _ => (now.stdout, now.stderr),
        };
        for (place, sent) in self.outputs.iter_mut().zip([stdout, stderr]) {
            place.sent = sent;
        }
        self.send(&ToClient::From(stdout, stderr));
        if !attach.stdin {
            self.line.link.stop(SESSION, Stream::Stdin);
        }
    }

    /// Says `message`.
    pub fn send(&mut self, message: &ToClient) {
        // It is too long: then it is one with a guest's timeline in it, and the client hangs for want of it.
        self.gone |= self.line.link.send(message).is_err();
    }

    /// Says `message`, unless the client has not taken many others.
    pub fn mention(&mut self, message: &ToClient) {
        if self.is_attentive() {
            self.send(message);
        }
    }

    /// Whether it takes what it is told.
    pub fn is_attentive(&self) -> bool {
        self.line.link.unheard() < UNHEARD
    }

    /// Says that the container runs, if that is to be said.
    pub fn started(&mut self) {
        if self.attach.is_some() && !self.started {
            self.started = true;
            self.send(&ToClient::Started);
        }
    }

    /// Says how the container ended. No output comes after this.
    pub fn ended(&mut self, ended: Ended) {
        self.told = true;
        self.line.link.end(SESSION, Stream::Stdout);
        self.line.link.end(SESSION, Stream::Stderr);
        self.send(&ToClient::Ended(Box::new(ended)));
    }

    /// What it has sent as stdin.
    pub fn stdin(&self) -> &[u8] {
        self.line.link.pending(SESSION, Stream::Stdin)
    }

    /// So much of it was used.
    pub fn consume(&mut self, count: usize) {
        self.line.link.consume(SESSION, Stream::Stdin, count);
    }

    /// Whether its stdin, which it sends, has ended, and was used.
    pub fn stdin_ended(&self) -> bool {
        self.attach.is_some_and(|attach| attach.stdin) && self.line.link.finished(SESSION, Stream::Stdin)
    }

    /// The container reads no more.
    pub fn stop_stdin(&mut self) {
        self.line.link.stop(SESSION, Stream::Stdin);
    }

    fn wants_output(&self) -> bool {
        self.attach.is_some_and(|attach| attach.output.is_some()) && !self.gone
    }

    /// How much more of a stream may come from the guest, for this client's sake. `held` is the most files of the log that may be
    /// kept for it.
    pub fn capacity(&mut self, stream: Stream, logged: u64, held: usize) -> usize {
        let owner = self.attach.is_some_and(|attach| attach.owner);
        if !self.wants_output() || self.line.link.unwanted(SESSION, stream) {
            return usize::MAX;
        }
        let place = &self.outputs[index(stream)];
        match &place.reader {
            _ if owner && place.sent < logged => 0,
            _ if owner => self.line.link.capacity(SESSION, stream),
            Some(reader) if place.sent < logged && reader.held() >= held => 0,
            _ => usize::MAX,
        }
    }

    /// Gives it new output, `offset` bytes behind the stream's beginning; what it does not take now it gets from the log.
    pub fn give(&mut self, stream: Stream, offset: u64, bytes: &[u8]) {
        if !self.wants_output() {
            return;
        }
        let place = &mut self.outputs[index(stream)];
        if self.line.link.unwanted(SESSION, stream) {
            *place = Place { sent: offset + bytes.len() as u64, ..Place::default() };
        } else if place.sent == offset {
            place.sent += put(&mut self.line.link, SESSION, stream, bytes) as u64;
        }
    }

    /// Goes on with what it has not got of the log at `path`, which has `logged` bytes of each stream. Says whether it has all.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn catch_up(&mut self, path: &Path, now: Offsets) -> Result<bool> {
        let mut complete = true;
        if !self.wants_output() {
            return Ok(complete);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let all = now.of(logged(stream));
            let place = &mut self.outputs[index(stream)];
            if self.line.link.unwanted(SESSION, stream) {
                place.sent = all;
            }
            if place.sent >= all {
                place.pending.clear();
                continue;
            }
            let lost = place.read(&mut self.line.link, stream, path)?;
            complete &= place.sent >= all;
            if lost > 0 {
                self.send(&ToClient::Warning(format!(
                    "{lost} bytes of the container's output are not in its log any more"
                )));
            }
        }
        Ok(complete)
    }
}

impl Place {
    /// Puts what comes next in the log on the link. Says how many bytes the log has lost.
    fn read(&mut self, link: &mut ToClientLink, stream: Stream, path: &Path) -> Result<u64> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                // Of the other stream nothing.
                let mut from = Offsets { stdout: u64::MAX, stderr: u64::MAX };
                *from.of_mut(logged(stream)) = self.sent;
                self.reader.insert(Reader::from(path, from)?.only(logged(stream)))
            }
        };
        reader.keep_up()?;
        let (mut lost, mut given) = (0, 0);
        while given < TURN {
            if self.pending.is_empty() {
                let Some(entry) = reader.next()? else { break };
                // It may have been given some of it while it was not behind.
                let skip = usize::try_from(self.sent.saturating_sub(entry.offset)).unwrap_or(usize::MAX);
                lost += entry.offset.saturating_sub(self.sent);
                self.sent = self.sent.max(entry.offset);
                self.pending.extend_from_slice(entry.output.get(skip..).unwrap_or_default());
            }
            let count = put(link, SESSION, stream, &self.pending);
            self.pending.drain(..count);
            self.sent += count as u64;
            given += count;
            if !self.pending.is_empty() {
                break;
            }
        }
        Ok(lost)
    }
}

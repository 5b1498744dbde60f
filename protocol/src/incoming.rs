//! The receiving end of a stream: what has come and was not used yet.

use crate::buffer::Buffer;
use crate::error::ProtocolError;
use crate::frame::{Header, Kind};
use crate::resume::{DONE, ENDED, Point, STOPPED};

/// How far the receiver is with the stream as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More may come.
    Open,
    /// All has come.
    Ended,
    /// All has been used, and the sender was told so.
    Done,
    /// We want no more; the sender is to be told.
    Stopping,
    /// It was told. What still comes is dropped.
    Stopped,
}

pub(crate) struct Incoming {
    state: State,
    window: u64,
    /// What has come and was not used.
    buffer: Buffer,
    /// Bytes received so far.
    received: u64,
    /// The sender was told that so many bytes were used, and may send `window` more.
    told: u64,
}

impl Incoming {
    pub(crate) fn new(window: u64) -> Self {
        Self { state: State::Open, window, buffer: Buffer::default(), received: 0, told: 0 }
    }

    /// What a new host that has the bytes before `kept` makes of what the guest, the sender, says; none if that
    /// cannot be true.
    pub(crate) fn adopt(window: u64, kept: Option<u64>, theirs: &Point) -> Option<Self> {
        let mut new = Self::new(window);
        new.rebase(theirs);
        if theirs.has(STOPPED) {
            new.state = State::Stopped;
        } else if let Some(kept) = kept {
            (new.received, new.told) = (kept, kept);
            return (theirs.from..=theirs.to).contains(&kept).then_some(new);
        }
        Some(new)
    }

    /// Begins where the sender does.
    pub(crate) fn rebase(&mut self, theirs: &Point) {
        self.buffer.clear();
        (self.received, self.told) = (theirs.from, theirs.from);
    }

    pub(crate) fn pending(&self) -> &[u8] {
        self.buffer.as_slice()
    }

    /// Bytes used so far.
    pub(crate) fn used(&self) -> u64 {
        self.received - self.buffer.len() as u64
    }

    /// Whether all has come and was used, or is not wanted.
    pub(crate) fn is_finished(&self) -> bool {
        self.state != State::Open && self.buffer.is_empty()
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.buffer.consume(count);
    }

    pub(crate) fn stop(&mut self) {
        self.buffer.clear();
        if self.state != State::Stopped {
            self.state = State::Stopping;
        }
    }

    /// Takes the sender's frame.
    pub(crate) fn take(&mut self, header: &Header, payload: &[u8]) -> Result<(), ProtocolError> {
        let Header { kind, lane, session, offset: found, length } = *header;
        let unwanted = matches!(self.state, State::Stopping | State::Stopped);
        let end = found.saturating_add(u64::from(length));
        let fits = found == self.received
            && end <= self.told.saturating_add(self.window)
            && (unwanted || self.state == State::Open);
        match kind {
            Kind::Data | Kind::End if !fits => {
                let expected = self.received;
                return Err(ProtocolError::Offset { kind, lane, session, expected, found, length });
            }
            Kind::Data | Kind::End if unwanted => {}
            Kind::Data => self.buffer.extend(payload),
            Kind::End => self.state = State::Ended,
            _ => return Err(ProtocolError::Unexpected(kind, lane)),
        }
        self.received = end;
        Ok(())
    }

    /// What the sender is to be told, if anything: a frame's kind and offset. `promptly`: of each byte, once there is
    /// nothing left to use.
    pub(crate) fn due(&mut self, promptly: bool) -> Option<(Kind, u64)> {
        let used = self.used();
        match self.state {
            State::Open => {
                let due = used - self.told >= self.window / 2
                    || promptly && used > self.told && self.buffer.is_empty();
                if !due {
                    return None;
                }
                self.told = used;
                Some((Kind::Credit, used))
            }
            State::Ended if self.buffer.is_empty() => {
                self.state = State::Done;
                Some((Kind::Done, used))
            }
            State::Stopping => {
                self.state = State::Stopped;
                Some((Kind::Stop, 0))
            }
            State::Ended | State::Done | State::Stopped => None,
        }
    }

    /// Forgets what was not used: it will come again. Before [`Incoming::point`] only.
    pub(crate) fn rewind(&mut self) {
        self.received = self.used();
        self.buffer.clear();
    }

    /// Where it stands, which is thereby told.
    pub(crate) fn point(&mut self) -> Point {
        let used = self.used();
        if self.state == State::Ended && self.buffer.is_empty() {
            self.state = State::Done;
        } else if self.state == State::Stopping {
            self.state = State::Stopped;
        }
        self.told = used;
        let flags = match self.state {
            State::Open => 0,
            State::Ended => ENDED,
            State::Done => ENDED | DONE,
            State::Stopping | State::Stopped => STOPPED,
        };
        Point { flags, from: used, to: self.received }
    }

    /// Compares with where the sender says that it stands; whether that can be true.
    pub(crate) fn resume(&mut self, theirs: &Point) -> bool {
        match self.state {
            State::Stopping | State::Stopped => true,
            State::Open => !theirs.has(STOPPED) && (theirs.from..=theirs.to).contains(&self.received),
            State::Ended | State::Done => {
                !theirs.has(STOPPED)
                    && theirs.has(ENDED)
                    && theirs.from <= self.received
                    && theirs.to == self.received
            }
        }
    }
}

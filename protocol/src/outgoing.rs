//! The sending end of a stream: it keeps every byte until the receiver has used it.

use crate::buffer::Buffer;
use crate::error::ProtocolError;
use crate::frame::{Header, Kind, Lane, MAX_DATA};
use crate::line::Line;
use crate::resume::{DONE, ENDED, Point, STOPPED};

/// The least room for a read. It grows as long as reads fill it.
const LEAST_ROOM: usize = 4 << 10;

/// How far the sender is with the stream as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More may come.
    Open,
    /// No more bytes come; the receiver is to be told of it after the last one.
    Ending,
    /// It was told.
    Ended,
    /// It has used all.
    Done,
    /// It wants no more.
    Stopped,
}

/// `acked <= base <= next <= sent <= end`, where `next` and `sent` differ after a handshake only.
pub(crate) struct Outgoing {
    state: State,
    window: u64,
    /// The bytes `base..end`.
    kept: Buffer,
    base: u64,
    /// The receiver has used the bytes before this. (It is `base`, but for a new host, which has not got the bytes that the
    /// guest has received and not used yet.)
    acked: u64,
    /// The next byte to be sent on this line.
    next: u64,
    /// Bytes sent on any line so far.
    sent: u64,
    /// How much the next read may bring.
    appetite: usize,
}

impl Outgoing {
    pub(crate) fn new(window: u64) -> Self {
        Self {
            state: State::Open,
            window,
            kept: Buffer::default(),
            base: 0,
            acked: 0,
            next: 0,
            sent: 0,
            appetite: LEAST_ROOM,
        }
    }

    /// What a new host makes of what the guest, the receiver, says.
    pub(crate) fn adopt(window: u64, theirs: &Point) -> Self {
        let mut new = Self::new(window);
        new.rebase(theirs);
        new.state = match theirs {
            _ if theirs.has(STOPPED) => State::Stopped,
            _ if theirs.has(DONE) => State::Done,
            _ if theirs.has(ENDED) => State::Ended,
            _ => State::Open,
        };
        new
    }

    /// Puts what is kept, and was never sent, to where the receiver stands.
    pub(crate) fn rebase(&mut self, theirs: &Point) {
        self.acked = theirs.from;
        (self.base, self.next, self.sent) = (theirs.to, theirs.to, theirs.to);
    }

    /// How many bytes there have been, kept ones included.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.kept.len() as u64
    }

    fn limit(&self) -> u64 {
        self.acked + self.window
    }

    /// Bytes that the receiver has not said that it has used.
    pub(crate) fn unused(&self) -> u64 {
        self.end() - self.acked
    }

    /// How many bytes may be added until the receiver uses some.
    pub(crate) fn capacity(&self) -> usize {
        if self.state != State::Open {
            return 0;
        }
        usize::try_from(self.limit().saturating_sub(self.end())).unwrap_or(usize::MAX)
    }

    /// How many bytes may be added now.
    pub(crate) fn room(&self) -> usize {
        self.capacity().min(self.appetite)
    }

    pub(crate) fn fill<E>(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<Option<usize>, E> {
        let room = self.room();
        if room == 0 {
            return Ok(None);
        }
        let count = self.kept.append_with(room, read)?;
        self.appetite = (2 * count).clamp(LEAST_ROOM, MAX_DATA);
        Ok(Some(count))
    }

    /// Adds bytes whether there is room for them or not.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
    }

    pub(crate) fn finish(&mut self) {
        if self.state == State::Open {
            self.state = State::Ending;
        }
    }

    /// The receiver wants no more.
    pub(crate) fn stop(&mut self) {
        self.state = State::Stopped;
        // What was not sent never will be.
        self.base = self.sent;
        (self.acked, self.next) = (self.base, self.base);
        self.kept.clear();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    /// Whether the receiver has not confirmed all that there is.
    pub(crate) fn is_waited_for(&self) -> bool {
        match self.state {
            State::Open => self.acked < self.end(),
            State::Ending | State::Ended => true,
            State::Done | State::Stopped => false,
        }
    }

    /// Whether the receiver has used all, to the end, or wants no more.
    pub(crate) fn is_delivered(&self) -> bool {
        matches!(self.state, State::Done | State::Stopped)
    }

    /// The receiver has used the bytes before `offset`.
    fn credit(&mut self, offset: u64) -> bool {
        let fits = (self.acked..=self.next).contains(&offset);
        if fits {
            self.acked = offset;
            let used = offset.saturating_sub(self.base);
            self.kept.consume(usize::try_from(used).unwrap_or(usize::MAX));
            self.base += used;
        }
        fits
    }

    /// Takes the receiver's frame.
    pub(crate) fn take(&mut self, header: &Header) -> Result<(), ProtocolError> {
        let Header { kind, lane, session, offset: found, length } = *header;
        let fits = match kind {
            Kind::Stop => {
                self.stop();
                true
            }
            // The receiver may not have known that it would want no more.
            Kind::Credit | Kind::Done if self.state == State::Stopped => true,
            Kind::Credit => self.credit(found),
            Kind::Done => {
                let fits = self.state == State::Ended && found == self.end() && self.credit(found);
                if fits {
                    self.state = State::Done;
                }
                fits
            }
            _ => return Err(ProtocolError::Unexpected(kind, lane)),
        };
        let expected = self.next;
        if fits {
            Ok(())
        } else {
            Err(ProtocolError::Offset { kind, lane, session, expected, found, length })
        }
    }

    /// Queues what comes next in this stream; says whether there was anything.
    pub(crate) fn emit(&mut self, session: u32, lane: Lane, line: &mut Line) -> bool {
        let ready = self.end().min(self.limit()).saturating_sub(self.next);
        if self.state == State::Stopped {
            return false;
        }
        let header = Header { kind: Kind::Data, lane, session, offset: self.next, length: 0 };
        if ready > 0 {
            let length = usize::try_from(ready).unwrap_or(usize::MAX).min(line.max_payload());
            let start = usize::try_from(self.next - self.base).unwrap_or(usize::MAX);
            let payload = self.kept.as_slice().get(start..).and_then(|rest| rest.get(..length));
            let payload = payload.unwrap_or_default();
            line.frame(header, payload);
            self.next += payload.len() as u64;
            self.sent = self.sent.max(self.next);
            return true;
        }
        let ends = self.state == State::Ending && self.next == self.end();
        if ends {
            line.frame(Header { kind: Kind::End, ..header }, &[]);
            self.state = State::Ended;
        }
        ends
    }

    /// Where it stands.
    pub(crate) fn point(&self) -> Point {
        let flags = match self.state {
            State::Open => 0,
            State::Ending | State::Ended | State::Done => ENDED,
            State::Stopped => STOPPED,
        };
        Point { flags, from: self.base, to: self.end() }
    }

    /// Goes on from where the receiver says that it stands; whether that can be true.
    pub(crate) fn resume(&mut self, theirs: &Point) -> bool {
        if theirs.to > self.sent {
            return false;
        }
        if theirs.has(STOPPED) || self.state == State::Stopped {
            self.stop();
            return true;
        }
        let (ended, done) = (theirs.has(ENDED), theirs.has(DONE));
        let open = matches!(self.state, State::Open | State::Ending);
        let lie =
            (ended && (open || theirs.to != self.end())) || (done && (!ended || theirs.from != theirs.to));
        self.next = self.sent;
        if lie || theirs.to < self.base || !self.credit(theirs.from) {
            return false;
        }
        self.next = theirs.to;
        self.state = match self.state {
            State::Open => State::Open,
            _ if done => State::Done,
            _ if ended => State::Ended,
            _ => State::Ending,
        };
        true
    }
}

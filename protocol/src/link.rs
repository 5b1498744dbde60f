//! The state machine that each side of the channel runs.
//!
//! It has two states: looking for the other's hello, and connected. In both, the owner hands over
//! what it read ([`Link::receive`]) and writes what [`Link::output`] holds; in between it takes
//! [events](Event), [consumes](Link::consume) stream data and [fills](Link::fill) streams. Memory is
//! bounded by the streams' windows and the largest frame, whatever the other side sends.

use crate::buffer::Buffer;
use crate::flow::{Incoming, Outgoing};
use crate::frame::{BadFrame, HEADER, Header, Kind, MAX_DATA, MAX_TO_GUEST, MAX_TO_HOST, Stream};
use crate::handshake::{self, Found, VERSIONS};
use crate::message::{ToGuest, ToHost};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::marker::PhantomData;

/// Stop filling streams while this many bytes wait to be written, so that control messages never
/// stand behind more than that.
const HIGH_WATER: usize = 128 << 10;

/// Session 0, the container's process: the only one that version 1 has.
const SESSION: u32 = 0;

/// The host's end: sends [`ToGuest`], receives [`ToHost`].
pub type HostLink = Link<ToHost, ToGuest>;
/// The guest's end: sends [`ToHost`], receives [`ToGuest`].
pub type GuestLink = Link<ToGuest, ToHost>;

/// One end of the channel. `In` and `Out` are the messages that it receives and sends.
pub struct Link<In, Out> {
    connected: bool,
    /// The longest control message that may come, and that may be sent, in bytes.
    most_in: usize,
    most_out: usize,
    input: Buffer,
    output: Buffer,
    events: VecDeque<Event<In>>,
    outgoing: [Option<Outgoing>; 3],
    incoming: [Option<Incoming>; 3],
    sends: PhantomData<Out>,
}

/// What the owner must know of.
#[derive(Debug, PartialEq)]
pub enum Event<In> {
    /// The other side is there; both speak this version.
    Connected(u16),
    /// It says this.
    Message(In),
}

impl HostLink {
    /// The host's end, with its hello waiting in [`Link::output`].
    pub fn host() -> Self {
        let receives = [Stream::Stdout, Stream::Stderr];
        Self { most_in: MAX_TO_HOST, most_out: MAX_TO_GUEST, ..Self::new(&[Stream::Stdin], &receives) }
    }
}

impl GuestLink {
    /// The guest's end, with its hello waiting in [`Link::output`].
    pub fn guest() -> Self {
        let sends = [Stream::Stdout, Stream::Stderr];
        Self { most_in: MAX_TO_GUEST, most_out: MAX_TO_HOST, ..Self::new(&sends, &[Stream::Stdin]) }
    }
}

impl<In: DeserializeOwned, Out: Serialize> Link<In, Out> {
    fn new(sends: &[Stream], receives: &[Stream]) -> Self {
        let all = [Stream::Stdin, Stream::Stdout, Stream::Stderr];
        let mut output = Buffer::default();
        output.extend(&handshake::encode(VERSIONS));
        Self {
            connected: false,
            most_in: 0,
            most_out: 0,
            input: Buffer::default(),
            output,
            events: VecDeque::new(),
            outgoing: all.map(|stream| sends.contains(&stream).then(Outgoing::new)),
            incoming: all.map(|stream| receives.contains(&stream).then(Incoming::new)),
            sends: PhantomData,
        }
    }

    /// What must be written to the line next.
    pub fn output(&self) -> &[u8] {
        self.output.as_slice()
    }

    /// Says that `count` bytes of [`Link::output`] were written.
    pub fn wrote(&mut self, count: usize) {
        self.output.consume(count);
        self.grant_all();
    }

    /// The next event, if any.
    pub fn event(&mut self) -> Option<Event<In>> {
        self.events.pop_front()
    }

    /// Queues a control message.
    ///
    /// # Errors
    /// [`ProtocolError::Message`] when it cannot be written as JSON of at most [`MAX_TO_GUEST`] or [`MAX_TO_HOST`] bytes.
    pub fn send(&mut self, message: &Out) -> Result<(), ProtocolError> {
        let json = serde_json::to_vec(message).map_err(|error| ProtocolError::Message(error.to_string()))?;
        let most = self.most_out;
        if json.len() > most {
            return Err(ProtocolError::Message(format!(
                "a message of {} bytes; at most {most} are allowed",
                json.len()
            )));
        }
        self.frame(Kind::Control, Stream::Stdin, 0, &json);
        Ok(())
    }

    /// How many bytes of `stream` may be queued now.
    pub fn room(&self, stream: Stream) -> usize {
        let credit = outgoing(&self.outgoing, stream).map_or(0, Outgoing::credit);
        if !self.connected || self.output.len() >= HIGH_WATER {
            return 0;
        }
        usize::try_from(credit).unwrap_or(usize::MAX).min(MAX_DATA)
    }

    /// Lets `read` put up to [`Link::room`] bytes of `stream` straight into the output; it says how many it
    /// put there, and so does this. 0 bytes, or an error, queue nothing. Without any room `read` is not called, and this gives
    /// none: a read of no bytes would look like the end.
    pub fn fill<E>(
        &mut self,
        stream: Stream,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<Option<usize>, E> {
        let room = self.room(stream);
        if room == 0 {
            return Ok(None);
        }
        let offset = outgoing(&self.outgoing, stream).map_or(0, |flow| flow.offset);
        let count = self.output.append_with(HEADER, room, read, |head, used| {
            let length = u32::try_from(used).unwrap_or(0);
            head.copy_from_slice(
                &Header { kind: Kind::Data, stream, session: SESSION, offset, length }.encode(),
            );
        })?;
        if let Some(flow) = outgoing_mut(&mut self.outgoing, stream) {
            flow.offset += count as u64;
        }
        Ok(Some(count))
    }

    /// Ends `stream`: no more will be sent.
    pub fn end(&mut self, stream: Stream) {
        let Some(flow) = outgoing_mut(&mut self.outgoing, stream) else { return };
        if !flow.ended {
            flow.ended = true;
            let offset = flow.offset;
            self.frame(Kind::End, stream, offset, &[]);
        }
    }

    /// Whether the other side has said that it wants no more of `stream`.
    pub fn unwanted(&self, stream: Stream) -> bool {
        outgoing(&self.outgoing, stream).is_some_and(|flow| flow.stopped)
    }

    /// What has come of `stream` and was not consumed yet.
    pub fn pending(&self, stream: Stream) -> &[u8] {
        self.receiving(stream).map_or(&[], |flow| flow.buffer.as_slice())
    }

    /// Whether all of `stream` has come and was consumed.
    pub fn finished(&self, stream: Stream) -> bool {
        self.receiving(stream).is_none_or(|flow| (flow.ended || flow.stopped) && flow.buffer.is_empty())
    }

    /// Says that the first `count` pending bytes of `stream` have been used, which lets the sender go on.
    pub fn consume(&mut self, stream: Stream, count: usize) {
        let Some(flow) = self.receiving_mut(stream) else { return };
        flow.buffer.consume(count);
        self.grant_all();
    }

    /// Tells of new credit. Not to someone who does not read what we say: it would pile up here, and a limit can
    /// just as well be told later.
    fn grant_all(&mut self) {
        for stream in [Stream::Stdin, Stream::Stdout, Stream::Stderr] {
            if self.output.len() < HIGH_WATER
                && let Some(limit) = self.receiving_mut(stream).and_then(Incoming::grant)
            {
                self.frame(Kind::Credit, stream, limit, &[]);
            }
        }
    }

    /// Says that nobody will read `stream` any more: what is pending and what still comes is dropped.
    pub fn stop(&mut self, stream: Stream) {
        let Some(flow) = self.receiving_mut(stream) else { return };
        flow.buffer.consume(usize::MAX);
        if !flow.stopped {
            flow.stopped = true;
            self.frame(Kind::Stop, stream, 0, &[]);
        }
    }

    /// Takes bytes from the line.
    ///
    /// # Errors
    /// When they are not what an honest other side sends. The link is of no use after that.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.input.extend(bytes);
        if !self.connected && !self.find_hello()? {
            return Ok(());
        }
        while let Some((head, rest)) = self.input.as_slice().split_first_chunk::<HEADER>() {
            let header = Header::decode(head, self.most_in)?;
            let length = header.length as usize;
            if rest.len() < length {
                break;
            }
            self.take(header)?;
            self.input.consume(HEADER + length);
        }
        Ok(())
    }

    fn find_hello(&mut self) -> Result<bool, ProtocolError> {
        match handshake::find(self.input.as_slice()) {
            Found::Nothing(rubbish) => {
                self.input.consume(rubbish);
                Ok(false)
            }
            Found::Hello(length, theirs) => {
                self.input.consume(length);
                let version = handshake::agree(VERSIONS, theirs)
                    .ok_or(ProtocolError::Version { ours: VERSIONS, theirs })?;
                self.connected = true;
                self.events.push_back(Event::Connected(version));
                Ok(true)
            }
        }
    }

    /// Takes the frame that stands whole at the front of the input.
    fn take(&mut self, header: Header) -> Result<(), ProtocolError> {
        let Header { kind, stream, session, offset, length } = header;
        let payload = self.input.as_slice().get(HEADER..HEADER + length as usize).unwrap_or_default();
        if session != SESSION {
            return Err(ProtocolError::Session(session));
        }
        if kind == Kind::Control {
            let message =
                serde_json::from_slice(payload).map_err(|error| ProtocolError::Message(error.to_string()))?;
            self.events.push_back(Event::Message(message));
            return Ok(());
        }
        let wrong_way = ProtocolError::Direction(kind, stream);
        match kind {
            Kind::Credit | Kind::Stop => {
                let flow = outgoing_mut(&mut self.outgoing, stream).ok_or(wrong_way)?;
                flow.limit = flow.limit.max(offset);
                flow.stopped |= kind == Kind::Stop;
            }
            Kind::Data | Kind::End | Kind::Control => {
                let flow =
                    self.incoming.get_mut(stream as usize).and_then(Option::as_mut).ok_or(wrong_way)?;
                let end = offset.saturating_add(u64::from(length));
                if flow.ended || offset != flow.offset || end > flow.granted.max(flow.offset) {
                    return Err(ProtocolError::Offset {
                        stream,
                        expected: flow.offset,
                        found: offset,
                        length,
                    });
                }
                flow.offset = end;
                flow.ended = kind == Kind::End;
                if flow.stopped {
                    flow.granted = flow.granted.max(end);
                } else {
                    flow.buffer.extend(payload);
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, kind: Kind, stream: Stream, offset: u64, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap_or(0);
        self.output.extend(&Header { kind, stream, session: SESSION, offset, length }.encode());
        self.output.extend(payload);
    }

    fn receiving(&self, stream: Stream) -> Option<&Incoming> {
        self.incoming.get(stream as usize).and_then(Option::as_ref)
    }

    fn receiving_mut(&mut self, stream: Stream) -> Option<&mut Incoming> {
        self.incoming.get_mut(stream as usize).and_then(Option::as_mut)
    }
}

fn outgoing(flows: &[Option<Outgoing>; 3], stream: Stream) -> Option<&Outgoing> {
    flows.get(stream as usize).and_then(Option::as_ref)
}

fn outgoing_mut(flows: &mut [Option<Outgoing>; 3], stream: Stream) -> Option<&mut Outgoing> {
    flows.get_mut(stream as usize).and_then(Option::as_mut)
}

/// What the other side did wrong.
#[derive(Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// No version of the protocol is known to both.
    Version {
        /// The range this side knows.
        ours: (u16, u16),
        /// The range the other side knows.
        theirs: (u16, u16),
    },
    /// Bytes that are not a frame.
    Frame(BadFrame),
    /// A control message that cannot be understood, or cannot be sent.
    Message(String),
    /// A session that does not exist.
    Session(u32),
    /// A frame about a stream that does not flow this way.
    Direction(Kind, Stream),
    /// Data that does not continue the stream, or goes beyond what it may send.
    Offset {
        /// The stream.
        stream: Stream,
        /// Where it stood.
        expected: u64,
        /// Where the frame begins.
        found: u64,
        /// The frame's bytes.
        length: u32,
    },
}

impl From<BadFrame> for ProtocolError {
    fn from(bad: BadFrame) -> Self {
        Self::Frame(bad)
    }
}

impl std::error::Error for ProtocolError {}

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version { ours, theirs } => write!(
                out,
                "no common protocol version: this side knows {} to {}, the other {} to {}",
                ours.0, ours.1, theirs.0, theirs.1
            ),
            Self::Frame(bad) => bad.fmt(out),
            Self::Message(why) => write!(out, "bad control message: {why}"),
            Self::Session(session) => write!(out, "unknown session {session}"),
            Self::Direction(kind, stream) => {
                write!(out, "a {kind:?} frame for {stream:?} came the wrong way")
            }
            Self::Offset { stream, expected, found, length } => write!(
                out,
                "{stream:?} stands at byte {expected}; {length} bytes at {found} do not fit there or were not asked for"
            ),
        }
    }
}

//! The state machine that each side of the channel runs.
//!
//! The owner hands over what it read ([`Link::receive`]) and writes what [`Link::output`] holds; in between it takes
//! [events](Event), [consumes](Link::consume) stream data and [fills](Link::fill) streams. A link outlives the lines that
//! it runs on: [`Link::disconnect`] when one is gone, and [`HostLink::listen`], [`HostLink::reattach`] or
//! [`GuestLink::knock`] on the next. Memory is bounded by the streams' windows and the largest frame, whatever the other
//! side sends.

use crate::control;
use crate::error::ProtocolError;
use crate::frame::{Kind, Stream};
use crate::handshake::Nonce;
use crate::incoming::Incoming;
use crate::line::{Item, Line, Side, State};
use crate::message::{ToGuest, ToHost};
use crate::outgoing::Outgoing;
use crate::table::{Kept, Table};
use serde::{Serialize, de::DeserializeOwned};
use std::marker::PhantomData;

/// No more is queued while this many bytes wait to be written, so that control messages never stand behind more than that
/// and one frame.
pub const HIGH_WATER: usize = 128 << 10;
/// The same on a checked line, which is slow.
pub const CHECKED_HIGH_WATER: usize = 8 << 10;

/// The host's end: sends [`ToGuest`], receives [`ToHost`].
pub type HostLink = Link<ToHost, ToGuest>;
/// The guest's end: sends [`ToHost`], receives [`ToGuest`].
pub type GuestLink = Link<ToGuest, ToHost>;

/// One end of the channel. `In` and `Out` are the messages that it receives and sends.
pub struct Link<In, Out> {
    side: Side,
    line: Line,
    table: Table,
    /// To be told of.
    connected: Option<u16>,
    messages: PhantomData<(In, Out)>,
}

/// What the owner must know of.
#[derive(Debug, PartialEq)]
pub enum Event<In> {
    /// The two sides have found each other, for the first time or again; both speak this version.
    Connected(u16),
    /// The other side says this. It counts as received when it was taken, that is, with what is written next.
    Message(In),
}

/// The host's end.
impl<In: DeserializeOwned, Out: Serialize> Link<In, Out> {
    /// The end of a host that has started the guest, and waits for its knock. `nonce` is random. Frames are `checked` on a
    /// line that loses bytes.
    pub fn host(nonce: Nonce, checked: bool) -> Self {
        let mut link = Self::new(Side::Host, nonce, checked, None);
        link.listen();
        link
    }

    /// The end of a host that takes a running guest over, with the bytes that it has `kept` of each stream; of other
    /// streams it gets what the guest still has. It is told on connecting which sessions there are.
    pub fn adopting(nonce: Nonce, checked: bool, kept: Kept) -> Self {
        let mut link = Self::new(Side::Host, nonce, checked, Some(kept));
        link.reattach();
        link
    }

    /// The end of a host whose guest stands still waiting for it, and has knocked where nobody hears it any more.
    pub fn greeting(nonce: Nonce, checked: bool) -> Self {
        let mut link = Self::new(Side::Host, nonce, checked, None);
        link.line.greet(false);
        link
    }

    /// Waits for the guest's knock, on a new line that the guest has opened or will open.
    pub fn listen(&mut self) {
        self.line.listen();
    }

    /// Greets a guest that may be in the middle of a frame, and may not have noticed that a host was gone.
    pub fn reattach(&mut self) {
        self.line.greet(true);
    }

    /// Makes a session, and says its ID, which is higher than all before. None if there are too many at once, or if this
    /// host has not heard yet which there are.
    pub fn open(&mut self) -> Option<u32> {
        let id = self.table.open();
        self.pump();
        id
    }

    /// Whether [`Link::open`] makes a session now. It will be possible later, too, if fewer than
    /// [`MOST_SESSIONS`](crate::MOST_SESSIONS) are open.
    pub fn can_open(&self) -> bool {
        self.table.can_open()
    }

    /// Ends a session other than the first: nothing of it is sent or received any more.
    pub fn close(&mut self, session: u32) {
        self.table.close(session);
        self.pump();
    }
}

/// The guest's end.
impl<In: DeserializeOwned, Out: Serialize> Link<In, Out> {
    /// The guest's end, on a line that it has just opened.
    pub fn guest() -> Self {
        let mut link = Self::new(Side::Guest, [0; 16], false, None);
        link.knock();
        link
    }

    /// Asks for the host's hello, on a line that was opened anew.
    pub fn knock(&mut self) {
        self.line.knock(false);
    }
}

impl<In: DeserializeOwned, Out: Serialize> Link<In, Out> {
    fn new(side: Side, nonce: Nonce, checked: bool, kept: Option<Kept>) -> Self {
        let line = Line::new(side, nonce, checked);
        Self { side, line, table: Table::new(side, kept), connected: None, messages: PhantomData }
    }

    /// From now on what was used is confirmed at once, not only when half of a stream's window is: for a line whose other end
    /// takes silence for its end.
    pub fn confirm_promptly(&mut self) {
        self.table.prompt = true;
    }

    /// The line is gone. What was sent and not confirmed will be sent again on the next one.
    pub fn disconnect(&mut self) {
        self.line.disconnect();
    }

    /// How far the two sides have found each other.
    pub fn state(&self) -> State {
        self.line.state()
    }

    /// Whether frames are checked: the line loses bytes. The guest knows when it was greeted.
    pub fn is_checked(&self) -> bool {
        self.line.is_checked()
    }

    /// Whether something was said, or is to be said, that the other side has not confirmed. On a line that loses bytes it
    /// may never do that.
    pub fn unacknowledged(&self) -> bool {
        self.state() != State::Connected || self.table.is_waiting()
    }

    /// Starts the handshake anew on a line that loses bytes: to be called when there was no progress for a while and
    /// something is [`Link::unacknowledged`]. On other lines, or on none, it does nothing.
    pub fn resync(&mut self) {
        match (self.side, self.state()) {
            (_, State::Down) | (Side::Host, State::Waiting) => {}
            (Side::Host, _) if self.line.is_checked() => self.line.greet(true),
            (Side::Guest, State::Waiting) => self.line.knock(false),
            (Side::Guest, _) if self.line.is_checked() => self.line.knock(true),
            _ => {}
        }
    }

    /// What must be written to the line next.
    pub fn output(&self) -> &[u8] {
        self.line.output()
    }

    /// Says that `count` bytes of [`Link::output`] were written.
    pub fn wrote(&mut self, count: usize) {
        self.line.wrote(count);
        self.pump();
    }

    /// The next event, if any.
    ///
    /// # Errors
    /// What has come is no message.
    pub fn event(&mut self) -> Result<Option<Event<In>>, ProtocolError> {
        if let Some(version) = self.connected.take() {
            return Ok(Some(Event::Connected(version)));
        }
        let stream = &mut self.table.control_in;
        let Some((json, length)) = control::first(stream.pending(), control::most_to(self.side))? else {
            return Ok(None);
        };
        let message =
            serde_json::from_slice(json).map_err(|error| ProtocolError::Message(error.to_string()))?;
        stream.consume(length);
        self.pump();
        Ok(Some(Event::Message(message)))
    }

    /// Queues a control message.
    ///
    /// # Errors
    /// [`ProtocolError::Message`] when it cannot be written as JSON of at most
    /// [`MAX_TO_GUEST`](crate::frame::MAX_TO_GUEST) or [`MAX_TO_HOST`](crate::frame::MAX_TO_HOST) bytes.
    pub fn send(&mut self, message: &Out) -> Result<(), ProtocolError> {
        let other = if self.side == Side::Host { Side::Guest } else { Side::Host };
        self.table.control_out.push(&control::encode(message, control::most_to(other))?);
        self.pump();
        Ok(())
    }

    /// How many bytes of control messages there have been to the other side, those of hosts before this one that the guest
    /// has taken included.
    pub fn said(&self) -> u64 {
        self.table.control_out.end()
    }

    /// How many bytes of control messages wait to be sent, or for the other side's word that it has taken them.
    pub fn unheard(&self) -> usize {
        usize::try_from(self.table.control_out.unused()).unwrap_or(usize::MAX)
    }

    /// How many bytes of a stream may be added until the receiver uses some, in as many pieces as it takes.
    pub fn capacity(&self, session: u32, stream: Stream) -> usize {
        self.outgoing(session, stream).map_or(0, Outgoing::capacity)
    }

    /// The sessions that are open, by ascending ID; 0 is the container's process.
    pub fn sessions(&self) -> impl Iterator<Item = u32> {
        self.table.sessions.iter().map(|session| session.id)
    }

    /// Whether a session is open. The guest's ends when the host closes it.
    pub fn is_open(&self, session: u32) -> bool {
        self.table.session(session).is_some()
    }

    /// How many bytes of a stream may be added now; more may be possible later.
    pub fn room(&self, session: u32, stream: Stream) -> usize {
        self.outgoing(session, stream).map_or(0, Outgoing::room)
    }

    /// Lets `read` put up to [`Link::room`] bytes of a stream to where they are kept; it says how many it put there, and
    /// so does this. 0 bytes, or an error, add nothing. Without any room `read` is not called, and this gives none: a read
    /// of no bytes would look like the end.
    pub fn fill<E>(
        &mut self,
        session: u32,
        stream: Stream,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<Option<usize>, E> {
        let Some(flow) = self.outgoing_mut(session, stream) else { return Ok(None) };
        let filled = flow.fill(read)?;
        self.pump();
        Ok(filled)
    }

    /// Ends a stream: no more will be added.
    pub fn end(&mut self, session: u32, stream: Stream) {
        if let Some(flow) = self.outgoing_mut(session, stream) {
            flow.finish();
            self.pump();
        }
    }

    /// Whether the other side has said that it wants no more of a stream.
    pub fn unwanted(&self, session: u32, stream: Stream) -> bool {
        self.outgoing(session, stream).is_some_and(Outgoing::is_stopped)
    }

    /// Whether the other side has used all of a stream that was [ended](Link::end), or wants no more of it.
    pub fn delivered(&self, session: u32, stream: Stream) -> bool {
        self.outgoing(session, stream).is_none_or(Outgoing::is_delivered)
    }

    /// What has come of a stream and was not consumed yet.
    pub fn pending(&self, session: u32, stream: Stream) -> &[u8] {
        self.incoming(session, stream).map_or(&[], Incoming::pending)
    }

    /// Whether all of a stream has come and was consumed, or is not wanted.
    pub fn finished(&self, session: u32, stream: Stream) -> bool {
        self.incoming(session, stream).is_none_or(Incoming::is_finished)
    }

    /// Says that the first `count` pending bytes of a stream have been used, which lets the sender go on and forget them.
    pub fn consume(&mut self, session: u32, stream: Stream, count: usize) {
        if let Some(flow) = self.incoming_mut(session, stream) {
            flow.consume(count);
            self.pump();
        }
    }

    /// Says that nobody will read a stream any more: what is pending and what still comes is dropped.
    pub fn stop(&mut self, session: u32, stream: Stream) {
        if let Some(flow) = self.incoming_mut(session, stream) {
            flow.stop();
            self.pump();
        }
    }

    /// How many bytes of a stream were added or consumed since it began.
    pub fn position(&self, session: u32, stream: Stream) -> u64 {
        match (self.outgoing(session, stream), self.incoming(session, stream)) {
            (Some(flow), _) => flow.end(),
            (_, Some(flow)) => flow.used(),
            _ => 0,
        }
    }

    /// Takes bytes from the line.
    ///
    /// # Errors
    /// When they are not what an honest other side sends. The link is of no use after that.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.line.push(bytes);
        while let Some(item) = self.line.next()? {
            match item {
                // The guest says first where it stands: a host may know nothing.
                Item::Greeted if self.side == Side::Guest => self.table.tell(&mut self.line),
                Item::Greeted => {}
                Item::Frame(header) => {
                    let resuming = self.state() == State::Resuming;
                    let payload = self.line.payload(&header);
                    match (resuming, header.kind) {
                        (true, Kind::Resume) => self.table.resume(&header, payload)?,
                        (true, _) => return Err(ProtocolError::Unexpected(header.kind, header.lane)),
                        (false, _) => self.table.take(&header, payload)?,
                    }
                    self.line.taken(&header);
                    if resuming {
                        if self.side == Side::Host {
                            self.table.tell(&mut self.line);
                        }
                        self.connected = Some(self.line.version());
                    }
                }
            }
        }
        self.pump();
        Ok(())
    }

    /// Queues what can be sent, as long as not too much waits already. (Nobody may be reading what we say: then credits
    /// and the like need not pile up, either.)
    fn pump(&mut self) {
        let high_water = if self.line.is_checked() { CHECKED_HIGH_WATER } else { HIGH_WATER };
        while self.state() == State::Connected
            && self.line.output().len() < high_water
            && self.table.emit(&mut self.line)
        {}
    }

    fn outgoing(&self, session: u32, stream: Stream) -> Option<&Outgoing> {
        self.table.session(session).and_then(|session| session.outgoing(stream))
    }

    fn outgoing_mut(&mut self, session: u32, stream: Stream) -> Option<&mut Outgoing> {
        self.table.session_mut(session).and_then(|session| session.outgoing_mut(stream))
    }

    fn incoming(&self, session: u32, stream: Stream) -> Option<&Incoming> {
        self.table.session(session).and_then(|session| session.incoming(stream))
    }

    fn incoming_mut(&mut self, session: u32, stream: Stream) -> Option<&mut Incoming> {
        self.table.session_mut(session).and_then(|session| session.incoming_mut(stream))
    }
}

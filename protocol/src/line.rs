//! The line: from bytes to greetings and frames, and back. It knows whether the two sides have found each other, and
//! nothing of what they say.
//!
//! ```text
//! host   Down --listen--> Waiting --KNOCK/HELLO--> Greeting --WELCOME, my nonce--> Resuming --RESUME--> Connected
//!        any  --greet/dirty HELLO-----------------^  ^----- KNOCK/HELLO, at the front or while greeting -----'
//! guest  Down --knock/KNOCK--> Waiting --HELLO/WELCOME, RESUME--> Resuming --RESUME--> Connected
//!                                 ^---------------- a bad frame ------'-------------------'
//!        (a HELLO at a frame's place, in any state, is answered as in Waiting)
//! ```

use crate::buffer::Buffer;
use crate::error::ProtocolError;
use crate::frame::{BadFrame, HEADER, Header, Kind, MAX_CHECKED, MAX_DATA, Seal, TRAILER};
use crate::handshake::{self, Found, Greeting, Hail, Nonce, VERSIONS};

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Host,
    Guest,
}

/// How far the two sides have found each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There is no line.
    Down,
    /// The host waits for a knock, the guest for a hello. What else comes is rubbish.
    Waiting,
    /// The host has said hello. What comes before the welcome is rubbish.
    Greeting,
    /// Greeted; where the other's streams stand is to come.
    Resuming,
    /// All is known, and data flows.
    Connected,
}

/// What has come.
#[derive(Debug)]
pub(crate) enum Item {
    /// The handshake is done as far as greetings go; frames follow, both ways.
    Greeted,
    /// A frame; it stands at the front of the input until it is [`taken`](Line::taken).
    Frame(Header),
}

pub(crate) struct Line {
    side: Side,
    state: State,
    /// The host's next or last hello's; the guest's last welcome's.
    nonce: Nonce,
    checked: bool,
    /// Whether the last hello was a dirty one.
    dirty: bool,
    version: u16,
    incoming: Seal,
    outgoing: Seal,
    input: Buffer,
    output: Buffer,
}

impl Line {
    /// A host's line, where `nonce` is random, or a guest's.
    pub(crate) fn new(side: Side, nonce: Nonce, checked: bool) -> Self {
        let seal = Seal { tag: 0, count: 0, checked };
        Self {
            side,
            state: State::Down,
            nonce,
            checked,
            dirty: false,
            version: 0,
            incoming: seal,
            outgoing: seal,
            input: Buffer::default(),
            output: Buffer::default(),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn is_checked(&self) -> bool {
        self.checked
    }

    /// The version that both speak, once they are greeted.
    pub(crate) fn version(&self) -> u16 {
        self.version
    }

    pub(crate) fn output(&self) -> &[u8] {
        self.output.as_slice()
    }

    pub(crate) fn wrote(&mut self, count: usize) {
        self.output.consume(count);
    }

    /// The line is gone.
    pub(crate) fn disconnect(&mut self) {
        self.state = State::Down;
        self.input.clear();
        self.output.clear();
    }

    /// A new line: greetings of the other side may come on it.
    pub(crate) fn listen(&mut self) {
        self.disconnect();
        self.state = State::Waiting;
    }

    /// Says hello. A dirty one is found even by a guest that takes all that comes for the rest of a frame.
    pub(crate) fn greet(&mut self, dirty: bool) {
        // A nonce is never used twice.
        let [.., a, b, c, d] = &mut self.nonce;
        let count = u32::from_be_bytes([*a, *b, *c, *d]).wrapping_add(1);
        [*a, *b, *c, *d] = count.to_be_bytes();
        self.say(Greeting::Hello, dirty);
        self.dirty = dirty;
        self.state = State::Greeting;
    }

    /// Asks for a hello.
    pub(crate) fn knock(&mut self, dirty: bool) {
        self.say(Greeting::Knock, dirty);
        self.state = State::Waiting;
    }

    /// Greets instead of all that has not been written yet.
    fn say(&mut self, greeting: Greeting, dirty: bool) {
        self.output.clear();
        if dirty {
            // The rest of the longest frame, and some more in case that bytes of this are lost.
            self.output.pad(2 * (HEADER + TRAILER) + if self.checked { MAX_CHECKED } else { MAX_DATA });
        }
        let knock = greeting == Greeting::Knock;
        let hail = Hail {
            greeting,
            checked: self.checked && !knock,
            versions: VERSIONS,
            nonce: if knock { [0; 16] } else { self.nonce },
        };
        self.output.extend(&hail.encode());
    }

    /// Bytes of the other side, to be looked at by [`Line::next`].
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.state != State::Down {
            self.input.extend(bytes);
        }
    }

    /// What has come next, if it is whole.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, ProtocolError> {
        loop {
            let hail = match self.state {
                State::Down => return Ok(None),
                State::Waiting | State::Greeting => {
                    let (rubbish, hail) = Hail::find(self.input.as_slice());
                    self.input.consume(rubbish);
                    let Some(hail) = hail else { return Ok(None) };
                    hail
                }
                State::Resuming | State::Connected => match Hail::at_front(self.input.as_slice()) {
                    Found::Part => return Ok(None),
                    Found::Hail(hail) => hail,
                    Found::Other => match self.incoming.open(self.input.as_slice()) {
                        Ok(None) => return Ok(None),
                        Ok(Some(header)) => return Ok(Some(Item::Frame(header))),
                        Err(bad) => {
                            self.lose(bad)?;
                            continue;
                        }
                    },
                },
            };
            self.input.consume(handshake::LEN);
            if self.hear(hail)? {
                return Ok(Some(Item::Greeted));
            }
        }
    }

    /// Acts on a greeting; says whether the two are now greeted.
    fn hear(&mut self, hail: Hail) -> Result<bool, ProtocolError> {
        let seeking = matches!(self.state, State::Waiting | State::Greeting);
        match (self.side, hail.greeting) {
            (Side::Host, Greeting::Knock) => {
                // Such a guest looks for a hello, unless this is an old knock, or data that looks like one.
                self.greet(self.state == State::Greeting && self.dirty);
                Ok(false)
            }
            (Side::Host, Greeting::Welcome) if self.state == State::Greeting && hail.nonce == self.nonce => {
                self.greeted(hail)
            }
            (Side::Guest, Greeting::Hello) => {
                self.nonce = hail.nonce;
                self.checked = hail.checked;
                self.say(Greeting::Welcome, false);
                self.greeted(hail)
            }
            _ if seeking => Ok(false),
            _ => self.lose(BadFrame::Greeting).map(|()| false),
        }
    }

    fn greeted(&mut self, hail: Hail) -> Result<bool, ProtocolError> {
        let theirs = hail.versions;
        self.version =
            handshake::agree(VERSIONS, theirs).ok_or(ProtocolError::Version { ours: VERSIONS, theirs })?;
        if hail.checked != self.checked {
            return Err(ProtocolError::Frame(BadFrame::Greeting));
        }
        let [a, b, c, d, ..] = self.nonce;
        let seal = Seal { tag: u32::from_be_bytes([a, b, c, d]), count: 0, checked: self.checked };
        (self.incoming, self.outgoing) = (seal, seal);
        self.state = State::Resuming;
        Ok(true)
    }

    /// What comes makes no sense: the two must find each other again, if an honest other side can be the cause.
    fn lose(&mut self, bad: BadFrame) -> Result<(), ProtocolError> {
        match self.side {
            Side::Host if self.checked => self.greet(true),
            Side::Host => return Err(bad.into()),
            // So begins a dirty hello. A knock would be answered by another one, and that by another knock, for ever.
            Side::Guest if matches!(bad, BadFrame::Magic([0, _])) => self.state = State::Waiting,
            Side::Guest if self.checked => self.knock(true),
            // Another host has taken the line over in the middle of a frame; its hello is still to come.
            Side::Guest => self.state = State::Waiting,
        }
        Ok(())
    }

    /// The payload of the frame at the front.
    pub(crate) fn payload(&self, header: &Header) -> &[u8] {
        self.input.as_slice().get(HEADER..HEADER + header.length as usize).unwrap_or_default()
    }

    /// The frame at the front has been dealt with.
    pub(crate) fn taken(&mut self, header: &Header) {
        self.input.consume(HEADER + header.length as usize + TRAILER);
        self.incoming.advance();
        if header.kind == Kind::Resume && self.state == State::Resuming {
            self.state = State::Connected;
        }
    }

    /// The most payload that a frame may have.
    pub(crate) fn max_payload(&self) -> usize {
        self.outgoing.max_payload()
    }

    /// Queues a frame; its length is set here.
    pub(crate) fn frame(&mut self, mut header: Header, payload: &[u8]) {
        header.length = u32::try_from(payload.len()).unwrap_or(0);
        let head = header.encode();
        self.output.extend(&head);
        self.output.extend(payload);
        self.output.extend(&self.outgoing.trailer(&head, payload));
        self.outgoing.advance();
    }
}

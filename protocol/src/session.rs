//! A session: one process's stdin, stdout and stderr.

use crate::frame::{Lane, Stream};
use crate::incoming::Incoming;
use crate::line::Side;
use crate::outgoing::Outgoing;
use crate::resume::Point;

/// Bytes that a stream's sender may be ahead of its receiver, and so the most that each of them keeps of a stream.
pub const WINDOW: u64 = 256 << 10;
/// The same in all sessions but the first.
pub const EXEC_WINDOW: u64 = 64 << 10;

/// One end of a stream.
pub(crate) enum Flow {
    Outgoing(Outgoing),
    Incoming(Incoming),
}

pub(crate) struct Session {
    pub(crate) id: u32,
    /// By their numbers on the wire.
    pub(crate) flows: [Flow; 3],
    /// The host's: the guest is to be told of the session.
    pub(crate) is_new: bool,
}

fn window(id: u32) -> u64 {
    if id == 0 { WINDOW } else { EXEC_WINDOW }
}

/// Whether this side sends the stream.
fn sends(side: Side, stream: Stream) -> bool {
    (side == Side::Host) == (stream == Stream::Stdin)
}

impl Session {
    pub(crate) fn new(id: u32, side: Side) -> Self {
        let window = window(id);
        let flows = Stream::ALL.map(|stream| {
            if sends(side, stream) {
                Flow::Outgoing(Outgoing::new(window))
            } else {
                Flow::Incoming(Incoming::new(window))
            }
        });
        Self { id, flows, is_new: side == Side::Host && id != 0 }
    }

    /// A new host's, of a session that the guest has; `kept` knows how much of a stream the host has. If it cannot be,
    /// the stream that is why.
    pub(crate) fn adopt(
        id: u32,
        theirs: &[Point; 3],
        kept: impl Fn(Stream) -> Option<u64>,
    ) -> Result<Self, Lane> {
        let mut session = Self::new(id, Side::Host);
        session.is_new = false;
        for ((flow, theirs), stream) in session.flows.iter_mut().zip(theirs).zip(Stream::ALL) {
            *flow = match flow {
                Flow::Outgoing(_) => Flow::Outgoing(Outgoing::adopt(window(id), theirs)),
                Flow::Incoming(_) => Flow::Incoming(
                    Incoming::adopt(window(id), kept(stream), theirs).ok_or(Lane::Stream(stream))?,
                ),
            };
        }
        Ok(session)
    }

    pub(crate) fn outgoing(&self, stream: Stream) -> Option<&Outgoing> {
        match self.flows.get(stream as usize) {
            Some(Flow::Outgoing(flow)) => Some(flow),
            _ => None,
        }
    }

    pub(crate) fn outgoing_mut(&mut self, stream: Stream) -> Option<&mut Outgoing> {
        match self.flows.get_mut(stream as usize) {
            Some(Flow::Outgoing(flow)) => Some(flow),
            _ => None,
        }
    }

    pub(crate) fn incoming(&self, stream: Stream) -> Option<&Incoming> {
        match self.flows.get(stream as usize) {
            Some(Flow::Incoming(flow)) => Some(flow),
            _ => None,
        }
    }

    pub(crate) fn incoming_mut(&mut self, stream: Stream) -> Option<&mut Incoming> {
        match self.flows.get_mut(stream as usize) {
            Some(Flow::Incoming(flow)) => Some(flow),
            _ => None,
        }
    }

    /// Where its streams stand, which is thereby told.
    pub(crate) fn points(&mut self) -> [Point; 3] {
        self.is_new = false;
        self.flows.each_mut().map(|flow| match flow {
            Flow::Outgoing(flow) => flow.point(),
            Flow::Incoming(flow) => flow.point(),
        })
    }

    /// Goes on from where the other side's ends stand. If that cannot be true, the stream that is why.
    pub(crate) fn resume(&mut self, theirs: &[Point; 3]) -> Result<(), Lane> {
        for ((flow, theirs), stream) in self.flows.iter_mut().zip(theirs).zip(Stream::ALL) {
            let fits = match flow {
                Flow::Outgoing(flow) => flow.resume(theirs),
                Flow::Incoming(flow) => flow.resume(theirs),
            };
            if !fits {
                return Err(Lane::Stream(stream));
            }
        }
        Ok(())
    }
}

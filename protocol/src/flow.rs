//! The two ends of one stream: what may still be sent, and what has come and was not yet taken.

use crate::buffer::Buffer;

/// Bytes that a sender may be ahead of its receiver, and so the most that a stream ever holds in
/// memory on the receiving side.
pub(crate) const WINDOW: u64 = 256 << 10;

/// The sending end.
pub(crate) struct Outgoing {
    /// Bytes sent so far.
    pub(crate) offset: u64,
    /// The receiver takes bytes below this offset.
    pub(crate) limit: u64,
    /// The end was sent.
    pub(crate) ended: bool,
    /// The receiver wants no more.
    pub(crate) stopped: bool,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        Self { offset: 0, limit: WINDOW, ended: false, stopped: false }
    }

    pub(crate) fn credit(&self) -> u64 {
        if self.ended || self.stopped { 0 } else { self.limit.saturating_sub(self.offset) }
    }
}

/// The receiving end.
pub(crate) struct Incoming {
    /// What has come and was not consumed.
    pub(crate) buffer: Buffer,
    /// Bytes received so far.
    pub(crate) offset: u64,
    /// The sender was told that it may send up to here.
    pub(crate) granted: u64,
    /// The sender has ended the stream.
    pub(crate) ended: bool,
    /// We want no more; what still comes is dropped.
    pub(crate) stopped: bool,
}

impl Incoming {
    pub(crate) fn new() -> Self {
        Self { buffer: Buffer::default(), offset: 0, granted: WINDOW, ended: false, stopped: false }
    }

    /// The new limit to tell the sender, once half of the window is free again.
    pub(crate) fn grant(&mut self) -> Option<u64> {
        let limit = self.offset - self.buffer.len() as u64 + WINDOW;
        let due = !self.ended && !self.stopped && limit - self.granted >= WINDOW / 2;
        if due {
            self.granted = limit;
        }
        due.then_some(limit)
    }
}

//! Where all streams stand: what each side says after a handshake.
//!
//! ```text
//! payload   control that I send (17)   control that I receive (17)   sessions, ascending, from 0 (55 each)
//! session   ID (u32)   stdin (17)   stdout (17)   stderr (17)
//! stream    flags (u8)   from (u64)   to (u64)
//! ```

use crate::error::ProtocolError;
use crate::frame::Stream;

/// The most sessions at once.
pub const MOST_SESSIONS: usize = 64;

/// Its sender: it ends at `to`. Its receiver: it knows that.
pub(crate) const ENDED: u8 = 1;
/// The receiver wants no more of it.
pub(crate) const STOPPED: u8 = 2;
/// Only of its receiver: all was used, to the end.
pub(crate) const DONE: u8 = 4;

const POINT: usize = 17;
const SESSION: usize = 4 + 3 * POINT;
/// No stream gets so far; what is below can be added up without a thought.
const FARTHEST: u64 = 1 << 62;

/// Where a stream stands. Of the stream's sender: it keeps the bytes `from..to`, and has sent none behind `to`. Of its
/// receiver: it has used the bytes before `from`, and need not get those before `to`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) flags: u8,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Point {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.flags);
        out.extend(self.from.to_be_bytes());
        out.extend(self.to.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let [flags, rest @ ..] = bytes else { return None };
        let (from, to) = rest.split_first_chunk::<8>()?;
        let (from, to) = (u64::from_be_bytes(*from), u64::from_be_bytes(to.try_into().ok()?));
        let known = *flags <= (ENDED | STOPPED | DONE);
        (known && from <= to && to < FARTHEST).then_some(Self { flags: *flags, from, to })
    }
}

/// The whole payload.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) control_sent: Point,
    pub(crate) control_received: Point,
    pub(crate) sessions: Vec<(u32, [Point; 3])>,
}

impl Resume {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 * POINT + SESSION * self.sessions.len());
        self.control_sent.encode(&mut out);
        self.control_received.encode(&mut out);
        for (id, points) in &self.sessions {
            out.extend(id.to_be_bytes());
            points.iter().for_each(|point| point.encode(&mut out));
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        Self::read(payload).ok_or(ProtocolError::Resume { lane: None, session: 0 })
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let (control, sessions) = payload.split_at_checked(2 * POINT)?;
        let (sent, received) = control.split_at_checked(POINT)?;
        let sessions = sessions.chunks(SESSION).map(|bytes| {
            let (id, points) = bytes.split_first_chunk::<4>()?;
            let (stdin, outputs) = points.split_at_checked(POINT)?;
            let (stdout, stderr) = outputs.split_at_checked(POINT)?;
            Some((
                u32::from_be_bytes(*id),
                [Point::decode(stdin)?, Point::decode(stdout)?, Point::decode(stderr)?],
            ))
        });
        let sessions = sessions.collect::<Option<Vec<_>>>()?;
        let ascending = sessions.windows(2).all(|pair| matches!(pair, [(a, _), (b, _)] if a < b));
        let from_zero = sessions.first().is_some_and(|(id, _)| *id == 0);
        (ascending && from_zero && sessions.len() <= MOST_SESSIONS).then_some(Self {
            control_sent: Point::decode(sent)?,
            control_received: Point::decode(received)?,
            sessions,
        })
    }

    /// Whether a session is in it.
    pub(crate) fn session(&self, id: u32) -> Option<&[Point; 3]> {
        self.sessions.iter().find(|(known, _)| *known == id).map(|(_, points)| points)
    }
}

const _: () = assert!(Stream::ALL.len() == 3);
const _: () = assert!(2 * POINT + MOST_SESSIONS * SESSION <= crate::frame::MAX_CHECKED);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let point = |n| Point { flags: 5, from: n, to: n + 9 };
        let sessions = vec![(0, [1, 2, 3].map(point)), (9, [4, 5, 6].map(point))];
        let resume = Resume { control_sent: point(7), control_received: point(8), sessions };
        let bytes = resume.encode();
        assert_eq!(Resume::decode(&bytes), Ok(resume));
        assert!((0..bytes.len()).all(|cut| Resume::read(&bytes[..cut]).is_none() || cut == 34 + 55));
        for (at, byte) in [(0, 8), (1, 0x80), (37, 1), (34 + 58, 0), (9 + 7, 1)] {
            let mut bad = bytes.clone();
            bad[at] = byte;
            assert_eq!(Resume::read(&bad), None, "{at}");
        }
    }
}

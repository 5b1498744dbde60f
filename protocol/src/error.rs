//! What the other side may do wrong.

use crate::frame::{BadFrame, Kind, Lane};

/// What the other side did wrong. The link is of no use after it.
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
    /// A session that does not exist, or not yet, or no more, or is one too many.
    Session(u32),
    /// A frame that does not go this way, or not at this time.
    Unexpected(Kind, Lane),
    /// A frame that does not fit to where the stream stands.
    Offset {
        /// What was said of it.
        kind: Kind,
        /// The stream.
        lane: Lane,
        /// Its session.
        session: u32,
        /// Where it stands, as far as this kind of frame is concerned.
        expected: u64,
        /// Where the frame says.
        found: u64,
        /// The frame's bytes.
        length: u32,
    },
    /// What was said after a handshake of where streams stand cannot be true.
    Resume {
        /// The stream; none if it is about all of them.
        lane: Option<Lane>,
        /// Its session.
        session: u32,
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
            Self::Session(session) => write!(out, "session {session} cannot be"),
            Self::Unexpected(kind, lane) => write!(out, "an unexpected {kind:?} frame for {lane:?}"),
            Self::Offset { kind, lane, session, expected, found, length } => write!(
                out,
                "{lane:?} of session {session} stands at byte {expected}; {kind:?} at {found}, of {length} bytes, does not fit there or was not asked for"
            ),
            Self::Resume { lane: Some(lane), session } => {
                write!(
                    out,
                    "{lane:?} of session {session} cannot stand where the other side says that it does"
                )
            }
            Self::Resume { lane: None, .. } => out.write_str("the other side's state cannot be understood"),
        }
    }
}

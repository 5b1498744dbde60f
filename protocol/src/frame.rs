//! Frames: what the line carries after the [handshake](crate::handshake).
//!
//! ```text
//! byte  0  1     2       3          4..8      8..16    16..20     20..
//!      c0 7e   kind   stream   session (u32)  offset   length    payload
//! ```
//!
//! All numbers are big-endian. Session 0 is the container's process. `offset` counts the bytes of
//! one stream of one session since it began: it makes lost or doubled bytes visible, and it is what
//! a side that comes back after a disconnect will name to get the rest.

/// Bytes before the payload.
pub const HEADER: usize = 20;
/// The most that one data frame may carry, in bytes.
pub const MAX_DATA: usize = 64 << 10;
/// The most that one control message to the guest may be, in bytes of JSON: it holds arguments and environment, of
/// which Linux takes 2 MiB, and JSON may write one byte as six.
pub const MAX_TO_GUEST: usize = 16 << 20;
/// The same to the host, which has less reason to trust.
pub const MAX_TO_HOST: usize = 1 << 20;

const MAGIC: [u8; 2] = [0xc0, 0x7e];

/// One of a session's three byte streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// Host to guest.
    Stdin = 0,
    /// Guest to host. With a terminal, everything comes here.
    Stdout = 1,
    /// Guest to host.
    Stderr = 2,
}

impl Stream {
    fn from_wire(byte: u8) -> Option<Self> {
        [Self::Stdin, Self::Stdout, Self::Stderr].into_iter().find(|stream| *stream as u8 == byte)
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A JSON message. `offset` and `stream` are 0.
    Control = 1,
    /// Bytes of a stream; the first of them stands at `offset`.
    Data = 2,
    /// The stream has ended, `offset` bytes long. No payload.
    End = 3,
    /// The receiver takes bytes up to (not including) `offset`. No payload.
    Credit = 4,
    /// The receiver of the stream wants no more of it: nobody reads it. No payload, `offset` is 0.
    Stop = 5,
}

impl Kind {
    fn from_wire(byte: u8) -> Option<Self> {
        [Self::Control, Self::Data, Self::End, Self::Credit, Self::Stop]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    fn max_payload(self, max_control: usize) -> usize {
        match self {
            Self::Control => max_control,
            Self::Data => MAX_DATA,
            Self::End | Self::Credit | Self::Stop => 0,
        }
    }
}

/// A frame's header, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// Which stream; [`Stream::Stdin`] in control frames.
    pub stream: Stream,
    /// Which process; 0 is the container's.
    pub session: u32,
    /// See [`Kind`].
    pub offset: u64,
    /// Bytes of payload that follow.
    pub length: u32,
}

impl Header {
    /// The header as it stands on the wire.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let fields: [&[u8]; 6] = [
            &MAGIC,
            &[self.kind as u8],
            &[self.stream as u8],
            &self.session.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.length.to_be_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// Reads a header, and refuses one that no honest side sends. A control message may have `max_control` bytes.
    pub fn decode(bytes: &[u8; HEADER], max_control: usize) -> Result<Self, BadFrame> {
        let [m0, m1, kind, stream, s0, s1, s2, s3, rest @ ..] = *bytes;
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = rest;
        if [m0, m1] != MAGIC {
            return Err(BadFrame::Magic([m0, m1]));
        }
        let kind = Kind::from_wire(kind).ok_or(BadFrame::Kind(kind))?;
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let most = kind.max_payload(max_control);
        if length as usize > most {
            return Err(BadFrame::Length { kind, length, most });
        }
        Ok(Self {
            kind,
            stream: Stream::from_wire(stream).ok_or(BadFrame::Stream(stream))?,
            session: u32::from_be_bytes([s0, s1, s2, s3]),
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            length,
        })
    }
}

/// Why bytes are not a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// It does not begin as frames do.
    Magic([u8; 2]),
    /// No such kind.
    Kind(u8),
    /// No such stream.
    Stream(u8),
    /// More payload than this kind may have.
    Length {
        /// The kind.
        kind: Kind,
        /// The payload's bytes.
        length: u32,
        /// How many are allowed.
        most: usize,
    },
}

impl std::fmt::Display for BadFrame {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Magic([a, b]) => write!(out, "a frame begins with {a:02x} {b:02x}, not c0 7e"),
            Self::Kind(kind) => write!(out, "unknown frame kind {kind}"),
            Self::Stream(stream) => write!(out, "unknown stream {stream}"),
            Self::Length { kind, length, most } => {
                write!(out, "a {kind:?} frame of {length} bytes; at most {most} are allowed")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { kind: Kind::Data, stream: Stream::Stderr, session: 7, offset: 1 << 40, length: 65536 }
    }

    #[test]
    fn the_wire_format_is_what_the_page_says() {
        let wire = [0xc0, 0x7e, 2, 2, 0, 0, 0, 7, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(header().encode(), wire);
        assert_eq!(Header::decode(&wire, MAX_TO_HOST), Ok(header()));
    }

    #[test]
    fn bad_headers_are_refused() {
        let with = |at: usize, byte: u8| {
            let mut bytes = header().encode();
            bytes[at] = byte;
            Header::decode(&bytes, MAX_TO_HOST)
        };
        let too_long = |kind, length, most| Err(BadFrame::Length { kind, length, most });
        assert_eq!(with(0, 0), Err(BadFrame::Magic([0, 0x7e])));
        assert_eq!(with(2, 0), Err(BadFrame::Kind(0)));
        assert_eq!(with(2, 6), Err(BadFrame::Kind(6)));
        assert_eq!(with(3, 3), Err(BadFrame::Stream(3)));
        assert_eq!(with(19, 1), too_long(Kind::Data, 65537, MAX_DATA));
        assert_eq!(with(2, 3), too_long(Kind::End, 65536, 0));
        assert_eq!(with(16, 0xff), too_long(Kind::Data, 0xff01_0000, MAX_DATA));
    }
}

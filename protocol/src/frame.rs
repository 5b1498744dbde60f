//! Frames: what the line carries after the [handshake](crate::handshake).
//!
//! ```text
//! byte  0  1     2       3          4..8      8..16    16..20     20..20+length   then 4 bytes
//!      c0 7e   kind    lane     session (u32)  offset   length    payload         trailer
//! ```
//!
//! All numbers are big-endian. `offset` counts the bytes of one stream of one session since it began. The trailer
//! ([`Seal`]) makes visible that a frame was not written to its end, or is not the next one, or, on a checked line, that
//! bytes of it were lost or changed.

use crate::checksum::crc32;

/// Bytes before the payload.
pub const HEADER: usize = 20;
/// Bytes behind the payload.
pub const TRAILER: usize = 4;
/// The most that a frame may carry, in bytes.
pub const MAX_DATA: usize = 64 << 10;
/// The same on a checked line, where a frame that is damaged is sent again.
pub const MAX_CHECKED: usize = 4 << 10;
/// The most that one control message to the guest may be, in bytes of JSON: it holds arguments and environment, of
/// which Linux takes 2 MiB, and JSON may write one byte as six.
pub const MAX_TO_GUEST: usize = 16 << 20;
/// The same to the host, which has less reason to trust.
pub const MAX_TO_HOST: usize = 1 << 20;

/// What every frame begins with.
pub const MAGIC: [u8; 2] = [0xc0, 0x7e];

/// One of a session's three byte streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
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
    /// All of them, each at its number on the wire.
    pub const ALL: [Self; 3] = [Self::Stdin, Self::Stdout, Self::Stderr];
}

/// What a frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A session's stream.
    Stream(Stream),
    /// The control messages of session 0: each way a stream of its own.
    Control,
}

impl Lane {
    const CONTROL: u8 = 3;

    fn to_wire(self) -> u8 {
        match self {
            Self::Stream(stream) => stream as u8,
            Self::Control => Self::CONTROL,
        }
    }

    fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            Self::CONTROL => Some(Self::Control),
            _ => Stream::ALL.get(usize::from(byte)).copied().map(Self::Stream),
        }
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Where all streams stand: the first frame of each side after a handshake. `offset` is the highest session ID used.
    Resume = 1,
    /// Bytes of a stream; the first of them stands at `offset`.
    Data = 2,
    /// The stream has ended, `offset` bytes long.
    End = 3,
    /// The stream's receiver has used the bytes before `offset`: they need not be kept, and as many more may be sent.
    Credit = 4,
    /// The stream's receiver wants no more of it.
    Stop = 5,
    /// The stream's receiver has used all of it, and knows that it has ended, `offset` bytes long.
    Done = 6,
    /// From the host: the session exists from now on.
    Open = 7,
    /// From the host: the session is of no more interest.
    Close = 8,
    /// From the guest: nothing more of this session will come.
    Closed = 9,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Resume,
        Self::Data,
        Self::End,
        Self::Credit,
        Self::Stop,
        Self::Done,
        Self::Open,
        Self::Close,
        Self::Closed,
    ];

    fn has_payload(self) -> bool {
        matches!(self, Self::Resume | Self::Data)
    }
}

/// A frame's header, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// What it is about; stdin where that has no meaning.
    pub lane: Lane,
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
            &[self.lane.to_wire()],
            &self.session.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.length.to_be_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// Reads a header, and refuses one that no honest side sends, such as one of more than `most` bytes of payload.
    pub fn decode(bytes: &[u8; HEADER], most: usize) -> Result<Self, BadFrame> {
        let [m0, m1, kind, lane, s0, s1, s2, s3, rest @ ..] = *bytes;
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = rest;
        if [m0, m1] != MAGIC {
            return Err(BadFrame::Magic([m0, m1]));
        }
        let kind = Kind::ALL.into_iter().find(|known| *known as u8 == kind).ok_or(BadFrame::Kind(kind))?;
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let most = if kind.has_payload() { most } else { 0 };
        if length as usize > most {
            return Err(BadFrame::Length { kind, length, most });
        }
        Ok(Self {
            kind,
            lane: Lane::from_wire(lane).ok_or(BadFrame::Lane(lane))?,
            session: u32::from_be_bytes([s0, s1, s2, s3]),
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            length,
        })
    }
}

/// What makes a frame's trailer: `tag + count`, and on a checked line ` + CRC-32 of header and payload`, modulo 2^32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// The first four bytes of the hello's nonce.
    pub tag: u32,
    /// How many frames were sent this way since the handshake, without this one.
    pub count: u32,
    /// Whether the line is checked.
    pub checked: bool,
}

impl Seal {
    /// The trailer of the next frame.
    pub fn trailer(&self, header: &[u8], payload: &[u8]) -> [u8; TRAILER] {
        let sum = if self.checked { crc32(&[header, payload]) } else { 0 };
        self.tag.wrapping_add(self.count).wrapping_add(sum).to_be_bytes()
    }

    /// One more frame has gone this way.
    pub fn advance(&mut self) {
        self.count = self.count.wrapping_add(1);
    }

    /// The most payload that a frame may have on this line.
    pub fn max_payload(&self) -> usize {
        if self.checked { MAX_CHECKED } else { MAX_DATA }
    }

    /// Looks at the frame that `bytes` begin with. None when it is not whole.
    pub fn open(&self, bytes: &[u8]) -> Result<Option<Header>, BadFrame> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let header = Header::decode(head, self.max_payload())?;
        let Some((payload, rest)) = rest.split_at_checked(header.length as usize) else { return Ok(None) };
        match rest.first_chunk::<TRAILER>() {
            None => Ok(None),
            Some(trailer) if *trailer == self.trailer(head, payload) => Ok(Some(header)),
            Some(_) => Err(BadFrame::Trailer(header.kind)),
        }
    }
}

/// Why bytes are not a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// It does not begin as frames do.
    Magic([u8; 2]),
    /// No such kind.
    Kind(u8),
    /// No such lane.
    Lane(u8),
    /// More payload than it may have.
    Length {
        /// The kind.
        kind: Kind,
        /// The payload's bytes.
        length: u32,
        /// How many are allowed.
        most: usize,
    },
    /// The trailer is wrong.
    Trailer(Kind),
    /// A greeting, but none that belongs here.
    Greeting,
}

impl std::fmt::Display for BadFrame {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Magic([a, b]) => write!(out, "a frame begins with {a:02x} {b:02x}, not c0 7e"),
            Self::Kind(kind) => write!(out, "unknown frame kind {kind}"),
            Self::Lane(lane) => write!(out, "unknown stream {lane}"),
            Self::Length { kind, length, most } => {
                write!(out, "a {kind:?} frame of {length} bytes; at most {most} are allowed")
            }
            Self::Trailer(kind) => write!(out, "the trailer of a {kind:?} frame is wrong"),
            Self::Greeting => out.write_str("a greeting at the wrong time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let lane = Lane::Stream(Stream::Stderr);
        Header { kind: Kind::Data, lane, session: 7, offset: 1 << 40, length: 65536 }
    }

    #[test]
    fn the_wire_format_is_what_the_page_says() {
        let wire = [0xc0, 0x7e, 2, 2, 0, 0, 0, 7, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(header().encode(), wire);
        assert_eq!(Header::decode(&wire, MAX_DATA), Ok(header()));
    }

    #[test]
    fn bad_headers_are_refused() {
        let with = |at: usize, byte: u8| {
            let mut bytes = header().encode();
            bytes[at] = byte;
            Header::decode(&bytes, MAX_DATA)
        };
        let too_long = |kind, length, most| Err(BadFrame::Length { kind, length, most });
        assert_eq!(with(0, 0), Err(BadFrame::Magic([0, 0x7e])));
        assert_eq!(with(2, 0), Err(BadFrame::Kind(0)));
        assert_eq!(with(2, 10), Err(BadFrame::Kind(10)));
        assert_eq!(with(3, 4), Err(BadFrame::Lane(4)));
        assert_eq!(with(19, 1), too_long(Kind::Data, 65537, MAX_DATA));
        assert_eq!(with(2, 3), too_long(Kind::End, 65536, 0));
        assert_eq!(with(16, 0xff), too_long(Kind::Data, 0xff01_0000, MAX_DATA));
    }

    #[test]
    fn a_seal_is_broken_by_any_change_on_a_checked_line_and_by_another_place_on_any() {
        for checked in [false, true] {
            let seal = Seal { tag: 0xffff_fffe, count: 5, checked };
            let payload = b"hello";
            let head = Header { length: 5, ..header() }.encode();
            let whole = [&head[..], payload, &seal.trailer(&head, payload)].concat();
            assert!(matches!(seal.open(&whole), Ok(Some(found)) if found.length == 5));
            assert!((0..whole.len()).all(|cut| seal.open(&whole[..cut]) == Ok(None)));
            assert!(Seal { count: 6, ..seal }.open(&whole).is_err());
            for at in 0..whole.len() * 8 {
                let mut bad = whole.clone();
                bad[at / 8] ^= 1 << (at % 8);
                assert!(!checked || !matches!(seal.open(&bad), Ok(Some(_))), "bit {at}");
            }
        }
    }
}

//! Greetings: how the two sides find each other on a line that may have anything on it.
//!
//! ```text
//! byte  0..16   16     17      18..20   20..22    22..38   38..42
//!       magic   kind   flags   lowest   highest   nonce    CRC-32 of all before
//! ```
//!
//! `lowest` and `highest` are the versions of the protocol that the speaker knows; bit 0 of `flags` says that frames are
//! checked. A knock has no flags, and its nonce is zeros.

use crate::checksum::crc32;

/// Sixteen bytes that no log line holds: the first is not ASCII, the last are a line that was
/// mangled by a terminal if they do not arrive as sent.
pub const MAGIC: [u8; 16] = *b"\xc5ContainerVM\r\n\0\x1a";

/// Bytes of a whole greeting.
pub const LEN: usize = 42;

/// Bytes before the CRC.
const BODY: usize = LEN - 4;

/// The versions that this crate knows, lowest and highest.
pub const VERSIONS: (u16, u16) = (2, 2);

/// What a host chooses anew for each hello, so that nothing but the answer to it looks like the answer to it.
pub type Nonce = [u8; 16];

/// Who greets, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Greeting {
    /// Host: here I am.
    Hello = 1,
    /// Guest: the answer to the hello with this nonce.
    Welcome = 2,
    /// Guest: I look for a hello.
    Knock = 3,
}

/// A greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hail {
    /// Which.
    pub greeting: Greeting,
    /// Whether frames are checked.
    pub checked: bool,
    /// The versions that the speaker knows, lowest and highest.
    pub versions: (u16, u16),
    /// The host's choice.
    pub nonce: Nonce,
}

impl Hail {
    /// The greeting as it stands on the wire.
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let (low, high) = self.versions;
        let fields: [&[u8]; 5] = [
            &MAGIC,
            &[self.greeting as u8, u8::from(self.checked)],
            &low.to_be_bytes(),
            &high.to_be_bytes(),
            &self.nonce,
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        let (body, sum) = bytes.split_at_mut(BODY);
        sum.copy_from_slice(&crc32(&[body]).to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; LEN]) -> Option<Self> {
        let (body, sum) = bytes.split_at(BODY);
        let [greeting, flags, l0, l1, h0, h1, nonce @ ..] = body.strip_prefix(&MAGIC)? else { return None };
        let known = [Greeting::Hello, Greeting::Welcome, Greeting::Knock];
        if *sum != crc32(&[body]).to_be_bytes() || *flags > 1 {
            return None;
        }
        Some(Self {
            greeting: known.into_iter().find(|known| *known as u8 == *greeting)?,
            checked: *flags == 1,
            versions: (u16::from_be_bytes([*l0, *l1]), u16::from_be_bytes([*h0, *h1])),
            nonce: nonce.try_into().ok()?,
        })
    }

    /// What `bytes`, which begin as the [`MAGIC`] does or are few, begin with.
    pub fn at_front(bytes: &[u8]) -> Found {
        let (Some(head), whole) = (bytes.get(..bytes.len().min(MAGIC.len())), bytes.first_chunk::<LEN>())
        else {
            return Found::Other;
        };
        match whole.map(Self::decode) {
            _ if !MAGIC.starts_with(head) => Found::Other,
            None => Found::Part,
            Some(Some(hail)) => Found::Hail(hail),
            Some(None) => Found::Other,
        }
    }

    /// Looks for the first greeting in `bytes`: how many bytes before it, or its beginning, are rubbish, and itself.
    pub fn find(bytes: &[u8]) -> (usize, Option<Self>) {
        let [first, ..] = MAGIC;
        for (at, byte) in bytes.iter().enumerate() {
            if *byte == first {
                match Self::at_front(bytes.get(at..).unwrap_or_default()) {
                    Found::Other => {}
                    Found::Part => return (at, None),
                    Found::Hail(hail) => return (at, Some(hail)),
                }
            }
        }
        (bytes.len(), None)
    }
}

/// What stands at the front of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// No greeting.
    Other,
    /// Perhaps one, when more has come.
    Part,
    /// This one.
    Hail(Hail),
}

/// The highest version in both ranges, if there is one.
pub fn agree(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let version = ours.1.min(theirs.1);
    (version >= ours.0 && version >= theirs.0).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_found_behind_rubbish_and_in_pieces() {
        let hail = Hail { greeting: Greeting::Hello, checked: true, versions: (3, 9), nonce: [7; 16] };
        let mut mangled = hail.encode();
        mangled[30] ^= 1;
        let mut line = b"[    0.1] Linux\r\n\xc5Cont\xc5".to_vec();
        line.extend(mangled);
        let rubbish = line.len();
        line.extend(hail.encode());
        for cut in 0..line.len() {
            assert!(matches!(Hail::find(&line[..cut]), (n, None) if n <= rubbish), "cut at {cut}");
        }
        line.push(b'x');
        assert_eq!(Hail::find(&line), (rubbish, Some(hail)));
    }

    #[test]
    fn versions_meet_or_not() {
        assert_eq!(agree((1, 3), (2, 5)), Some(3));
        assert_eq!(agree((1, 1), (1, 1)), Some(1));
        assert_eq!(agree((1, 2), (3, 4)), None);
        assert_eq!(agree((5, 6), (3, 4)), None);
    }
}

//! What to run, where it does not come over the channel: a document, and the disk that it may be on.
//!
//! The document is [`Stored`] as JSON: the value of fw_cfg's `opt/org.containervm/spec` (QEMU), of VMware's guestinfo variable
//! `guestinfo.containervm.spec`, or on a config disk:
//!
//! | bytes of the disk | |
//! |---|---|
//! | 0..16 | `containervm.spec` |
//! | 16..20 | version of this format, big-endian: 1 |
//! | 20..24 | the document's length, big-endian: at most 16 MiB |
//! | 24..28 | CRC-32 (IEEE 802.3) of the document, big-endian |
//! | 28..512 | zeros |
//! | 512.. | the document; after it, anything |

use crate::MachineSpec;
use crate::checksum::crc32;
use crate::frame::MAX_TO_GUEST;
use serde::{Deserialize, Serialize};

/// What [`Start`](crate::Start) says, but for what is only true at the start: the time, and random numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stored {
    /// What to run.
    pub machine: MachineSpec,
    /// Whether a host will send stdin. Without it the process reads `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
}

/// The disk's first bytes.
const MAGIC: &[u8; 16] = b"containervm.spec";
/// The version of the format.
const VERSION: u32 = 1;

/// Bytes of a config disk's header.
pub const HEADER: usize = 512;
/// The longest document, in bytes.
pub const MOST_STORED: usize = MAX_TO_GUEST;

/// What a config disk's header says of the document behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes.
    pub length: usize,
    crc: u32,
}

impl Header {
    /// Of this document.
    ///
    /// # Errors
    /// It is too long.
    pub fn of(document: &[u8]) -> Result<Self, String> {
        match document.len() {
            length if length <= MOST_STORED => Ok(Self { length, crc: crc32(&[document]) }),
            length => Err(format!("the machine spec has {length} bytes, and {MOST_STORED} are the most")),
        }
    }

    /// As it stands on the disk.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        // At most 2^24.
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        let numbers = [VERSION, length, self.crc].map(u32::to_be_bytes);
        for (to, from) in bytes.iter_mut().zip(MAGIC.iter().chain(numbers.as_flattened())) {
            *to = *from;
        }
        bytes
    }

    /// Of a disk's first bytes; none if it is no config disk.
    ///
    /// # Errors
    /// It is one that cannot be read; the text says why.
    pub fn read(bytes: &[u8; HEADER]) -> Result<Option<Self>, String> {
        if !bytes.starts_with(MAGIC) {
            return Ok(None);
        }
        let number =
            |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_be_bytes);
        let [version, length, crc] = [16, 20, 24].map(|at| number(at).unwrap_or_default());
        if version != VERSION {
            return Err(format!(
                "it has version {version} of the format: this tether knows version {VERSION}"
            ));
        }
        match usize::try_from(length) {
            Ok(length) if length <= MOST_STORED => Ok(Some(Self { length, crc })),
            _ => Err(format!("it says that the machine spec has {length} bytes: {MOST_STORED} are the most")),
        }
    }

    /// Whether this is the document that it tells of.
    pub fn tells_of(&self, document: &[u8]) -> bool {
        document.len() == self.length && crc32(&[document]) == self.crc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let document = br#"{"machine":{}}"#;
        let header = Header::of(document).unwrap();
        let bytes = header.bytes();
        assert_eq!(bytes[..24], *b"containervm.spec\0\0\0\x01\0\0\0\x0e");
        assert_eq!(Header::read(&bytes), Ok(Some(header)));
        assert!(header.tells_of(document));
        assert!(!header.tells_of(&document[1..]) && !header.tells_of(br#"{"machine":[]}"#));
        assert!(Header::of(&vec![b' '; MOST_STORED]).is_ok());
        assert!(Header::of(&vec![b' '; MOST_STORED + 1]).is_err());
    }

    #[test]
    fn bad_headers() {
        let good = Header::of(b"x").unwrap().bytes();
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Header::read(&bytes)
        };
        assert_eq!(with(0, b'C'), Ok(None));
        assert_eq!(Header::read(&[0; HEADER]), Ok(None));
        assert!(with(19, 2).unwrap_err().contains("version 2"));
        assert!(with(20, 0xff).unwrap_err().contains("4278190081 bytes"));
        assert!(with(20, 1).unwrap_err().contains("16777217 bytes"), "one more than fits");
        assert!(!with(27, !good[27]).unwrap().unwrap().tells_of(b"x"));
    }
}

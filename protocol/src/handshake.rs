//! The first bytes on a line: who speaks, and which versions of the protocol it knows.
//!
//! A hello is [`MAGIC`] and two big-endian `u16`: the lowest and the highest version known. Both
//! sides send theirs at once, without waiting. Whatever stands before the other's hello (boot
//! messages on a serial line, the rest of an old connection) is skipped. The version used is the
//! highest that both know.

/// Sixteen bytes that no log line holds: the first is not ASCII, the last are a line that was
/// mangled by a terminal if they do not arrive as sent.
pub const MAGIC: [u8; 16] = *b"\xc5ContainerVM\r\n\0\x1a";

/// Bytes of a whole hello.
pub const LEN: usize = MAGIC.len() + 4;

/// The versions that this crate knows, lowest and highest.
pub const VERSIONS: (u16, u16) = (1, 1);

/// The hello that says "I know the versions `low` to `high`".
pub fn encode((low, high): (u16, u16)) -> [u8; LEN] {
    let mut hello = [0; LEN];
    let (magic, versions) = hello.split_at_mut(MAGIC.len());
    magic.copy_from_slice(&MAGIC);
    let (first, second) = versions.split_at_mut(2);
    first.copy_from_slice(&low.to_be_bytes());
    second.copy_from_slice(&high.to_be_bytes());
    hello
}

/// What the start of a line holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// No hello yet; this many bytes are rubbish and may be dropped.
    Nothing(usize),
    /// A hello that ends after this many bytes, and its version range.
    Hello(usize, (u16, u16)),
}

/// Looks for the first hello in `bytes`.
pub fn find(bytes: &[u8]) -> Found {
    match bytes.windows(MAGIC.len()).position(|window| window == MAGIC) {
        None => Found::Nothing(bytes.len().saturating_sub(MAGIC.len() - 1)),
        Some(at) => match bytes.get(at + MAGIC.len()..at + LEN) {
            Some(&[a, b, c, d]) => {
                Found::Hello(at + LEN, (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
            }
            _ => Found::Nothing(at),
        },
    }
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
    fn a_hello_is_found_behind_rubbish_and_in_pieces() {
        let mut line = b"[    0.1] Linux\r\n\xc5Cont\xc5".to_vec();
        let rubbish = line.len();
        line.extend(encode((3, 9)));
        for cut in 0..line.len() {
            assert!(matches!(find(&line[..cut]), Found::Nothing(n) if n <= rubbish), "cut at {cut}");
        }
        line.push(b'x');
        assert_eq!(find(&line), Found::Hello(rubbish + LEN, (3, 9)));
    }

    #[test]
    fn versions_meet_or_not() {
        assert_eq!(agree((1, 3), (2, 5)), Some(3));
        assert_eq!(agree((1, 1), (1, 1)), Some(1));
        assert_eq!(agree((1, 2), (3, 4)), None);
        assert_eq!(agree((5, 6), (3, 4)), None);
    }
}

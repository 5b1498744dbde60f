//! The keys that detach a terminal from its container: docker's `--detach-keys`.

use anyhow::{Result, bail};

/// What docker has by default.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Looks for a sequence of keys in what is typed.
#[derive(Debug)]
pub struct Keys {
    keys: Vec<u8>,
    /// How many of them were just pressed, and are held back.
    pressed: usize,
}

/// What is to be passed on.
#[derive(Debug, PartialEq, Eq)]
pub struct Scanned {
    /// The bytes before the sequence, if that was complete.
    pub bytes: Vec<u8>,
    /// Whether it was.
    pub pressed: bool,
}

impl Keys {
    /// Docker's form: letters and `ctrl-X`, with commas between them. The empty string is no keys.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self> {
        let key = |word: &str| -> Result<u8> {
            match (word.as_bytes(), word.strip_prefix("ctrl-").map(str::as_bytes)) {
                (_, Some([key @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => {
                    Ok(key.to_ascii_uppercase() & 0x1f)
                }
                ([key @ 0x21..=0x7e], _) => Ok(*key),
                _ => {
                    bail!("{word:?} is no key for --detach-keys: a character, or ctrl- and a-z @ [ \\ ] ^ _")
                }
            }
        };
        let words = text.split(',').filter(|_| !text.is_empty());
        Ok(Self { keys: words.map(key).collect::<Result<_>>()?, pressed: 0 })
    }

    /// How many bytes are held back.
    pub fn held(&self) -> usize {
        self.pressed
    }

    /// Looks through what was typed: what is passed on is at most as long as that and what was held back.
    pub fn scan(&mut self, typed: &[u8]) -> Scanned {
        let mut bytes = Vec::with_capacity(typed.len() + self.pressed);
        for byte in typed {
            if self.keys.get(self.pressed) == Some(byte) {
                self.pressed += 1;
                if self.pressed == self.keys.len() {
                    self.pressed = 0;
                    return Scanned { bytes, pressed: true };
                }
                continue;
            }
            bytes.extend_from_slice(&self.keys[..self.pressed]);
            self.pressed = 0;
            if self.keys.first() == Some(byte) && self.keys.len() > 1 {
                self.pressed = 1;
            } else {
                bytes.push(*byte);
            }
        }
        Scanned { bytes, pressed: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_however_they_are_typed() {
        let all = |keys: &str, typed: &[&[u8]]| {
            let mut keys = Keys::parse(keys).unwrap();
            let scanned: Vec<_> = typed.iter().map(|typed| keys.scan(typed)).collect();
            (
                scanned.iter().flat_map(|s| s.bytes.clone()).collect::<Vec<_>>(),
                scanned.iter().any(|s| s.pressed),
            )
        };
        assert_eq!(all(DEFAULT, &[b"ab\x10", b"\x11c"]), (b"ab".to_vec(), true));
        assert_eq!(all(DEFAULT, &[b"\x10", b"x\x10\x10", b"y\x11"]), (b"\x10x\x10\x10y\x11".to_vec(), false));
        assert_eq!(all(DEFAULT, &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(all("x", &[b"ax"]), (b"a".to_vec(), true));
        assert_eq!(all("", &[b"a\x10\x11"]), (b"a\x10\x11".to_vec(), false));
        for bad in ["ctrl-", "ctrl-1", "ab", "a,", "é"] {
            assert!(Keys::parse(bad).is_err(), "{bad}");
        }
    }
}

//! SHA-256 digests: content addresses as the OCI image-spec writes them, and what computes one from a stream.
//!
//! Promise: a [`Digest`] that exists is well formed, so its hex form is safe to use as a file name.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest (image-spec, descriptor.md, "Digests"). Shown and parsed, in JSON too, as `sha256:` and 64 lower-case hex
/// digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hex digits, without the algorithm's name.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first 16 bytes: a layer disk's filesystem UUID, when this is a diffID.
    pub fn uuid(&self) -> [u8; 16] {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&self.0[..16]);
        uuid
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl FromStr for Digest {
    type Err = anyhow::Error;

    /// Refuses other algorithms by name, and anything that is not 64 lower-case hex digits.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let Some((algorithm, digits)) = text.split_once(':') else {
            bail!("{text:?} is not a digest (sha256:...)");
        };
        if algorithm != "sha256" {
            bail!("digest {text:?}: algorithm {algorithm:?} is not supported, only sha256");
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).with_context(|| format!("digest {text:?} is malformed"))?;
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            bail!("digest {text:?} is malformed: upper-case digits");
        }
        Ok(Self(bytes))
    }
}

/// Computes the digest of all that it is given, and counts the bytes.
#[derive(Default)]
pub struct Hasher {
    hash: Sha256,
    count: u64,
}

impl Hasher {
    /// Takes in `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.count += bytes.len() as u64;
    }

    /// The digest of all bytes, and their count.
    pub fn finish(self) -> (Digest, u64) {
        (Digest(self.hash.finalize().into()), self.count)
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_form_is_the_specs() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
        for bad in ["", "e3b0", "sha256:", "sha256:../x", "sha512:00", &EMPTY.to_uppercase(), &EMPTY[..70]] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?} must be refused");
        }
        let upper = EMPTY.replace("e3b0", "E3B0");
        assert!(upper.parse::<Digest>().is_err());
    }

    #[test]
    fn pieces_hash_as_the_whole() {
        let mut hasher = Hasher::default();
        hasher.write_all(b"hello ").unwrap();
        hasher.update(b"world");
        assert_eq!(hasher.finish(), (Digest::of(b"hello world"), 11));
    }
}

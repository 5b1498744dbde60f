//! One 512-byte tar header block: its fields, as they stand there.

use anyhow::{Result, bail};

/// Size of headers, and what file data is padded to.
pub const BLOCK: usize = 512;

/// A raw header block whose checksum was right.
pub struct Header(pub [u8; BLOCK]);

/// Which of the historical layouts the bytes after `linkname` have.
#[derive(PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Checks the checksum. Both the unsigned and the (old Sun's) signed sum are accepted.
    pub fn parse(block: [u8; BLOCK]) -> Result<Self> {
        let sum = |value: fn(u8) -> i64| -> i64 {
            let field = 148..156;
            block.iter().enumerate().map(|(i, &b)| value(if field.contains(&i) { b' ' } else { b })).sum()
        };
        let stored = number(&block[148..156]);
        let header = Self(block);
        match stored {
            Some(s) if s == sum(i64::from) || s == sum(|b| i64::from(b.cast_signed())) => Ok(header),
            _ => bail!("not a tar header (wrong checksum)"),
        }
    }

    fn format(&self) -> Format {
        match (&self.0[257..265], &self.0[508..512]) {
            (b"ustar  \0", _) => Format::Gnu,
            (magic, b"tar\0") if magic.starts_with(b"ustar\0") => Format::Star,
            (magic, _) if magic.starts_with(b"ustar\0") => Format::Ustar,
            _ => Format::V7,
        }
    }

    /// Entry type: V7 has NUL for what is neither a link nor anything that came later.
    pub fn typeflag(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the prefix of ustar and star before it.
    pub fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        let prefix = match self.format() {
            Format::Ustar => until_nul(&self.0[345..500]),
            Format::Star => until_nul(&self.0[345..476]),
            Format::Gnu => self.gos_prefix(),
            Format::V7 => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// Before 1.8, Go wrote a prefix into GNU headers too, over the access and change times there: as its reader does since,
    /// it is taken for one where the times make no sense (golang.org/issue/12594).
    fn gos_prefix(&self) -> &[u8] {
        let is_time = |field: &[u8]| field[0] == 0 || number(field).is_some();
        let prefix = until_nul(&self.0[345..500]);
        let is_none = is_time(&self.0[345..357]) && is_time(&self.0[357..369]) || !prefix.is_ascii();
        if is_none { b"" } else { prefix }
    }

    /// Target of a hard or symbolic link.
    pub fn linkname(&self) -> Vec<u8> {
        until_nul(&self.0[157..257]).to_vec()
    }

    pub fn mode(&self) -> Result<i64> {
        self.field("mode", 100..108)
    }

    pub fn uid(&self) -> Result<i64> {
        self.field("uid", 108..116)
    }

    pub fn gid(&self) -> Result<i64> {
        self.field("gid", 116..124)
    }

    /// Bytes that follow in the stream, before padding.
    pub fn size(&self) -> Result<i64> {
        self.field("size", 124..136)
    }

    pub fn mtime(&self) -> Result<i64> {
        self.field("mtime", 136..148)
    }

    /// Major and minor device number; V7 headers have none.
    pub fn device(&self) -> Result<(i64, i64)> {
        if self.format() == Format::V7 {
            bail!("a device without numbers (V7 header)");
        }
        Ok((self.field("devmajor", 329..337)?, self.field("devminor", 337..345)?))
    }

    fn field(&self, name: &str, range: std::ops::Range<usize>) -> Result<i64> {
        match number(&self.0[range]) {
            Some(value) => Ok(value),
            None => bail!("malformed {name} in the tar header"),
        }
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&b| b == 0).unwrap_or(field.len())]
}

/// A numeric field: octal digits among blanks and NULs (blank is 0), or GNU's base-256, whose first bit is set and
/// which is big-endian two's complement in the bits after it. None: neither, or beyond 64 bits.
pub fn number(field: &[u8]) -> Option<i64> {
    match field.first()? {
        first if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let digits = &digits[..digits.iter().position(blank).unwrap_or(digits.len())];
    digits.iter().try_fold(0i64, |value, b| match b {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] | 0x80 } else { field[0] & 0x7f };
    let start = if negative { -1i64 } else { 0 };
    let bytes = std::iter::once(first).chain(field[1..].iter().copied());
    bytes.into_iter().try_fold(start, |value, b| {
        value.checked_mul(256)?.checked_add(i64::from(b)) // -1 * 256 + b keeps two's complement
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let table: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"12x4567\0", None),
            (b"-1\0", None),
            (b"8\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\x80\0\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"", None),
        ];
        for (field, value) in table {
            assert_eq!(number(field), *value, "{field:?}");
        }
    }
}

//! Sparse files: a map of the parts that hold data (GNU tar manual, "Storing Sparse Files").
//!
//! | form | where the map is |
//! |---|---|
//! | GNU's own (entry type `S`) | in the header, and in blocks after it |
//! | PAX 0.0 | in records `GNU.sparse.offset` and `GNU.sparse.numbytes`, in turn |
//! | PAX 0.1 | in a record `GNU.sparse.map` |
//! | PAX 1.0 | in decimal lines before the data, padded to a block |
//!
//! In the PAX forms 0.1 and 1.0 the entry's own name is a made-up one; the file's is in `GNU.sparse.name`.

use anyhow::{Context, Result, bail};

use super::header::{BLOCK, Header, number};
use super::quoted;

/// More parts than this (2 GiB of 4 KiB islands) are refused, to bound memory.
const MAX_PARTS: usize = 1 << 18;

/// Where a sparse file's stored bytes belong. `parts` are (offset, length), ascending, within `size`.
pub struct SparseMap {
    pub size: u64,
    pub parts: Vec<(u64, u64)>,
}

impl SparseMap {
    /// Reads GNU's own map from the header and the extension blocks after it (`next_block`), and checks it against
    /// `stored`, the bytes that follow in the stream.
    pub fn read(
        header: &Header,
        stored: u64,
        mut next_block: impl FnMut() -> Result<[u8; BLOCK]>,
    ) -> Result<Self> {
        let size = positive(&header.0[483..495])?;
        let mut parts = Vec::new();
        collect(&header.0[386..482], &mut parts)?;
        let mut extended = header.0[482] != 0;
        while extended {
            let block = next_block()?;
            collect(&block[..504], &mut parts)?;
            extended = block[504] != 0;
            check_count(parts.len())?;
        }
        let map = Self { size, parts };
        map.check(stored)?;
        Ok(map)
    }

    /// Checks that the parts stand in order within the file, and hold `stored` bytes.
    pub fn check(&self, stored: u64) -> Result<()> {
        let mut end = 0u64;
        let mut sum = 0u64;
        for &(offset, length) in &self.parts {
            let next = offset.checked_add(length).filter(|&n| offset >= end && n <= self.size);
            end = next.context("a sparse map out of order or beyond the file's end")?;
            sum += length; // the parts do not overlap: never more than `size`
        }
        if sum != stored {
            bail!("a sparse map of {sum} bytes with {stored} stored");
        }
        Ok(())
    }
}

/// The `GNU.sparse.` records of one PAX header.
#[derive(Default)]
pub struct PaxSparse {
    major: Option<u64>,
    minor: Option<u64>,
    /// The file's name, where the entry has another.
    pub name: Option<Vec<u8>>,
    size: Option<u64>,
    /// Offsets and lengths in turn.
    map: Vec<u64>,
}

impl PaxSparse {
    /// Takes one record; `key` is what follows `GNU.sparse.`.
    pub fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let number = || {
            decimal(value)
                .with_context(|| format!("malformed PAX GNU.sparse.{} {}", key.escape_ascii(), quoted(value)))
        };
        match key {
            b"major" => self.major = Some(number()?),
            b"minor" => self.minor = Some(number()?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"numblocks" => drop(number()?), // the map tells it
            b"offset" | b"numbytes" if self.map.len().is_multiple_of(2) == (key == b"offset") => {
                self.map.push(number()?);
            }
            b"map" => {
                let numbers = value.split(|&b| b == b',').map(decimal).collect::<Option<_>>();
                self.map = numbers.context("malformed PAX GNU.sparse.map")?;
            }
            _ => bail!("PAX GNU.sparse.{} is out of order or not supported", key.escape_ascii()),
        }
        Ok(())
    }

    /// The map, and how many of the `stored` bytes it took. `next_block` gives them, block by block.
    pub fn read(
        &self,
        stored: u64,
        next_block: impl FnMut() -> Result<[u8; BLOCK]>,
    ) -> Result<(SparseMap, u64)> {
        let (numbers, taken) = match (self.major, self.minor) {
            (None, None) | (Some(0), Some(0 | 1)) => (self.map.clone(), 0),
            (Some(1), Some(0)) => Lines::read_map(next_block)?,
            (major, minor) => {
                let shown = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |n| n.to_string());
                bail!("a PAX sparse file of version {}.{} (0.0, 0.1, 1.0)", shown(major), shown(minor))
            }
        };
        let (parts, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            bail!("a sparse map whose last offset has no length");
        }
        let size = self.size.context("a PAX sparse file without its size")?;
        let map = SparseMap { size, parts: parts.iter().map(|&[offset, length]| (offset, length)).collect() };
        map.check(stored.checked_sub(taken).context("a sparse map longer than the entry")?)?;
        Ok((map, taken))
    }
}

/// Decimal numbers, one a line, in blocks of the stream.
struct Lines<F> {
    next_block: F,
    block: [u8; BLOCK],
    /// How far `block` is read.
    at: usize,
    blocks: u64,
}

impl<F: FnMut() -> Result<[u8; BLOCK]>> Lines<F> {
    /// The count of parts and then each one's offset and length; and the bytes they took, padding included.
    fn read_map(next_block: F) -> Result<(Vec<u64>, u64)> {
        let mut lines = Self { next_block, block: [0; BLOCK], at: BLOCK, blocks: 0 };
        let count = usize::try_from(lines.number()?)?;
        check_count(count)?;
        let numbers = (0..2 * count).map(|_| lines.number()).collect::<Result<_>>()?;
        Ok((numbers, lines.blocks * BLOCK as u64))
    }

    fn number(&mut self) -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => break,
                digit if digits.len() < 20 => digits.push(digit),
                _ => bail!("malformed number in a sparse map"),
            }
        }
        decimal(&digits).context("malformed number in a sparse map")
    }

    fn byte(&mut self) -> Result<u8> {
        if self.at == BLOCK {
            self.block = (self.next_block)()?;
            self.blocks += 1;
            self.at = 0;
        }
        self.at += 1;
        Ok(self.block[self.at - 1])
    }
}

fn check_count(parts: usize) -> Result<()> {
    if parts > MAX_PARTS {
        bail!("a sparse file of more than {MAX_PARTS} parts");
    }
    Ok(())
}

/// Appends the map entries in `field`: pairs of 12-byte numbers; the first empty one ends the list.
fn collect(field: &[u8], parts: &mut Vec<(u64, u64)>) -> Result<()> {
    for pair in field.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        parts.push((positive(&pair[..12])?, positive(&pair[12..])?));
    }
    Ok(())
}

fn positive(field: &[u8]) -> Result<u64> {
    number(field).and_then(|n| u64::try_from(n).ok()).context("malformed number in a sparse map")
}

/// Digits and nothing else; beyond 64 bits is none.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pax(records: &[(&str, &str)]) -> Result<PaxSparse> {
        let mut sparse = PaxSparse::default();
        for (key, value) in records {
            sparse.apply(key.as_bytes(), value.as_bytes())?;
        }
        Ok(sparse)
    }

    /// Maps of data that is `stored` bytes, and begins with `data`.
    fn map(records: &[(&str, &str)], stored: u64, data: &[u8]) -> Result<(Vec<(u64, u64)>, u64)> {
        let mut blocks = data.chunks(BLOCK);
        let next = || {
            let mut block = [0; BLOCK];
            let data = blocks.next().context("no more blocks")?;
            block[..data.len()].copy_from_slice(data);
            Ok(block)
        };
        pax(records)?.read(stored, next).map(|(map, taken)| (map.parts, taken))
    }

    #[test]
    fn all_three_forms_of_pax() {
        let parts = vec![(5, 2), (9, 1)];
        let zero = [("size", "10"), ("numblocks", "2"), ("offset", "5"), ("numbytes", "2")];
        let zero = [&zero[..], &[("offset", "9"), ("numbytes", "1")]].concat();
        assert_eq!(map(&zero, 3, b"").unwrap(), (parts.clone(), 0));
        let versioned = [("major", "0"), ("minor", "1"), ("realsize", "10"), ("map", "5,2,9,1")];
        assert_eq!(map(&versioned, 3, b"").unwrap(), (parts.clone(), 0));
        let one = [("major", "1"), ("minor", "0"), ("realsize", "10")];
        assert_eq!(map(&one, 512 + 3, b"2\n5\n2\n9\n1\n").unwrap(), (parts, 512));
        let many = format!("100\n{}", "7\n0\n".repeat(100).replace("7\n", "00000000000000000007\n"));
        assert_eq!(map(&one, 2560, many.as_bytes()).unwrap(), (vec![(7, 0); 100], 2560));
    }

    #[test]
    fn what_a_map_must_not_be() {
        let one = |data: &[u8]| map(&[("major", "1"), ("minor", "0"), ("size", "9")], 512, data);
        let table = [
            (map(&[("offset", "1"), ("offset", "2")], 0, b""), "GNU.sparse.offset is out of order"),
            (map(&[("numbytes", "1")], 0, b""), "GNU.sparse.numbytes is out of order"),
            (map(&[("size", "9"), ("offset", "1")], 0, b""), "last offset has no length"),
            (map(&[("map", "1,x")], 0, b""), "malformed PAX GNU.sparse.map"),
            (map(&[("size", "-9")], 0, b""), "malformed PAX GNU.sparse.size \"-9\""),
            (map(&[("sighs", "9")], 0, b""), "GNU.sparse.sighs"),
            (map(&[("map", "0,1")], 1, b""), "without its size"),
            (map(&[("major", "2"), ("minor", "0")], 1, b""), "version 2.0"),
            (map(&[("major", "1")], 1, b""), "version 1.?"),
            (map(&[("size", "9"), ("map", "0,1")], 2, b""), "a sparse map of 1 bytes with 2 stored"),
            (map(&[("size", "9"), ("map", "8,2")], 2, b""), "beyond the file's end"),
            (map(&[("size", "9"), ("map", "5,1,4,1")], 2, b""), "out of order"),
            (map(&[("size", "9"), ("map", "9,18446744073709551615")], 2, b""), "beyond the file's end"),
            (one(b"99999999999999999999\n"), "malformed number"),
            (one(&[b'0'; 512]), "malformed number"),
            (one(b"\n"), "malformed number"),
            (one(b"300000\n"), "more than 262144 parts"),
            (one(b"1000\n"), "malformed number"),
            (map(&[("major", "1"), ("minor", "0"), ("size", "9")], 100, b"0\n"), "longer than the entry"),
        ];
        for (got, wanted) in table {
            let message = format!("{:#}", got.expect_err(wanted));
            assert!(message.contains(wanted), "{message:?} lacks {wanted:?}");
        }
    }
}

//! GNU sparse files (entry type `S`, GNU tar's "old GNU format"): a map of the parts that hold data.

use anyhow::{Context, Result, bail};

use super::header::{BLOCK, Header, number};

/// More parts than this (2 GiB of 4 KiB islands) are refused, to bound memory.
const MAX_PARTS: usize = 1 << 18;

/// Where a sparse file's stored bytes belong. `parts` are (offset, length), ascending, within `size`.
pub struct SparseMap {
    pub size: u64,
    pub parts: Vec<(u64, u64)>,
}

impl SparseMap {
    /// Reads the map from the header and the extension blocks after it (`next_block`), and checks it against `stored`,
    /// the bytes that follow in the stream.
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
            if parts.len() > MAX_PARTS {
                bail!("a sparse file of more than {MAX_PARTS} parts");
            }
        }
        let map = Self { size, parts };
        map.check(stored)?;
        Ok(map)
    }

    fn check(&self, stored: u64) -> Result<()> {
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

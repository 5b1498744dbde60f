//! veritysetup's superblock (cryptsetup, `lib/verity/verity.c`, `struct verity_sb`): 512 bytes, little-endian.

use anyhow::{Context, Result, ensure};

use super::{BLOCK, BLOCK_SIZE};

/// The fields that differ between disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// UUID.
    pub uuid: [u8; 16],
    /// Number of data blocks.
    pub data_blocks: u64,
}

impl Superblock {
    /// The superblock's block: after the 512 bytes there are zeros.
    pub fn encode(&self) -> [u8; BLOCK_SIZE] {
        let mut block = [0; BLOCK_SIZE];
        let block_size = u32::try_from(BLOCK).unwrap_or(u32::MAX).to_le_bytes();
        let fields: [(usize, &[u8]); 8] = [
            (0, b"verity\0\0"),
            (8, &1_u32.to_le_bytes()),  // version of the superblock
            (12, &1_u32.to_le_bytes()), // hash type
            (16, &self.uuid),
            (32, b"sha256"),
            (64, &block_size), // of data blocks
            (68, &block_size), // of tree blocks
            (72, &self.data_blocks.to_le_bytes()),
            // From 80 the salt's length, and the salt: none.
        ];
        for (at, value) in fields {
            block[at..][..value.len()].copy_from_slice(value);
        }
        block
    }

    /// Reads what [`Superblock::encode`] wrote.
    ///
    /// # Errors
    /// Anything else: no hash covers this block, so every bit of it must be as expected.
    pub fn decode(block: &[u8; BLOCK_SIZE]) -> Result<Self> {
        ensure!(block.starts_with(b"verity\0\0"), "there is no hash tree behind the filesystem");
        let superblock = Self {
            uuid: block[16..32].try_into().context("a field of 16 bytes")?,
            data_blocks: u64::from_le_bytes(block[72..80].try_into().context("a field of 8 bytes")?),
        };
        ensure!(
            superblock.encode() == *block,
            "the hash tree's superblock is damaged, or not of version 1, hash type 1, sha256, {BLOCK}-byte blocks, no salt"
        );
        Ok(superblock)
    }
}

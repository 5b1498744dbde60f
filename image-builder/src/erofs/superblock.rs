//! The superblock (`erofs_super_block`), 128 bytes at byte 1024.

use anyhow::{Context, Result, bail};

use super::{BLOCK, BLOCK_SIZE};

/// Where the superblock starts.
const OFFSET: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`: the checksum is there, the kernel checks it.
const CHECKSUM: u32 = 1;
/// `EROFS_FEATURE_COMPAT_MTIME`: times are modification times.
const MTIME: u32 = 2;

/// The fields that differ between layer disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Filesystem UUID.
    pub uuid: [u8; 16],
    /// Volume name, zeros after it. On the disk one more follows, without which Linux refuses it.
    pub label: [u8; 15],
    /// Length of the filesystem, in blocks.
    pub blocks: u32,
    /// First block of the inodes; a nid counts 32-byte slots from its start.
    pub meta_block: u32,
    /// The root directory's nid.
    pub root_nid: u16,
    /// Number of inodes.
    pub inodes: u64,
}

impl Superblock {
    /// Block 0 of the disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK_SIZE];
        let fields: [(usize, &[u8]); 9] = [
            (0, &MAGIC.to_le_bytes()),
            (8, &(CHECKSUM | MTIME).to_le_bytes()),
            (12, &[12]), // log2 of the block size
            (14, &self.root_nid.to_le_bytes()),
            (16, &self.inodes.to_le_bytes()),
            (36, &self.blocks.to_le_bytes()),
            (40, &self.meta_block.to_le_bytes()),
            (48, &self.uuid),
            (64, &self.label),
        ];
        for (offset, value) in fields {
            block[OFFSET + offset..][..value.len()].copy_from_slice(value);
        }
        let checksum = crc32c(&block[OFFSET..]);
        block[OFFSET + 4..][..4].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads the superblock of a disk that [`Superblock::encode`] wrote, from the disk's first block.
    ///
    /// # Errors
    /// No EROFS, a damaged superblock, features that we never write.
    pub fn decode(block: &[u8; BLOCK_SIZE]) -> Result<Self> {
        let mut sb = block[OFFSET..].to_vec();
        let u32_at = |at: usize| -> Result<u32> {
            Ok(u32::from_le_bytes(block[OFFSET + at..][..4].try_into().context("a field of four bytes")?))
        };
        if u32_at(0)? != MAGIC {
            bail!("not an EROFS filesystem");
        }
        sb[4..8].fill(0);
        if u32_at(4)? != crc32c(&sb) {
            bail!("the superblock's checksum is wrong");
        }
        if u32_at(8)? != CHECKSUM | MTIME || sb[12] != 12 || sb[79] != 0 || u32_at(80)? != 0 {
            bail!("an EROFS filesystem that this program did not write");
        }
        Ok(Self {
            uuid: sb[48..64].try_into().context("a field of 16 bytes")?,
            label: sb[64..79].try_into().context("a field of 15 bytes")?,
            blocks: u32_at(36)?,
            meta_block: u32_at(40)?,
            root_nid: u16::from_le_bytes([sb[14], sb[15]]),
            inodes: u64::from_le_bytes(sb[16..24].try_into().context("a field of 8 bytes")?),
        })
    }

    /// Length of the filesystem, in bytes.
    pub fn length(&self) -> u64 {
        u64::from(self.blocks) * BLOCK
    }
}

/// CRC-32C (Castagnoli) as the kernel's `crc32c(~0, ...)`: not inverted at the end. Once per disk, so bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283); // RFC 3720, B.4's polynomial; the usual check value
    }

    #[test]
    fn decode_gives_back_and_notices_damage() {
        let sb = Superblock {
            uuid: [9; 16],
            label: *b"fifteen letters",
            blocks: 77,
            meta_block: 5,
            root_nid: 2,
            inodes: 12,
        };
        let block: [u8; 4096] = sb.encode().try_into().unwrap();
        assert_eq!(Superblock::decode(&block).unwrap(), sb);
        for at in [1024, 1024 + 36, 1024 + 48, 4095] {
            let mut damaged = block;
            damaged[at] ^= 1;
            assert!(Superblock::decode(&damaged).is_err(), "byte {at}");
        }
    }
}

//! A disk in memory that a file of terabytes, all hole, does not fill; and superblocks with a checksum that is right.

use std::io::{Result, Seek, SeekFrom, Write};

use image_builder::erofs::BLOCK_SIZE;

/// All that was written, in order.
#[derive(Default, PartialEq, Eq)]
pub struct Disk {
    position: u64,
    /// (position, bytes)
    writes: Vec<(u64, Vec<u8>)>,
}

impl Disk {
    /// The end of what was written, in bytes.
    pub fn end(&self) -> u64 {
        self.writes.iter().map(|(at, bytes)| at + bytes.len() as u64).max().unwrap_or(0)
    }

    /// What was written last: of a layer disk, its first block.
    pub fn last(&self) -> &[u8] {
        self.writes.last().map_or(&[], |(_, bytes)| bytes)
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.writes.push((self.position, bytes.to_vec()));
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for Disk {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let SeekFrom::Start(position) = to else { return Err(std::io::ErrorKind::Unsupported.into()) };
        self.position = position;
        Ok(position)
    }
}

/// Gives an EROFS superblock the checksum that its block must have.
pub fn repair(block: &mut [u8; BLOCK_SIZE]) {
    block[1028..1032].fill(0);
    let checksum = crc32c(&block[1024..]);
    block[1028..1032].copy_from_slice(&checksum.to_le_bytes());
}

fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ ((crc & 1) * 0x82f6_3b78))
    })
}

//! A layer disk's first block. What is accepted is written and read again as the same.
#![no_main]

use image_builder::erofs::{BLOCK_SIZE, superblock::Superblock};
use libfuzzer_sys::fuzz_target;

const OFFSET: usize = 1024;

fuzz_target!(|input: &[u8]| {
    // The superblock alone: the rest of the block holds nothing. Once as it is, once with a checksum that is right.
    let mut block = [0; BLOCK_SIZE];
    let length = input.len().min(BLOCK_SIZE - OFFSET);
    block[OFFSET..][..length].copy_from_slice(&input[..length]);
    check(&block);
    block[OFFSET + 4..][..4].fill(0);
    let checksum = crc32c(&block[OFFSET..]);
    block[OFFSET + 4..][..4].copy_from_slice(&checksum.to_le_bytes());
    check(&block);
});

fn check(block: &[u8; BLOCK_SIZE]) {
    if let Ok(sb) = Superblock::decode(block) {
        let again = sb.encode().try_into().expect("one block");
        assert_eq!(Superblock::decode(&again).expect("we wrote it"), sb);
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ ((crc & 1) * 0x82f6_3b78))
    })
}

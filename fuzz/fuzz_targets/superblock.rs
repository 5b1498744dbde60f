//! A layer disk's first block. What is accepted is written and read again as the same.
#![cfg_attr(fuzzing, no_main)]

use fuzz::libfuzzer_sys::fuzz_target;
use image_builder::erofs::{BLOCK_SIZE, superblock::Superblock};

const OFFSET: usize = 1024;

fuzz_target!(|input: &[u8]| {
    // The superblock alone: the rest of the block holds nothing. Once as it is, once with a checksum that is right.
    let mut block = [0; BLOCK_SIZE];
    let length = input.len().min(BLOCK_SIZE - OFFSET);
    block[OFFSET..][..length].copy_from_slice(&input[..length]);
    check(&block);
    fuzz::disk::repair(&mut block);
    check(&block);
});

fn check(block: &[u8; BLOCK_SIZE]) {
    if let Ok(sb) = Superblock::decode(block) {
        let again = sb.encode().try_into().expect("one block");
        assert_eq!(Superblock::decode(&again).expect("we wrote it"), sb);
    }
}

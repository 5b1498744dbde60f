//! A hash tree's superblock, and the length of a disk that has one. What is accepted is written and read again as the same.
#![cfg_attr(fuzzing, no_main)]

use fuzz::libfuzzer_sys::fuzz_target;
use image_builder::verity::{BLOCK_SIZE, Geometry, Superblock};

fuzz_target!(|input: &[u8]| {
    let mut block = [0; BLOCK_SIZE];
    let length = input.len().min(BLOCK_SIZE);
    block[..length].copy_from_slice(&input[..length]);
    if let Ok(superblock) = Superblock::decode(&block) {
        assert_eq!(superblock.encode(), block);
        if let Ok(geometry) = Geometry::new(superblock.data_blocks) {
            assert_eq!(Geometry::of_length(geometry.length()), Some(geometry));
        }
    }
    let Some(length) = input.last_chunk() else { return };
    let length = u64::from_le_bytes(*length);
    // Few numbers are a disk's length: the next one below is, too.
    for length in [length, length & !0xfff] {
        if let Some(geometry) = Geometry::of_length(length) {
            assert_eq!(geometry.length(), length);
            assert!(geometry.leaves().end <= length && geometry.hash_start() * 4096 <= length);
        }
    }
});

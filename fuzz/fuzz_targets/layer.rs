//! A layer's tar stream to its disk. Where a disk comes out, it is the same again, as long as it says and whole.
#![cfg_attr(fuzzing, no_main)]

use fuzz::disk::Disk;
use fuzz::libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use fuzz::tarball;
use image_builder::erofs::{self, Summary, superblock::Superblock};

fuzz_target!(|tar: &[u8]| {
    let Some((summary, disk)) = write(tar) else { return };
    let sb = Superblock::decode(disk.last().try_into().expect("one block")).expect("we wrote it");
    assert_eq!((sb.length(), sb.inodes), (summary.length, summary.inodes));
    assert_eq!(disk.end(), summary.length);
    assert!(write(tar).is_some_and(|again| again == (summary, disk)), "the second disk is another");
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    if seed % 16 != 0 {
        tarball::repair(&mut data[..size]);
    }
    size
});

fn write(tar: &[u8]) -> Option<(Summary, Disk)> {
    let mut disk = Disk::default();
    let summary = erofs::write_layer(tar, [7; 16], &mut disk).ok()?;
    Some((summary, disk))
}

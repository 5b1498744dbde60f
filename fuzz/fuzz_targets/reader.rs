//! Any disk to its tree: read in full, or refused; never round and round.
#![cfg_attr(fuzzing, no_main)]

use std::io::{Read, copy, sink};

use fuzz::libfuzzer_sys::fuzz_target;
use image_builder::erofs::reader::{Kind, Reader};
use image_builder::erofs::{BLOCK, BLOCK_SIZE};

fuzz_target!(|input: &[u8]| {
    // From the superblock on: before it is nothing. Whole blocks, for the input's length is not the matter.
    let mut disk = vec![0; (1024 + input.len().max(1)).next_multiple_of(BLOCK_SIZE)];
    disk[1024..][..input.len()].copy_from_slice(input);
    let blocks = (disk.len() as u64 / BLOCK).to_le_bytes();
    disk[1024 + 36..][..4].copy_from_slice(&blocks[..4]);
    fuzz::disk::repair(disk.first_chunk_mut().expect("a block"));
    let Ok(reader) = Reader::open(&disk[..]) else { return };
    let _damage = reader.walk(|path, inode| {
        let _damage = reader.xattrs(inode);
        if let Kind::File { size, .. } = inode.kind {
            let read = copy(&mut reader.data(inode)?.take(size + 1), &mut sink())?;
            assert_eq!(read, size, "checked when the inode was read");
        }
        if inode.kind == Kind::Symlink {
            let _damage = reader.symlink(inode);
        }
        assert!(path.len() <= 4096 + 256);
        Ok(())
    });
});

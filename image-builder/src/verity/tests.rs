//! The tree against veritysetup, and against damage.

use std::io::{Read, Seek, SeekFrom, Write};
use std::process::Command;

use tempfile::{NamedTempFile, tempfile};

use super::*;

/// The numbers of blocks at which the tree's form changes, and beside them.
const SIZES: [u64; 9] = [1, 2, 127, 128, 129, 255, 128 * 128, 128 * 128 + 1, 3 * 128 * 128 + 77];

/// A sparse filesystem of `blocks` blocks: the first, the last and one in the middle have something in them.
fn disk(blocks: u64) -> (NamedTempFile, Info) {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(blocks * BLOCK).unwrap();
    for block in [0, blocks / 2, blocks - 1] {
        file.as_file().write_all_at(&[block.to_le_bytes()[0] | 1; 100], block * BLOCK + 1024).unwrap();
    }
    let info = append(file.as_file(), blocks * BLOCK, [7; 16]).unwrap();
    (file, info)
}

#[test]
fn veritysetup_agrees() {
    for blocks in SIZES {
        let (file, info) = disk(blocks);
        let verify = |root: &Digest| {
            let mut command = Command::new("veritysetup");
            command.arg("verify").args([file.path(), file.path()]).arg(root.hex());
            command.arg(format!("--hash-offset={}", blocks * BLOCK));
            command.output().expect("veritysetup is needed for this test")
        };
        let good = verify(&info.root_hash);
        assert!(good.status.success(), "{blocks} blocks: {}", String::from_utf8_lossy(&good.stderr));
        assert!(!verify(&Digest::of(b"other")).status.success(), "{blocks} blocks with another root hash");
    }
}

#[test]
fn every_length_belongs_to_one_number_of_blocks() {
    for blocks in SIZES.into_iter().chain([1 << 20, 1 << 32]) {
        let geometry = Geometry::new(blocks).unwrap();
        let length = geometry.length();
        assert_eq!(Geometry::of_length(length).as_ref(), Some(&geometry));
        let leaves = geometry.leaves();
        assert_eq!(leaves.end - leaves.start, if blocks == 1 { 0 } else { 32 * blocks });
        for other in [length - 1, length + 1, length + 512] {
            assert_eq!(Geometry::of_length(other), None, "{other}");
        }
    }
    for none in [0, 1, BLOCK, BLOCK * 3, Geometry::new(1 << 32).unwrap().length() + BLOCK, u64::MAX] {
        assert_eq!(Geometry::of_length(none), None, "{none}");
    }
    assert!(Geometry::new(0).is_err() && Geometry::new((1 << 32) + 1).is_err());
}

#[test]
fn a_disk_hashed_as_it_is_written_is_the_same() {
    for blocks in SIZES {
        let (whole, info) = disk(blocks);
        let file = tempfile().unwrap();
        let mut hashed = HashedDisk::new(&file, tempfile().unwrap());
        let mut bytes = vec![0; usize::try_from(blocks * BLOCK).unwrap()];
        whole.as_file().read_exact_at(&mut bytes, 0).unwrap();
        let (first, rest) = bytes.split_at(BLOCK_SIZE);
        // The first block comes last, as a superblock does; of the others, holes are left out.
        for (number, block) in (1u64..).zip(rest.chunks(BLOCK_SIZE)) {
            if block.iter().any(|&byte| byte != 0) {
                hashed.seek(SeekFrom::Start(number * BLOCK)).unwrap();
                hashed.write_all(block).unwrap();
            }
        }
        hashed.seek(SeekFrom::Start(0)).unwrap();
        hashed.write_all(first).unwrap();
        assert_eq!(hashed.finish(&file, blocks * BLOCK, [7; 16]).unwrap(), info);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        (&file).seek(SeekFrom::Start(0)).unwrap();
        (&file).read_to_end(&mut a).unwrap();
        whole.as_file().seek(SeekFrom::Start(0)).unwrap();
        whole.as_file().read_to_end(&mut b).unwrap();
        assert!(a == b, "{blocks} blocks");
    }
    let file = tempfile().unwrap();
    let mut hashed = HashedDisk::new(&file, tempfile().unwrap());
    assert!(hashed.write(&[0; 100]).is_err(), "a part of a block");
    assert!(hashed.seek(SeekFrom::Start(100)).is_err(), "into a block");
}

#[test]
fn the_same_data_give_the_same_tree_be_they_holes_or_zeros() {
    let (sparse, info) = disk(300);
    let mut bytes = std::fs::read(sparse.path()).unwrap();
    let full = tempfile().unwrap();
    full.write_all_at(&bytes[..300 * BLOCK_SIZE], 0).unwrap();
    assert_eq!(append(&full, 300 * BLOCK, [7; 16]).unwrap(), info);
    let mut again = vec![0; bytes.len()];
    full.read_exact_at(&mut again, 0).unwrap();
    assert!(again == bytes);
    // Each hash stands where it must: 0, then 150, then 299, in the level that begins at block 302.
    for block in [0, 150, 299] {
        let at = usize::try_from(info.geometry.leaves().start).unwrap() + 32 * block;
        let hash = Digest::of(&bytes[block * BLOCK_SIZE..][..BLOCK_SIZE]);
        assert_eq!(hex::encode(&bytes[at..at + 32]), hash.hex());
    }
    assert_eq!((info.geometry.hash_start(), info.geometry.length()), (301, 305 * BLOCK));
    bytes.truncate(301 * BLOCK_SIZE);
    assert!(bytes.ends_with(&[0; 3000]));
}

/// One flipped bit, wherever it is, is found, and the block named.
#[test]
fn a_flipped_bit_is_found() {
    const BLOCKS: u64 = 128 * 128 + 1;
    let (file, info) = disk(BLOCKS);
    let (top, middle, leaf) = (BLOCKS + 1, BLOCKS + 2, BLOCKS + 4);
    let rows = [
        (0, Damage::Data(0)),
        (5 * BLOCK + 17, Damage::Data(5)), // in a hole
        (BLOCKS * BLOCK - 1, Damage::Data(BLOCKS - 1)),
        (top * BLOCK, Damage::Root),
        (top * BLOCK + 4095, Damage::Root), // where no hash is
        (middle * BLOCK + 33, Damage::Tree(middle)),
        ((middle + 1) * BLOCK + 1000, Damage::Tree(middle + 1)),
        (leaf * BLOCK + 64, Damage::Tree(leaf)),
        (info.geometry.length() - 1, Damage::Tree(info.geometry.length() / BLOCK - 1)),
    ];
    let file = file.as_file();
    for (at, expected) in rows {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        assert_eq!(check(file, &info.root_hash).unwrap(), Some(expected), "byte {at}");
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(check(file, &info.root_hash).unwrap(), None);
}

/// Every bit of the superblock's block counts, and so does the file's length.
#[test]
fn what_is_no_tree_is_refused() {
    let (file, info) = disk(129);
    let file = file.as_file();
    let at = 129 * BLOCK;
    for byte in [0, 8, 12, 32, 38, 64, 68, 72, 79, 80, 90, 511, 512, 4095] {
        let mut good = [0];
        file.read_exact_at(&mut good, at + byte).unwrap();
        file.write_all_at(&[good[0] ^ 1], at + byte).unwrap();
        let error = read(file).unwrap_err().to_string();
        assert!(error.contains("hash tree"), "byte {byte}: {error}");
        file.write_all_at(&good, at + byte).unwrap();
    }
    assert_eq!(read(file).unwrap(), info);
    let other = Superblock { uuid: [7; 16], data_blocks: 128 };
    file.write_all_at(&other.encode(), at).unwrap();
    assert!(read(file).unwrap_err().to_string().contains("for 128 blocks, the disk has 129"));
    for length in [0, 4095, 129 * BLOCK, info.geometry.length() - BLOCK, info.geometry.length() - 1] {
        file.set_len(length).unwrap();
        let error = read(file).unwrap_err().to_string();
        assert!(error.contains("hash tree"), "{length} bytes: {error}");
    }
}

#[test]
fn only_whole_blocks_get_a_tree() {
    let file = tempfile().unwrap();
    for (is, said, word) in [(0, 0, "1 to"), (4097, 4097, "whole blocks"), (8192, 4096, "has 8192 bytes")] {
        file.set_len(is).unwrap();
        let error = append(&file, said, [0; 16]).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(file.metadata().unwrap().len(), is);
    }
}

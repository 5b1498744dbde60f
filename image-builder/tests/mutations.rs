//! Archives changed at random, always in the same way: a disk or an error comes of them, never a panic; and a disk is whole, reads
//! back, and is clean to `fsck.erofs` where that is installed.
//!
//! What the fuzz target `layer` does without end, bounded and on stable Rust.

use std::io::{self, Cursor};
use std::process::Command;

use image_builder::erofs::reader::{Kind, Reader};
use image_builder::erofs::{WriteOptions, write_layer};
use image_builder::testimage::Tar;
use tar::EntryType;

#[path = "mutate/mod.rs"]
mod mutate;
#[path = "../../fuzz/src/tarball.rs"]
mod tarball;

use mutate::{Random, mutate};

const ROUNDS: usize = 6000;
fn seeds() -> Vec<Vec<u8>> {
    let map: &[(&str, &[u8])] = &[("GNU.sparse.size", b"9000"), ("GNU.sparse.map", b"0,3,5000,2")];
    let version_1: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"9000"),
        ("GNU.sparse.name", b"n"),
    ];
    let mut data = [b'x'; 517];
    data[..11].copy_from_slice(b"2\n0\n3\n8\n2\n\0");
    let attributes: &[(&str, &[u8])] = &[
        ("mtime", b"-1.5"),
        ("SCHILY.xattr.user.a", b"b"),
        ("SCHILY.xattr.trusted.a", b"b"),
        ("uid", b"70000"),
        ("path", b"p/q"),
    ];
    let gnu = Tar::new().entry("s", EntryType::GNUSparse, 0o644, &[1; 1024], |header| {
        for (at, value) in [(386, 0), (398, 512), (410, 4096), (422, 512), (483, 9000)] {
            header.as_mut_bytes()[at..at + 12].copy_from_slice(format!("{value:011o}\0").as_bytes());
        }
    });
    let tars = [
        Tar::new().pax(attributes).file("f", 0o4755, b"data").symlink("s", &"t".repeat(150)).dir("p/", 0o700),
        Tar::new()
            .whiteout("w")
            .whiteout("p/w")
            .dir("w", 0o755)
            .file("p/.wh..wh..opq", 0, b"")
            .file("w/x", 0, b"x"),
        Tar::new().hard_link("h", "f").file("f", 0, b"x").hard_link("p/h", "./h").file("f", 0, b"y"),
        Tar::new()
            .symlink("l", "p/l")
            .symlink("p/l", "../q")
            .file("l/l/f", 0, b"x")
            .hard_link("l/h", "l/l/f"),
        Tar::new().pax(map).file("s", 0o644, b"abcde").pax(version_1).file("m", 0o644, &data),
        gnu.entry("c", EntryType::Char, 0o644, b"", |h| {
            h.set_device_major(5).and_then(|()| h.set_device_minor(1)).unwrap();
        }),
    ];
    tars.into_iter().map(Tar::finish).collect()
}

fn write(tar: &[u8]) -> Option<Vec<u8>> {
    let mut disk = Cursor::new(Vec::new());
    let options = WriteOptions { uuid: [7; 16], max_size: 1 << 20 };
    let summary = write_layer(tar, options, &mut disk).ok()?;
    assert_eq!(disk.get_ref().len() as u64, summary.length);
    Some(disk.into_inner())
}

fn read_all(disk: &[u8]) -> anyhow::Result<()> {
    let reader = Reader::open(disk)?;
    reader.walk(|_, inode| {
        reader.xattrs(inode)?;
        match inode.kind {
            Kind::File { .. } => drop(io::copy(&mut reader.data(inode)?, &mut io::sink())?),
            Kind::Symlink => drop(reader.symlink(inode)?),
            _ => {}
        }
        Ok(())
    })
}

#[test]
fn what_comes_of_broken_archives_is_whole() {
    let fsck = Command::new("fsck.erofs").arg("--help").output().is_ok();
    if !fsck {
        println!("fsck.erofs is not installed: its checks are skipped");
    }
    let (seeds, mut random, mut disks) = (seeds(), Random(1), 0);
    seeds.iter().enumerate().for_each(|(i, seed)| assert!(write(seed).is_some(), "seed {i}"));
    let file = tempfile::NamedTempFile::new().unwrap();
    for round in 0..ROUNDS {
        let mut tar = seeds[round % seeds.len()].clone();
        mutate(&mut tar, &mut random);
        if round % 16 != 0 {
            tarball::repair(&mut tar);
        }
        let Some(disk) = write(&tar) else { continue };
        assert!(write(&tar).as_ref() == Some(&disk), "round {round}: the second disk is another");
        read_all(&disk).unwrap_or_else(|error| panic!("round {round}: {error:#}"));
        disks += 1;
        if fsck && disks % 16 == 0 {
            std::fs::write(file.path(), &disk).unwrap();
            let output = Command::new("fsck.erofs").arg(file.path()).output().unwrap();
            assert!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert!(disks > ROUNDS / 10 && disks < ROUNDS * 9 / 10, "{disks} of {ROUNDS} are disks");
}

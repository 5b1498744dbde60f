//! ext4 layer disks against e2fsprogs, against the EROFS disks that they are made from, and against crate `ext4-view`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::process::Command;
use std::sync::Arc;

use image_builder::digest::Digest;
use image_builder::disk::{Disk, Inode, Kind};
use image_builder::erofs::write_layer;
use image_builder::ext4;
use image_builder::testimage::Tar;
use tar::EntryType;

const UUID: [u8; 16] = *b"0123456789abcdef";

/// The EROFS disk of a layer.
fn erofs(tar: Tar) -> Disk {
    let mut disk = Cursor::new(Vec::new());
    write_layer(&tar.finish()[..], UUID, &mut disk).unwrap();
    Disk::new(Arc::new(disk.into_inner())).unwrap()
}

/// The ext4 disk made from it, checked by e2fsck where that is installed.
fn convert(disk: &Disk) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let length = ext4::write(disk, UUID, file.as_file()).unwrap();
    assert_eq!(file.as_file().metadata().unwrap().len(), length);
    match Command::new("/sbin/e2fsck").args(["-f", "-n"]).arg(file.path()).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(output.status.success() && !said.contains("llegal"), "{said}");
        }
        Err(_) => println!("skipped: e2fsck is not installed"),
    }
    file
}

/// Everything that must agree of one inode. Numbers of inodes become the first name's.
fn describe(disk: &Disk, path: &[u8], inode: &Inode, first: &mut BTreeMap<u64, Vec<u8>>) -> String {
    let same = first.entry(inode.number).or_insert_with(|| path.to_vec()).escape_ascii().to_string();
    let mut content = Vec::new();
    match inode.kind {
        Kind::File => drop(disk.contents(inode).unwrap().read_to_end(&mut content).unwrap()),
        Kind::Symlink => content = disk.target(inode).unwrap(),
        _ => {}
    }
    let Inode { kind, mode, uid, gid, mtime, size, links, .. } = inode;
    let (xattrs, content) = (disk.xattrs(inode).unwrap(), Digest::of(&content));
    format!("{kind:?} {mode:o} {uid}:{gid} {mtime:?} {size} {links} {same} {xattrs:?} {content}")
}

fn tree(disk: &Disk) -> BTreeMap<String, String> {
    let (mut lines, mut first) = (BTreeMap::new(), BTreeMap::new());
    let root = disk.root().unwrap();
    lines.insert(String::new(), describe(disk, b"", &root, &mut first));
    disk.walk(&root, &mut |path, inode| {
        lines.insert(path.escape_ascii().to_string(), describe(disk, path, inode, &mut first));
        Ok(true)
    })
    .unwrap();
    lines
}

fn assert_same(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) {
    for (path, line) in theirs {
        assert_eq!(ours.get(path), Some(line), "{path}");
    }
    assert_eq!(ours.len(), theirs.len());
}

fn device(major: u32, minor: u32) -> impl FnOnce(&mut tar::Header) {
    move |header| {
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
    }
}

/// All that both filesystems can hold, at the edges.
fn everything() -> Tar {
    let mut tar = Tar::new()
        .dir("./", 0o1751)
        .dir("sizes", 0o755)
        .dir("names", 0o2700)
        .dir("lost+found", 0o700)
        .file("lost+found/mine", 0o600, b"the layer's own")
        .file("o/.wh..wh..opq", 0o644, b"")
        .whiteout("o/gone");
    for size in [0, 1, 4095, 4096, 4097, 65_536, 1_000_003] {
        let data: Vec<u8> =
            (0..size).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
        tar = tar.file(&format!("sizes/{size}"), 0o644, &data);
    }
    for length in [1, 59, 60, 61, 255, 4095] {
        let target: String = (0..length).map(|at| if at % 100 == 99 { '/' } else { 't' }).collect();
        tar = tar.symlink(&format!("names/to{length}"), &target);
    }
    for length in 1..=255 {
        tar = tar.file(&format!("names/{}", "n".repeat(length)), 0o644, b"");
    }
    for number in 0..3000 {
        tar = tar.file(&format!("many/{}é{number}", "x".repeat(number % 40)), 0o600, b"");
    }
    for number in 0..500 {
        tar = tar.dir(&format!("dirs/{number}"), 0o755);
    }
    tar.file("zeros", 0o644, &vec![0; 300_000])
        .entry("null", EntryType::Char, 0o666, b"", device(1, 3))
        .entry("far", EntryType::Char, 0o666, b"", device(4095, 1_048_575))
        .entry("disk", EntryType::Block, 0o660, b"", device(259, 70_000))
        .entry("fifo", EntryType::Fifo, 0o622, b"", |_| {})
        .entry("owned", EntryType::Regular, 0o6755, b"x", |h| (h.set_uid(1000), h.set_gid(70_000)).1)
        .pax(&[("mtime", b"1700000000.123456789"), ("uid", b"4000000000")])
        .file("late", 0o444, b"pax")
        .file("hard", 0o644, b"linked")
        .hard_link("names/hard", "hard")
        .symlink("sym", "hard")
        .hard_link("names/sym", "sym")
        .pax(&[("SCHILY.xattr.user.a", b"small"), ("SCHILY.xattr.security.capability", &[1; 20])])
        .file("capable", 0o755, b"")
        .pax(&[("SCHILY.xattr.user.large", &[b'v'; 4000]), ("SCHILY.xattr.user.empty", b"")])
        .dir("xattrs", 0o755)
        .pax(&[("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0")])
        .file("acl", 0o755, b"")
}

#[test]
fn the_tree_is_the_same_as_on_erofs() {
    let edges = everything()
        .pax(&[("mtime", b"-2147483648")])
        .file("first", 0o444, b"")
        .pax(&[("mtime", b"15032385535.999999999")])
        .file("last", 0o444, b"");
    let erofs = erofs(edges);
    let file = convert(&erofs);
    let disk = Disk::open(file.path()).unwrap();
    assert_eq!(disk.uuid(), UUID);
    assert_same(&tree(&disk), &tree(&erofs));
    let other = tempfile::tempfile().unwrap();
    ext4::write(&erofs, UUID, &other).unwrap();
    let mut bytes = Vec::new();
    (&other).read_to_end(&mut bytes).unwrap();
    assert!(fs::read(file.path()).unwrap() == bytes, "the second disk is another");
}

/// Another reader says the same. It knows less, and takes times before 1970 for damage.
#[test]
fn ext4_view_reads_it_so_too() {
    let file = convert(&erofs(everything()));
    let disk = Disk::open(file.path()).unwrap();
    let theirs = ext4_view::Ext4::load_from_path(file.path()).unwrap();
    let mut seen = 0;
    disk.walk(&disk.root().unwrap(), &mut |path, inode| {
        let path = [b"/", path].concat();
        let meta = theirs.symlink_metadata(path.as_slice()).unwrap();
        let time = (meta.modified().seconds(), meta.modified().nanoseconds());
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (inode.mode, inode.uid, inode.gid));
        assert_eq!(time, (inode.mtime.seconds, inode.mtime.nanos), "{}", path.escape_ascii());
        match inode.kind {
            Kind::File => {
                let mut content = Vec::new();
                disk.contents(inode)?.read_to_end(&mut content)?;
                assert!(theirs.read(path.as_slice()).unwrap() == content);
            }
            Kind::Symlink => {
                assert_eq!(theirs.read_link(path.as_slice()).unwrap().as_ref(), disk.target(inode)?);
            }
            Kind::Directory => {
                // `.` and `..` are names there.
                let count = theirs.read_dir(path.as_slice()).unwrap().count();
                assert_eq!(count, disk.entries(inode)?.len() + 2);
            }
            _ => {}
        }
        seen += 1;
        Ok(true)
    })
    .unwrap();
    assert!(seen > 3500, "{seen}");
}

/// Shapes that need more than one block group, inode table or level of a tree.
#[test]
fn large_trees() {
    let mut many = Tar::new();
    for number in 0..40_000 {
        many = many.file(&format!("d/a file of this name, {number:05}"), 0o644, b"");
    }
    let mut links = Tar::new().file("one", 0o644, b"1");
    for number in 1..65_000 {
        links = links.hard_link(&format!("links/{number}"), "one");
    }
    // GNU tar's old sparse header: 512 bytes at 400 MiB, of 700 MiB.
    let sparse = |header: &mut tar::Header| {
        let bytes = header.as_mut_bytes();
        for (at, value) in [(386, 400_u64 << 20), (398, 512), (410, 700 << 20), (422, 0), (483, 700 << 20)] {
            bytes[at..at + 12].copy_from_slice(format!("{value:011o}\0").as_bytes());
        }
    };
    let sparse = Tar::new().entry("sparse", EntryType::GNUSparse, 0o644, &[7; 512], sparse);
    for (what, tar) in [("many", many), ("links", links)] {
        let erofs = erofs(tar);
        let file = convert(&erofs);
        assert_same(&tree(&Disk::open(file.path()).unwrap()), &tree(&erofs));
        println!("{what}: {} bytes", file.as_file().metadata().unwrap().len());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("erofs");
    write_layer(&sparse.finish()[..], UUID, fs::File::create(&path).unwrap()).unwrap();
    let file = convert(&Disk::open(&path).unwrap());
    let disk = Disk::open(file.path()).unwrap();
    let inode = disk.find(b"sparse", true).unwrap();
    assert_eq!(inode.size, 700 << 20);
    let extents = disk.extents(&inode).unwrap();
    assert_eq!(extents.iter().map(|extent| extent.length).sum::<u64>(), 700 << 20);
    assert!(extents.len() > 4, "{}", extents.len());
    let room = std::os::unix::fs::MetadataExt::blocks(&file.as_file().metadata().unwrap()) * 512;
    assert!(room < 2 << 20, "{room} bytes on the host");
}

#[test]
fn what_ext4_cannot_hold_is_refused_by_name() {
    let mut links = Tar::new().file("one", 0o644, b"");
    for number in 1..=65_000 {
        links = links.hard_link(&format!("links/{number:05}"), "one");
    }
    let table = [
        (
            Tar::new().pax(&[("path", b"d/caf\xe9")]).file("x", 0o644, b""),
            r#""d/caf\xe9": its name: "caf\xe9" is not UTF-8"#,
        ),
        (
            Tar::new().pax(&[("linkpath", b"\xff")]).symlink("d/l", "x"),
            r#""d/l": its target: "\xff" is not UTF-8"#,
        ),
        (
            Tar::new().pax(&[("SCHILY.xattr.user.x", &[0; 5000])]).file("f", 0o644, b""),
            r#""f": xattr "user.x" of 5000 bytes: ext4 disks hold 4060 bytes of xattrs per inode"#,
        ),
        (
            Tar::new().dir("./", 0o755).pax(&[("mtime", b"-2147483649")]).file("old", 0o644, b""),
            r#""old": its mtime, -2147483649 s after 1970: ext4 holds the years 1901 to 2446"#,
        ),
        (
            Tar::new().dir("./", 0o755).pax(&[("mtime", b"15032385536")]).file("new", 0o644, b""),
            r#""new": its mtime, 15032385536 s"#,
        ),
        (links, r#""one": invalid: more than 65000 links"#),
    ];
    for (tar, wanted) in table {
        let error = ext4::write(&erofs(tar), UUID, &tempfile::tempfile().unwrap()).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.starts_with(wanted), "{error}, not {wanted}");
    }
}

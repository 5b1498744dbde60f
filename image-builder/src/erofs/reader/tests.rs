//! What is read is what was written; damaged disks are refused. The kernel's view is compared in `tests/disks.rs`.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use tar::EntryType;

use super::*;
use crate::erofs::write_layer;
use crate::testimage::Tar;

fn write(tar: Tar) -> Vec<u8> {
    let mut disk = Cursor::new(Vec::new());
    write_layer(&tar.finish()[..], [7; 16], &mut disk).unwrap();
    disk.into_inner()
}

/// One of each kind; a symlink too long to stand beside its inode, a directory of several blocks.
fn everything() -> Vec<u8> {
    let mut tar = Tar::new()
        .dir("d", 0o1751)
        .file("d/data", 0o4644, &[5; 5000])
        .hard_link("link", "d/data")
        .file("empty", 0o600, b"")
        .symlink("short", "d/data")
        .symlink("long", &"t".repeat(4095))
        .pax(&[("mtime", b"-1.25"), ("SCHILY.xattr.trusted.a", b"b\0c"), ("SCHILY.xattr.security.x", b"")])
        .entry("p", EntryType::Fifo, 0o622, b"", |h| (h.set_uid(70_000), h.set_gid(5)).1)
        .entry("c", EntryType::Char, 0o600, b"", |h| {
            h.set_device_major(4095).and_then(|()| h.set_device_minor(70_000)).unwrap();
        })
        .entry("b", EntryType::Block, 0o600, b"", |h| {
            h.set_device_major(8).and_then(|()| h.set_device_minor(1)).unwrap();
        })
        .whiteout("gone");
    for number in 0..400 {
        tar = tar.file(&format!("many/{number}"), 0o644, b"");
    }
    write(tar)
}

#[test]
fn what_was_written_is_read() {
    let disk = everything();
    let reader = Reader::open(&disk[..]).unwrap();
    let find = |path: &str| reader.find(path.as_bytes()).unwrap().unwrap();
    let mut names = BTreeMap::new();
    reader
        .walk(|path, inode| {
            assert_eq!(reader.find(path)?.as_ref(), Some(inode));
            names.insert(path.to_vec(), inode.nid);
            Ok(())
        })
        .unwrap();
    assert_eq!(names.len(), 411);
    assert_eq!(names[&b"link"[..]], names[&b"d/data"[..]]);

    let data = find("/d/data");
    assert_eq!((data.attributes.mode, data.links), (0o4644, 2));
    let mut bytes = Vec::new();
    reader.data(&data).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, [5; 5000]);
    assert_eq!(reader.data(&find("empty")).unwrap().read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(reader.symlink(&find("short")).unwrap(), b"d/data");
    assert_eq!(reader.symlink(&find("long")).unwrap(), [b't'; 4095]);
    assert_eq!(find("c").kind, Kind::CharDevice(4095, 70_000));
    assert_eq!(find("b").kind, Kind::BlockDevice(8, 1));
    assert!(find("gone").kind.is_whiteout());

    let fifo = find("p");
    assert_eq!((fifo.kind, fifo.attributes.uid, fifo.attributes.gid), (Kind::Fifo, 70_000, 5));
    assert_eq!((fifo.attributes.mtime.seconds, fifo.attributes.mtime.nanos), (-2, 750_000_000));
    let xattrs = reader.xattrs(&fifo).unwrap();
    let pairs: Vec<_> = xattrs.iter().map(|x| (x.name.as_slice(), x.value.as_slice())).collect();
    assert_eq!(pairs, [(&b"trusted.a"[..], &b"b\0c"[..]), (b"security.x", b"")]);
    let marks = reader.xattrs(&reader.root().unwrap()).unwrap();
    assert_eq!(marks[0].name, b"trusted.overlay.origin");

    assert_eq!(reader.find(b"d/no").unwrap(), None);
    assert_eq!(reader.find(b"link/no").unwrap(), None);
    assert!(reader.find(b"d/../d").is_err());
    assert!(reader.data(&fifo).is_err() && reader.symlink(&data).is_err() && reader.entries(&data).is_err());
}

/// A small disk, its parts, and ways to damage them.
struct Victim {
    disk: Vec<u8>,
    /// Where inodes are, by path.
    at: BTreeMap<&'static str, usize>,
}

impl Victim {
    fn new() -> Self {
        let disk = write(
            Tar::new()
                .dir("d", 0o755)
                .dir("d/sub", 0o755)
                .file("d/sub/f", 0o644, &[1; 5000])
                .symlink("s", "target")
                .pax(&[("SCHILY.xattr.trusted.a", b"b")])
                .entry("p", EntryType::Fifo, 0o644, b"", |_| {}),
        );
        let reader = Reader::open(&disk[..]).unwrap();
        let at = ["", "d", "d/sub", "d/sub/f", "s", "p"].map(|path| {
            let inode = reader.find(path.as_bytes()).unwrap().unwrap();
            (path, usize::try_from(reader.address(inode.nid).unwrap()).unwrap())
        });
        Self { at: BTreeMap::from(at), disk }
    }

    fn set(mut self, path: &str, offset: usize, bytes: &[u8]) -> Self {
        self.disk[self.at[path] + offset..][..bytes.len()].copy_from_slice(bytes);
        self
    }

    fn superblock(mut self, change: impl FnOnce(&mut Superblock)) -> Self {
        let mut superblock = Superblock::decode(self.disk.first_chunk().unwrap()).unwrap();
        change(&mut superblock);
        self.disk[..BLOCK_SIZE].copy_from_slice(&superblock.encode());
        self
    }

    fn nid(&self, path: &str) -> u64 {
        Reader::open(&self.disk[..]).unwrap().find(path.as_bytes()).unwrap().unwrap().nid
    }

    fn error(&self) -> String {
        read_all(&self.disk).err().map_or_else(|| "nothing wrong".to_owned(), |error| format!("{error:#}"))
    }
}

/// Reads whatever can be read.
fn read_all(disk: &[u8]) -> Result<()> {
    let reader = Reader::open(disk)?;
    reader.xattrs(&reader.root()?)?;
    reader.walk(|_, inode| {
        reader.xattrs(inode)?;
        match inode.kind {
            Kind::Symlink => drop(reader.symlink(inode)?),
            Kind::File { .. } => drop(io::copy(&mut reader.data(inode)?.take(1 << 20), &mut io::sink())?),
            _ => {}
        }
        Ok(())
    })
}

/// Offsets: `erofs_inode_extended`, then (of directories without xattrs) the entries: `.`, `..` and names, by 12 bytes.
#[test]
fn damaged_disks_are_refused() {
    let new = Victim::new;
    let (d, sub) = (new().nid("d"), new().nid("d/sub"));
    let entry = |number: usize| 64 + 12 * number;
    let table: Vec<(&str, Victim, &str)> = vec![
        ("no magic", Victim { disk: vec![0; 4096], ..new() }, "not an EROFS filesystem"),
        ("no superblock", Victim { disk: vec![0; 100], ..new() }, "cannot read the superblock"),
        ("meta beyond", new().superblock(|sb| sb.meta_block = sb.blocks), "its inodes start in block"),
        ("root beyond", new().superblock(|sb| sb.root_nid = u16::MAX), "inode 65535 is not on the disk"),
        ("root no inode", new().superblock(|sb| sb.root_nid = 0), "format 0x0"),
        ("longer than the file", new().superblock(|sb| sb.blocks += 1), "shorter than its filesystem"),
        ("compact inode", new().set("d", 0, &[0, 0]), "format 0x0"),
        ("compressed", new().set("d", 0, &[3, 0]), "format 0x3"),
        ("reserved", new().set("d", 6, &[1, 0]), "is not one that this program writes"),
        ("socket", new().set("p", 4, &[0, 0xc0]), "of no known type"),
        ("root as file", new().set("", 4, &[0, 0x81]), "beyond the end of its block"),
        ("size of a FIFO", new().set("p", 8, &[1]), "1 links and 1 bytes, as Fifo"),
        ("no links", new().set("p", 44, &[0]), "0 links"),
        ("nanoseconds", new().set("p", 40, &[0xff; 4]), "4294967295 nanoseconds"),
        ("huge directory", new().set("d", 8, &[1, 0, 0, 0, 0, 1]), "1099511627777 bytes, as Dir"),
        ("long directory", new().set("d", 8, &[1, 0, 0, 1]), "its blocks end with"),
        ("endless file", new().set("d/sub/f", 8, &[0xff; 8]), "its blocks end with"),
        ("file's block", new().set("d/sub/f", 16, &[0xff; 4]), "its blocks end with 4294967297"),
        ("tail over the block", new().set("s", 8, &[0xff, 0x0f]), "beyond the end of its block"),
        ("symlink of nothing", new().set("s", 8, &[0, 0]), "beyond the end of its block"),
        ("symlink with NUL", new().set("s", 66, &[0]), "symbolic link to 6 bytes"),
        ("xattrs over the end", new().set("p", 2, &[0xff, 0xff]), "beyond the end of the filesystem"),
        ("xattr header", new().set("p", 68, &[1]), "a header that"),
        ("xattr namespace", new().set("p", 77, &[9]), "namespace 9"),
        ("xattr's length", new().set("p", 78, &[9]), "an entry that passes the end"),
        ("names' start", new().set("d", entry(0) + 8, &[0, 0]), "cannot start at byte 0"),
        ("names' start, odd", new().set("d", entry(0) + 8, &[35, 0]), "cannot start at byte 35"),
        ("names' start, far", new().set("d", entry(0) + 8, &[0xf0, 0xff]), "cannot start at byte 65520"),
        ("name's start", new().set("d", entry(1) + 8, &[0xff, 0xff]), "a name from byte"),
        ("name in the heads", new().set("d", entry(2) + 8, &[2, 0]), "a name from byte"),
        ("entry's type", new().set("d", entry(2) + 10, &[6]), "an entry of type"),
        ("entry's type, wrong", new().set("d", entry(2) + 10, &[1]), "is listed as Regular but is Dir"),
        ("type of ..", new().set("d", entry(1) + 10, &[1]), "its \"..\" is listed as Regular"),
        ("entry's nid", new().set("d", entry(2), &[0xff; 8]), "is not on the disk"),
        ("slash", new().set("d", entry(3) + 3, b"/ub"), "\"/ub\" is not a name"),
        ("empty name", new().set("d", entry(3) + 3, &[0; 3]), "\"\" is not a name"),
        ("order", new().set("d", entry(3) + 3, b"!"), "\"!ub\" is out of order"),
        ("no .", new().set("d", entry(3), b"-"), "it has no \".\""),
        ("another's .", new().set("d", entry(0), &sub.to_le_bytes()), "its \".\" is inode"),
        ("another's ..", new().set("d/sub", entry(1), &sub.to_le_bytes()), "\"d/sub\": directory"),
        ("in itself", new().set("d", entry(2), &d.to_le_bytes()), "has two names, or is in itself"),
    ];
    let told = table.iter().map(|(what, victim, wanted)| (what, wanted, victim.error()));
    let wrong: Vec<_> = told.filter(|(_, wanted, message)| !message.contains(**wanted)).collect();
    assert!(wrong.is_empty(), "(what, wanted, found): {wrong:#?}");
}

/// Whatever is changed, it ends, and without a panic.
#[test]
fn every_byte_may_be_any_other() {
    let disk = everything();
    let superblock = Superblock::decode(disk.first_chunk().unwrap()).unwrap();
    let meta = usize::try_from(u64::from(superblock.meta_block) * BLOCK).unwrap();
    let (mut damaged, mut refused) = (disk.clone(), 0);
    for at in (meta..disk.len()).step_by(29) {
        for flip in [0x01, 0x80, 0xff] {
            damaged[at] ^= flip;
            refused += u32::from(read_all(&damaged).is_err());
            damaged[at] = disk[at];
        }
    }
    assert!(refused > 300, "{refused}");
    for length in (0..disk.len()).step_by(511) {
        assert!(read_all(&disk[..length]).is_err());
    }
}

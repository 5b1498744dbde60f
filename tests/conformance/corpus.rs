//! Layers with every corner of the format in them. All entries are below `corpus`, so that a VM can show them beside its own files.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::Result;
use image_builder::testimage::Tar;
use tar::{EntryType, Header};

use crate::host::run;

/// A layer, and what of it cannot be compared.
pub struct Layer {
    pub name: &'static str,
    pub tar: Vec<u8>,
    /// Directories without an entry: `tar -x` gives them the time of unpacking.
    pub implied: &'static [&'static str],
}

/// All of them.
pub fn layers() -> Result<Vec<Layer>> {
    let with = |name, implied, tar: Tar| Layer { name, tar: tar.finish(), implied };
    let plain = |name, tar| with(name, &[], tar);
    let mut layers = vec![
        plain("kinds", kinds()),
        plain("contiguous", base().entry("corpus/seven", EntryType::Continuous, 0o644, b"file", |_| {})),
        plain("sizes", sizes()),
        plain("times", times()),
        plain("names", names()),
        plain("long_names", long_names()),
        plain("links", links()),
        plain("repeated", repeated()),
        plain("xattrs", xattrs()),
        plain("many_xattrs", many_xattrs()),
        plain("crowd", crowd()),
        with("implied", &["", "corpus/a", "corpus/a/b"], implied()),
        with("links_as_parents", &["corpus/usr/lib/deep"], links_as_parents()),
    ];
    for (name, options) in [
        ("sparse_gnu", "--format=gnu"),
        ("sparse_0_0", "--sparse-version=0.0"),
        ("sparse_0_1", "--sparse-version=0.1"),
        ("sparse_1_0", "--sparse-version=1.0"),
    ] {
        layers.push(Layer { name, tar: sparse(options)?, implied: &[] });
    }
    Ok(layers)
}

/// The root and `corpus` with attributes of their own.
fn base() -> Tar {
    let owned = |mode: u32| move |header: &mut Header| (header.set_mode(mode), header.set_mtime(77)).0;
    Tar::new().entry("./", EntryType::Directory, 0, b"", owned(0o755)).entry(
        "corpus/",
        EntryType::Directory,
        0,
        b"",
        owned(0o751),
    )
}

fn device(major: u32, minor: u32) -> impl Fn(&mut Header) {
    move |header| {
        header.set_device_major(major).and_then(|()| header.set_device_minor(minor)).expect("they fit");
    }
}

fn owner(uid: u64, gid: u64) -> impl Fn(&mut Header) {
    move |header| {
        header.set_uid(uid);
        header.set_gid(gid);
    }
}

fn kinds() -> Tar {
    let mut tar = base()
        .entry("corpus/null", EntryType::Char, 0o666, b"", device(1, 3))
        .entry("corpus/largest", EntryType::Char, 0o600, b"", device(4095, 0xf_ffff))
        .entry("corpus/disk", EntryType::Block, 0o660, b"", device(259, 70_000))
        .entry("corpus/fifo", EntryType::Fifo, 0o622, b"", owner(7, 8))
        .entry("corpus/setuid", EntryType::Regular, 0o6755, b"x", owner(1000, 70_000))
        .entry("corpus/large-ids", EntryType::Regular, 0o2000, b"x", owner(0x1f_ffff, 0x1f_fffe))
        .pax(&[("uid", b"4000000000"), ("gid", b"4294967294")])
        .file("corpus/larger-ids", 0, b"x")
        .entry("corpus/v7-dir/", EntryType::Regular, 0o700, b"", |header| header.as_mut_bytes()[156] = 0)
        .entry("corpus/symlink", EntryType::Symlink, 0o600, b"", |header| {
            owner(1, 2)(header);
            header.set_link_name("/no/such").expect("it fits");
        });
    for mode in [0, 0o1777, 0o2755, 0o4711, 0o7777] {
        tar = tar.dir(&format!("corpus/dir{mode:o}"), mode);
    }
    tar
}

/// Around every boundary: of blocks, of the inode's own block, of the writer's buffer.
fn sizes() -> Tar {
    let mut tar = base();
    for size in
        [0, 1, 511, 512, 513, 4031, 4032, 4033, 4095, 4096, 4097, 8192, 262_143, 262_144, 262_145, 1_000_003]
    {
        let data: Vec<u8> =
            (0..size).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
        tar = tar.file(&format!("corpus/{size}"), 0o644, &data);
    }
    for length in [1, 100, 101, 3000, 4031, 4032, 4033, 4095] {
        tar = tar.symlink(&format!("corpus/symlink{length}"), &"t".repeat(length));
    }
    tar
}

fn times() -> Tar {
    let mut tar = base();
    for time in [
        "0",
        "1.5",
        "1700000000.123456789",
        "1700000000.999999999123",
        "8589934592",
        "-1",
        "-1.25",
        "-0.000000001",
    ] {
        tar = tar.pax(&[("mtime", time.as_bytes())]).file(&format!("corpus/{time}"), 0o644, b"");
        tar = tar.pax(&[("mtime", time.as_bytes())]).symlink(&format!("corpus/symlink{time}"), "x");
        tar = tar.pax(&[("mtime", time.as_bytes())]).dir(&format!("corpus/dir{time}"), 0o755);
    }
    // GNU's base 256.
    tar.entry("corpus/gnu", EntryType::Regular, 0o644, b"", |header| {
        header.as_mut_bytes()[136..148].copy_from_slice(&[[0xff; 11].as_slice(), &[0x9c]].concat());
    })
}

fn names() -> Tar {
    let mut tar = base();
    for name in
        ["!", "-", ".hidden", "...", "é", "a b", "new\nline", "tab\t", "\\", "\u{7f}", "#~", "wh.", ".whx"]
    {
        tar = tar.file(&format!("corpus/{name}"), 0o644, b"");
    }
    for name in [&b"corpus/caf\xe9"[..], b"corpus/\x01\xff\xfe", b"/corpus//absolute", b"./corpus/./dot"] {
        tar = tar.pax(&[("path", name)]).file("x", 0o644, name);
    }
    for length in 1..=255 {
        tar = tar.file(&format!("corpus/{}", "n".repeat(length)), 0o644, b"");
    }
    tar
}

/// Longer than a header: GNU's and PAX's ways, of names and of targets.
fn long_names() -> Tar {
    let long = |n: usize| "l".repeat(n);
    let mut tar = base();
    let mut path = "corpus".to_owned();
    while path.len() < 3000 {
        path = format!("{path}/{}", long(250));
        tar = tar.dir(&path, 0o755);
    }
    tar = tar.file(&format!("{path}/{}", long(255)), 0o644, b"deep");
    tar = tar.hard_link("corpus/hard", &format!("{path}/{}", long(255)));
    tar.pax(&[("path", format!("corpus/{}", long(201)).as_bytes()), ("linkpath", long(202).as_bytes())])
        .symlink("x", "y")
}

fn links() -> Tar {
    base()
        .file("corpus/file", 0o640, b"linked")
        .hard_link("corpus/hard", "corpus/file")
        .hard_link("corpus/harder", "./corpus/hard")
        .symlink("corpus/symlink", "file")
        .hard_link("corpus/to-symlink", "corpus/symlink")
        .entry("corpus/fifo", EntryType::Fifo, 0o600, b"", |_| {})
        .hard_link("corpus/to-fifo", "corpus/fifo")
        .entry("corpus/device", EntryType::Char, 0o600, b"", device(5, 1))
        .hard_link("corpus/to-device", "/corpus/device")
        // The link keeps what its target was.
        .file("corpus/first", 0o600, b"before")
        .hard_link("corpus/kept", "corpus/first")
        .file("corpus/first", 0o644, b"after")
        .file("corpus/other", 0o644, b"gone again")
        .hard_link("corpus/other", "corpus/file")
}

/// The last wins. Directories that others replace are empty: GNU tar removes no others.
fn repeated() -> Tar {
    base()
        .file("corpus/file", 0o644, b"first")
        .file("./corpus/file", 0o600, b"the second")
        .dir("corpus/dir", 0o755)
        .file("corpus/dir/child", 0o644, b"")
        .dir("corpus/dir/", 0o711)
        .dir("corpus/dir-to-file", 0o755)
        .file("corpus/dir-to-file", 0o644, b"x")
        .dir("corpus/dir-to-symlink", 0o755)
        .symlink("corpus/dir-to-symlink", "x")
        .file("corpus/file-to-dir", 0o644, b"x")
        .dir("corpus/file-to-dir", 0o755)
        .symlink("corpus/symlink-to-file", "dir")
        .file("corpus/symlink-to-file", 0o644, b"x")
        .symlink("corpus/symlink-to-symlink", "dir")
        .symlink("corpus/symlink-to-symlink", "file")
        .file("corpus/file-to-fifo", 0o644, b"x")
        .entry("corpus/file-to-fifo", EntryType::Fifo, 0o644, b"", |_| {})
}

const ACL_TEXT: &[u8] = b"user::rw-,user:1000:r--,group::r--,mask::r--,other::r--";
/// The same as the kernel's xattr (version 2).
const ACL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
/// `cap_net_raw+ep` (version 2).
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn xattrs() -> Tar {
    let value = |n: u32| (0..n).map(|i| i.to_le_bytes()[0]).collect::<Vec<u8>>();
    let long_name = format!("SCHILY.xattr.user.{}", "n".repeat(250));
    base()
        .pax(&[("SCHILY.xattr.security.capability", CAPABILITY)])
        .file("corpus/ping", 0o755, b"")
        // GNU tar reads the text and nothing else, we what all others read.
        .pax(&[("SCHILY.xattr.system.posix_acl_access", ACL), ("SCHILY.acl.access", ACL_TEXT)])
        .file("corpus/acl", 0o644, b"")
        .pax(&[
            ("SCHILY.xattr.system.posix_acl_access", ACL),
            ("SCHILY.xattr.system.posix_acl_default", ACL),
            ("SCHILY.acl.access", ACL_TEXT),
            ("SCHILY.acl.default", ACL_TEXT),
        ])
        .dir("corpus/acl-dir", 0o644)
        .pax(&[
            ("SCHILY.xattr.user.a", b"=b\n\0"),
            ("SCHILY.xattr.user.empty", b""),
            ("SCHILY.xattr.user.caf\u{e9}", b""),
        ])
        .file("corpus/user", 0o644, b"")
        .pax(&[("SCHILY.xattr.trusted.a", b"b"), ("SCHILY.xattr.security.other", b"b")])
        .symlink("corpus/symlink", "x")
        .pax(&[("SCHILY.xattr.trusted.a", b"b")])
        .entry("corpus/fifo", EntryType::Fifo, 0o644, b"", |_| {})
        .pax(&[("SCHILY.xattr.user.block", &value(4096)), (&long_name, &value(5000))])
        .file("corpus/large", 0o644, b"")
        .pax(&[
            ("SCHILY.xattr.user.a", &value(65_535)),
            ("SCHILY.xattr.user.b", &value(65_535)),
            ("mtime", b"5"),
        ])
        .file("corpus/largest", 0o644, b"data")
}

/// Over many blocks.
fn many_xattrs() -> Tar {
    let names: Vec<String> = (0..200).map(|i| format!("SCHILY.xattr.user.{i}.{}", "n".repeat(i))).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    let tar = base().pax(&many).file("corpus/file", 0o644, b"data");
    tar.pax(&many).dir("corpus/dir", 0o755).pax(&many).symlink("corpus/symlink", "x")
}

/// Many blocks of entries.
fn crowd() -> Tar {
    let name = |i: usize| format!("corpus/crowd/{}{i}", "x".repeat(i * 7 % 40));
    (0..3000).fold(base().dir("corpus/crowd", 0o755), |tar, i| tar.file(&name(i), 0o600, b""))
}

fn implied() -> Tar {
    let dir = Tar::new().pax(&[("mtime", b"1700000000.5")]).dir("corpus", 0o700);
    dir.file("corpus/a/b/c", 0o644, b"x").dir("corpus/later", 0o755).file("corpus/later/d", 0o644, b"")
}

fn links_as_parents() -> Tar {
    base()
        .dir("corpus/usr", 0o755)
        .dir("corpus/usr/lib", 0o755)
        .symlink("corpus/lib", "usr/lib")
        .file("corpus/lib/a", 0o644, b"a")
        .file("corpus/lib/deep/b", 0o644, b"b")
        .hard_link("corpus/lib/c", "corpus/usr/lib/a")
}

/// What GNU tar makes of files with holes everywhere.
fn sparse(options: &str) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let corpus = dir.path().join("corpus");
    std::fs::create_dir(&corpus)?;
    let block = |n: u64| n * 65_536;
    holes(&corpus.join("hole"), block(20), &[])?;
    holes(&corpus.join("start"), block(20), &[0])?;
    holes(&corpus.join("end"), block(20) + 5, &[block(20)])?;
    holes(&corpus.join("middle"), block(20) + 5, &[block(7), block(9)])?;
    holes(&corpus.join("many"), block(201), &(0..200).map(block).collect::<Vec<_>>())?;
    let many: Vec<_> = (0..100).map(|n| block(2 * n + 1)).collect();
    holes(&corpus.join(format!("{}many-holes", "n".repeat(150))), block(201), &many)?;
    std::fs::write(corpus.join("dense"), "dense")?;
    let options = ["--create", "--format=pax", "--sparse", "--sort=name", "--mtime=@77", options, "-C"];
    run("tar", &[&options.map(OsStr::new)[..], &[dir.path().as_os_str(), "./".as_ref()]].concat())
}

/// A file of `size` bytes that has data of five bytes at each of `data`, and holes elsewhere.
fn holes(path: &Path, size: u64, data: &[u64]) -> Result<()> {
    let mut file = File::create(path)?;
    file.set_len(size)?;
    for at in data {
        file.seek(SeekFrom::Start(*at))?;
        file.write_all(b"data\n")?;
    }
    Ok(())
}

/// More of everything than 16 bits count: 66,000 names of one file, 70,000 subdirectories, 100,000 entries in a directory.
pub fn scale() -> Vec<u8> {
    let tar = Tar::new().dir("links", 0o755).dir("dirs", 0o755).dir("files", 0o755).file("file", 0o644, b"");
    let tar = (1..66_000).fold(tar, |tar, i| tar.hard_link(&format!("links/{i}"), "file"));
    let tar = (0..70_000).fold(tar, |tar, i| tar.dir(&format!("dirs/{i}"), 0o755));
    (0..100_000).fold(tar, |tar, i| tar.file(&format!("files/{i}"), 0o644, b"")).finish()
}

/// A file of 9 GiB and 5 bytes, which are its last.
pub fn large() -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    holes(&dir.path().join("large"), (9 << 30) + 5, &[9 << 30])?;
    let options = ["--create", "--format=pax", "--sparse", "-C"].map(OsStr::new);
    run("tar", &[&options[..], &[dir.path().as_os_str(), "large".as_ref()]].concat())
}

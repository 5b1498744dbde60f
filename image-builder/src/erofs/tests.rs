//! What the tree is after an archive, and what is refused. The disks themselves are compared in `tests/disks.rs`.

use std::io::{BufReader, Cursor, Read};

use tar::EntryType;

use super::tree::{Body, Id, Inode, Tree};
use super::*;
use crate::testimage::Tar;

fn tree(tar: &[u8]) -> Result<Tree> {
    layer::read(
        &mut tarball::Reader::new(tar, None),
        &mut output::Output::new(Cursor::new(Vec::new()), 1 << 30)?,
    )
}

fn id(tree: &mut Tree, path: &str) -> Option<Id> {
    tree.find(&path::components(path.as_bytes()).unwrap()).unwrap()
}

fn find<'a>(tree: &'a mut Tree, path: &str) -> Option<&'a Inode> {
    id(tree, path).map(|id| tree.get(id))
}

fn is_opaque(tree: &mut Tree, path: &str) -> bool {
    match &find(tree, path).unwrap().body {
        Body::Dir(dir) => dir.opaque,
        other => panic!("{path} is {other:?}"),
    }
}

fn is_whiteout(tree: &mut Tree, path: &str) -> bool {
    matches!(find(tree, path).unwrap().body, Body::Whiteout)
}

fn error(tar: &[u8]) -> String {
    let mut disk = Cursor::new(Vec::new());
    format!("{:#}", write_layer(tar, [0; 16], &mut disk).expect_err("must be refused"))
}

#[test]
fn whiteouts() {
    let mut tree = tree(
        &Tar::new()
            .whiteout("gone")
            .whiteout("etc/gone")
            .file("a", 0o644, b"mine")
            .whiteout("a")
            .whiteout("b")
            .file("b", 0o644, b"mine")
            .dir("dir", 0o700)
            .whiteout("dir")
            .whiteout("dir2")
            .dir("dir2", 0o700)
            .whiteout("dir3")
            .file("dir3/x", 0o644, b"")
            .file("opaque/.wh..wh..opq", 0, b"")
            .file("opaque/x", 0o644, b"")
            .dir(".wh..wh.plnk", 0o700)
            .file(".wh..wh.plnk/1.2", 0o644, b"aufs")
            .entry("overlay", EntryType::Char, 0o644, b"", |h| {
                h.set_device_major(0).unwrap();
                h.set_device_minor(0).unwrap();
            })
            .finish(),
    )
    .unwrap();
    for path in ["gone", "etc/gone", "overlay"] {
        assert!(is_whiteout(&mut tree, path), "{path}");
    }
    assert!(!is_opaque(&mut tree, "") && !is_opaque(&mut tree, "etc"));
    for path in ["a", "b"] {
        assert!(
            matches!(find(&mut tree, path).unwrap().body, Body::File { size: 4, .. }),
            "{path}: the file wins"
        );
    }
    for path in ["dir", "dir2", "dir3", "opaque"] {
        assert!(is_opaque(&mut tree, path), "{path}: nothing shows through");
    }
    assert!(find(&mut tree, "opaque/x").is_some());
    assert!(find(&mut tree, ".wh..wh.plnk").is_none());
}

#[test]
fn the_last_of_repeated_entries_wins() {
    let mut tree = tree(
        &Tar::new()
            .file("file", 0o644, b"first")
            .file("./file", 0o600, b"the second")
            .dir("dir", 0o755)
            .file("dir/child", 0o644, b"")
            .dir("dir/", 0o711)
            .dir("was-dir", 0o755)
            .file("was-dir/child", 0o644, b"")
            .symlink("was-dir", "elsewhere")
            .file("was-file", 0o644, b"")
            .dir("was-file", 0o755)
            .hard_link("was-link", "not/yet")
            .dir("was-link", 0o755)
            .file("not/yet", 0o644, b"")
            .finish(),
    )
    .unwrap();
    let file = find(&mut tree, "file").unwrap();
    assert!(matches!(file.body, Body::File { size: 10, .. }));
    assert_eq!(file.attributes.mode, 0o600);
    assert_eq!(find(&mut tree, "dir").unwrap().attributes.mode, 0o711);
    assert!(find(&mut tree, "dir/child").is_some(), "a directory repeated keeps its children");
    assert!(!is_opaque(&mut tree, "dir"));
    assert!(matches!(find(&mut tree, "was-dir").unwrap().body, Body::Symlink(_)));
    assert!(find(&mut tree, "was-dir/child").is_none());
    for path in ["was-file", "was-link"] {
        assert!(is_opaque(&mut tree, path), "{path}: the lower directory went when the file came");
    }
}

#[test]
fn hard_links_also_before_their_target() {
    let mut tree = tree(
        &Tar::new()
            .hard_link("early2", "early1")
            .hard_link("early1", "sub/target")
            .hard_link("replaced", "sub/target")
            .file("replaced", 0o644, b"own")
            .hard_link("twice", "sub/other")
            .hard_link("./twice", "sub/target")
            .file("sub/other", 0o644, b"")
            .file("sub/target", 0o644, b"data")
            .hard_link("late", "./sub/target")
            .symlink("sym", "x")
            .hard_link("sym2", "/sym")
            .finish(),
    )
    .unwrap();
    for path in ["early1", "early2", "late", "twice"] {
        assert_eq!(id(&mut tree, path), id(&mut tree, "sub/target"), "{path}");
    }
    assert_eq!(id(&mut tree, "sym2"), id(&mut tree, "sym"));
    assert!(matches!(find(&mut tree, "replaced").unwrap().body, Body::File { size: 3, .. }));
}

#[test]
fn implied_parents_have_the_newest_time_and_a_mark() {
    let dated = |tar: Tar, time: &[u8], path| tar.pax(&[("mtime", time)]).file(path, 0o644, b"");
    let tar =
        dated(dated(Tar::new(), b"-7.5", "a/b/c"), b"-9", "a/d").dir("d", 0o700).file("d/e", 0o644, b"");
    let mut tree = tree(&tar.finish()).unwrap();
    for (path, implied) in [("", true), ("a", true), ("a/b", true), ("d", false)] {
        let Inode { attributes, body: Body::Dir(dir), .. } = find(&mut tree, path).unwrap() else { panic!() };
        assert_eq!(dir.implied, implied, "{path}");
        let (uid, gid, mtime) = (attributes.uid, attributes.gid, attributes.mtime);
        assert_eq!(
            (uid, gid, mtime),
            (0, 0, tarball::Mtime::default()),
            "{path}: newer than what is before 1970"
        );
        assert_eq!(attributes.mode, if implied { 0o755 } else { 0o700 }, "{path}");
    }
    let mut tree = self::tree(&dated(Tar::new(), b"-7.5", "a/b").finish()).unwrap();
    let newest = tarball::Mtime { seconds: -8, nanos: 500_000_000 };
    assert_eq!(find(&mut tree, "a").unwrap().attributes.mtime, newest);
}

/// As the container's kernel would, and containerd and umoci do.
#[test]
fn paths_lead_through_the_layers_own_links() {
    let tar = Tar::new()
        .symlink("lib", "usr/lib")
        .symlink("abs", "//usr/./lib/")
        .symlink("usr/up", "../lib")
        .symlink("one", "two")
        .symlink("two", "abs/deep/../deep")
        .file("lib/a", 0o644, b"")
        .file("abs/b", 0o644, b"")
        .file("usr/up/c", 0o644, b"")
        .file("one/d", 0o644, b"")
        .hard_link("e", "lib/a")
        .hard_link("lib/f", "lib/late")
        .file("usr/lib/late", 0o644, b"")
        .whiteout("lib/gone")
        .file("lib/deep/.wh..wh..opq", 0, b"");
    let mut tree = tree(&tar.finish()).unwrap();
    for path in ["usr/lib/a", "usr/lib/b", "usr/lib/c", "usr/lib/deep/d", "lib/a"] {
        assert!(find(&mut tree, path).is_some(), "{path}");
    }
    assert_eq!(id(&mut tree, "e"), id(&mut tree, "usr/lib/a"));
    assert_eq!(id(&mut tree, "usr/lib/f"), id(&mut tree, "usr/lib/late"));
    assert!(matches!(find(&mut tree, "lib").unwrap().body, Body::Symlink(_)));
    assert!(is_whiteout(&mut tree, "usr/lib/gone") && is_opaque(&mut tree, "usr/lib/deep"));
}

/// What was found out about a path holds until one of its names leads elsewhere.
#[test]
fn links_replaced_are_followed_anew() {
    let tar = Tar::new()
        .symlink("l", "a/b")
        .file("l/1", 0o644, b"")
        .file("l/2", 0o644, b"")
        .symlink("l", "c")
        .file("l/3", 0o644, b"")
        .file("c", 0o644, b"in its place")
        .dir("c", 0o755)
        .file("l/4", 0o644, b"")
        .symlink("to", "d")
        .hard_link("l", "to")
        .file("l/5", 0o644, b"");
    let mut tree = tree(&tar.finish()).unwrap();
    for (path, is_there) in [("a/b/1", true), ("a/b/2", true), ("c/3", false), ("c/4", true), ("d/5", true)] {
        assert_eq!(find(&mut tree, path).is_some(), is_there, "{path}");
    }
}

/// As Docker and containerd do with layers of old, made on aufs.
#[test]
fn aufs_links() {
    let tar = Tar::new().file(".wh..wh.plnk/12.34", 0o4755, b"data").dir(".wh..wh.plnk", 0o700);
    let tar = tar.hard_link("a", ".wh..wh.plnk/12.34").hard_link("b", "/.wh..wh.plnk/12.34");
    let tar = tar.file(".wh..wh.aufs", 0o444, b"").file(".wh..wh.orph/.wh..wh..opq", 0, b"");
    let mut tree = tree(&tar.finish()).unwrap();
    assert_eq!(id(&mut tree, "a"), id(&mut tree, "b"));
    assert_eq!(find(&mut tree, "a").unwrap().attributes.mode, 0o4755);
    for name in [".wh..wh.plnk", ".wh..wh.aufs", ".wh..wh.orph"] {
        assert!(find(&mut tree, name).is_none(), "{name}");
    }
}

/// An entry whose 100-byte name field holds `name` as it is: what crate `tar` would not write.
fn raw(name: &[u8], kind: u8, size: &[u8], data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[124..124 + size.len()].copy_from_slice(size);
    header.as_mut_bytes()[156] = kind;
    header.set_cksum();
    let mut bytes = [header.as_bytes(), data].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// What Go's `archive/tar` makes of them.
#[test]
fn ambiguous_names_are_as_go_reads_them() {
    let mut old_go = raw(b"name", b'0', b"00000000000", b"");
    old_go[345..358].copy_from_slice(b"prefix/of/go\0");
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(&old_go);
    header.set_cksum();
    let archive = [
        Tar::new().pax(&[("path", b"of-pax")]).finish()[..1024].to_vec(),
        raw(b"././@LongLink", b'L', b"00000000012", b"of-gnu\0xyz"),
        raw(b"both", b'0', b"00000000000", b""),
        raw(b"././@LongLink", b'L', b"00000000001", b"\0"),
        raw(b"short", b'0', b"00000000000", b""),
        header.as_bytes().to_vec(),
    ];
    let mut tree = tree(&archive.concat()).unwrap();
    for (path, is_there) in
        [("of-gnu", true), ("of-pax", false), ("both", false), ("short", true), ("prefix/of/go/name", true)]
    {
        assert_eq!(find(&mut tree, path).is_some(), is_there, "{path}");
    }
}

#[test]
fn a_slash_makes_a_directory_of_nothing_but_v7s_type() {
    let none = b"00000000000";
    let archive = [raw(b"v7/", 0, none, b""), raw(b"ustar/", b'0', none, b""), raw(b"7/", b'7', none, b"")];
    let mut tree = tree(&archive.concat()).unwrap();
    let mut is_dir = |path| matches!(find(&mut tree, path).unwrap().body, Body::Dir(_));
    assert_eq!(["v7", "ustar", "7"].map(&mut is_dir), [true, false, false]);
    assert!(error(&raw(b"v7/", 0, b"00000000001", b"x")).contains("a directory (by its name) with 1 bytes"));
}

#[test]
fn hostile_and_broken_archives_are_refused_by_name() {
    let file = || Tar::new().file("f", 0o644, b"x");
    let long = "n".repeat(256);
    let deep = "d/".repeat(2100);
    let big = vec![b'v'; 65_536];
    let half = file().file("half", 0o644, &[1; 2000]).finish();
    let mut lone_zero = vec![0; 512];
    lone_zero.extend(raw(b"late", b'0', b"00000000000", b""));
    let table: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("..", raw(b"a/../../x", b'0', b"00000000000", b""), &["a/../../x", "\"..\""]),
        ("NUL", Tar::new().pax(&[("path", b"a\0b")]).file("x", 0, b"").finish(), &["a\\x00b", "NUL"]),
        ("name of 256", Tar::new().file(&long, 0, b"").finish(), &["nnn", "256 bytes"]),
        ("deep path", Tar::new().file(&format!("{deep}f"), 0, b"").finish(), &["4201 bytes"]),
        ("file as parent", file().file("f/g", 0, b"").finish(), &["f/g", "parent \"f\" is not a directory"]),
        (
            "symlink out of the layer as parent",
            Tar::new().symlink("d/l", "../../etc").file("d/l/shadow", 0, b"").finish(),
            &["d/l/shadow", "above the root"],
        ),
        (
            "symlink to a file as parent",
            file().symlink("l", "f").file("l/g", 0, b"").finish(),
            &["l/g", "parent \"f\" is not a directory"],
        ),
        (
            "symlinks round in circles as parents",
            Tar::new().symlink("a", "b").symlink("b", "./a").file("a/x", 0, b"").finish(),
            &["a/x", "passes 4096 bytes with the symbolic links"],
        ),
        (
            "symlinks to ever deeper folders",
            Tar::new()
                .symlink("l", &deep[..2000])
                .symlink(&format!("{}l", &deep[..2000]), &deep[..2000])
                .file("l/l/x", 0, b"")
                .finish(),
            &["l/l/x", "passes 4096 bytes"],
        ),
        (
            "symlink to a name of 256 as parent",
            Tar::new().symlink("l", &long).file("l/x", 0, b"").finish(),
            &["l/x", "256 bytes"],
        ),
        (
            "hard link by a symlink out of the layer",
            Tar::new().symlink("l", "../etc").hard_link("h", "l/shadow").finish(),
            &["\"h\"", "target", "above the root"],
        ),
        (
            "whiteout as parent",
            Tar::new().file(".wh.d/.wh..wh..opq", 0, b"").finish(),
            &[".wh.d/.wh..wh..opq", "name of a whiteout"],
        ),
        ("link without target", file().hard_link("h", "no").finish(), &["\"h\"", "\"no\"", "does not have"]),
        (
            "link outside",
            Tar::new().hard_link("h", "../../etc/shadow").finish(),
            &["\"h\"", "target", "\"..\""],
        ),
        (
            "link to a directory",
            Tar::new().dir("d", 0).hard_link("h", "d").finish(),
            &["\"h\"", "to a directory"],
        ),
        (
            "links to each other",
            Tar::new().hard_link("a", "./b").hard_link("b", "a").finish(),
            &["\"b\"", "\"a\"", "does not have"],
        ),
        ("link to itself", file().hard_link("f", "f").finish(), &["\"f\"", "itself"]),
        (
            "link to a whiteout",
            Tar::new().whiteout("w").hard_link("h", "w").finish(),
            &["\"h\"", "does not have"],
        ),
        ("root as file", raw(b"./", b'2', b"00000000000", b""), &["symbolic link to 0 bytes"]),
        ("root as fifo", raw(b".", b'6', b"00000000000", b""), &["root can only be a directory"]),
        ("nameless whiteout", raw(b".wh.", b'0', b"00000000000", b""), &["whiteout without a name"]),
        ("whiteout of ..", raw(b".wh...", b'0', b"00000000000", b""), &["whiteout without a name"]),
        (
            "large xattr",
            Tar::new().pax(&[("SCHILY.xattr.user.a", &big)]).file("x", 0, b"").finish(),
            &["user.a", "65,535"],
        ),
        (
            "long name of an xattr",
            Tar::new()
                .pax(&[(&format!("SCHILY.xattr.user.{}", "n".repeat(251)), b"")])
                .file("x", 0, b"")
                .finish(),
            &["\"x\"", "a name of 256 bytes"],
        ),
        (
            "too many xattrs",
            Tar::new()
                .pax(
                    &["user.a", "user.b", "user.c", "security.d"]
                        .map(|name| format!("SCHILY.xattr.{name}"))
                        .each_ref()
                        .map(|key| (key.as_str(), &big[1..])),
                )
                .file("x", 0, b"")
                .finish(),
            &["\"x\"", "xattrs pass 262136 bytes"],
        ),
        (
            "PAX sparse",
            Tar::new()
                .pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")])
                .file("x", 0, b"")
                .finish(),
            &["\"x\"", "version 2.0"],
        ),
        ("bad PAX", raw(b"x", b'x', b"00000000004", b"abc\n"), &["malformed PAX header"]),
        ("huge PAX", raw(b"x", b'x', b"77777777777", b""), &["extended header of 8589934591 bytes"]),
        ("negative size", raw(b"x", b'0', &[0xff; 12], b""), &["\"x\"", "negative size -1"]),
        ("size not a number", raw(b"x", b'0', b"zz", b""), &["\"x\"", "malformed size"]),
        ("unknown type", raw(b"x", b'M', b"00000000000", b""), &["\"x\"", "'M' is not supported"]),
        ("truncated data", half[..1800].to_vec(), &["\"half\"", "short of the file's end"]),
        ("truncated header", half[..700 + 512].to_vec(), &["truncated"]),
        ("noise", vec![0x5a; 1024], &["byte 0", "checksum"]),
        ("a lone zero block", lone_zero, &["lone zero block"]),
        (
            "PAX header at the end",
            raw(b"x", b'x', b"00000000014", b"12 path=a=b\n"),
            &["ends after an extended header"],
        ),
        (
            "huge uid",
            Tar::new().pax(&[("uid", b"4294967296")]).file("x", 0, b"").finish(),
            &["uid", "32 bits"],
        ),
        ("sparse map beyond end", sparse(&[(0, 512), (100, 512)], 4096), &["\"sparse\"", "out of order"]),
        ("sparse map without data", sparse(&[(0, 4096)], 4096), &["\"sparse\"", "512 stored"]),
        (
            "sparse of 32 TiB",
            sparse(&[(0, 512)], 1 << 45),
            &["\"sparse\"", "35184372088832 bytes more", "68719476736"],
        ),
    ];
    for (what, tar, wanted) in table {
        let message = error(&tar);
        for part in wanted {
            assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
        }
    }
}

/// Both a size that is said, and data and metadata that come.
#[test]
fn the_size_of_a_disk_is_bounded() {
    let write = |tar: Tar, max_size| {
        let mut disk = Cursor::new(Vec::new());
        write_layer(&tar.finish()[..], WriteOptions { uuid: [0; 16], max_size }, &mut disk)
            .map_err(|e| (format!("{e:#}"), disk.get_ref().len()))
    };
    let file = || Tar::new().file("f", 0o644, &[1; 4096]);
    assert_eq!(write(file(), 3 * BLOCK).unwrap().length, 3 * BLOCK);
    let (message, written) = write(file().file("g", 0, &[1; 4096]), 3 * BLOCK - 1).unwrap_err();
    assert!(message.contains("\"g\"") && message.contains("12287 bytes"), "{message}");
    assert_eq!(written, 0);
    assert!(write(file(), 3 * BLOCK - 1).is_err());
    let many = (0..20_000).fold(Tar::new(), |tar, i| tar.file(&format!("{i}"), 0, b""));
    let (message, written) = write(many, 1 << 20).unwrap_err();
    assert!(message.contains("bound of 1048576 bytes") && written <= 1 << 20, "{message} {written}");
}

/// Nothing is asserted about time: with a quadratic step somewhere, these take minutes.
#[test]
fn archives_made_to_take_long_do_not() {
    let count = 30_000;
    let chain = (0..count).fold(Tar::new(), |tar, i| tar.hard_link(&i.to_string(), &(i + 1).to_string()));
    let mut tree = tree(&chain.file(&count.to_string(), 0o644, b"x").finish()).unwrap();
    assert_eq!(id(&mut tree, "0"), id(&mut tree, &count.to_string()));

    let names: Vec<_> = (0..count).map(|i| format!("SCHILY.xattr.{i}")).collect();
    let records: Vec<_> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let tar = Tar::new().pax(&records).pax(&records).file("f", 0, b"").finish();
    assert_eq!(write_layer(&tar[..], [0; 16], Cursor::new(Vec::new())).unwrap().inodes, 2);
}

/// One entry again and again.
struct Endless {
    entry: Vec<u8>,
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = (&self.entry[self.at..]).read(buffer)?;
        self.at = (self.at + n) % self.entry.len();
        Ok(n)
    }
}

/// Links that wait for their targets are metadata, too.
#[test]
fn metadata_is_bounded() {
    let long = |name: &str| format!("{}/", name.repeat(250)).repeat(16);
    let (name, target) = (long("n"), long("t"));
    let link = Tar::new()
        .pax(&[("path", name.as_bytes()), ("linkpath", target.as_bytes())])
        .hard_link("h", "t")
        .finish();
    let stream = Endless { entry: link[..link.len() - 1024].to_vec(), at: 0 }.take(1 << 30); // without the end mark
    let stream = BufReader::new(stream);
    let message = format!("{:#}", write_layer(stream, [0; 16], Cursor::new(Vec::new())).unwrap_err());
    assert!(message.contains("metadata passes 512 MiB"), "{message}");
}

/// A GNU sparse file of `size` bytes with 512 bytes stored, where they belong according to `parts`.
fn sparse(parts: &[(u64, u64)], size: u64) -> Vec<u8> {
    let mut entry = raw(b"sparse", b'S', b"00000001000", &[b'D'; 512]);
    for (i, (offset, length)) in parts.iter().enumerate() {
        let pair = format!("{offset:011o}\0{length:011o}\0");
        entry[386 + 24 * i..][..24].copy_from_slice(pair.as_bytes());
    }
    let size = [&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat();
    entry[483..495].copy_from_slice(&size);
    let mut header = tar::Header::from_byte_slice(&entry[..512]).clone();
    header.set_cksum();
    entry[..512].copy_from_slice(header.as_bytes());
    entry
}

#[test]
fn sparse_files_are_filled_with_zeros() {
    let mut disk = Cursor::new(Vec::new());
    write_layer(&sparse(&[(512 * 1024, 512)], 600 * 1024)[..], [0; 16], &mut disk).unwrap();
    let disk = disk.into_inner();
    let data = &disk[4096..][..600 * 1024]; // the first file starts in block 1
    assert!(data[..512 * 1024].iter().all(|&b| b == 0));
    assert_eq!(data[512 * 1024..][..513], [&[b'D'; 512][..], &[0]].concat());
    assert!(data[512 * 1024 + 512..].iter().all(|&b| b == 0));
}

#[test]
fn a_full_disk_is_told() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let tar = Tar::new().file("f", 0o644, &[1; 1 << 20]).finish();
    let message = format!("{:#}", write_layer(&tar[..], [0; 16], full).unwrap_err());
    assert!(message.contains("cannot write the layer disk: No space left on device"), "{message}");
}

//! Layer disks against other implementations: `fsck.erofs` reads what we write, and its tree must equal `tar -x`'s.
//!
//! Needs erofs-utils, tar, and root (for owners and devices); what is missing is said, and the test skipped.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use image_builder::erofs::write_layer;
use image_builder::image::Image;
use image_builder::source;
use image_builder::store::LayerStore;
use image_builder::testimage::{self, Tar};
use tar::EntryType;

/// False, and a line that says why, when the comparison cannot be made here.
fn can_compare() -> bool {
    let lacks =
        ["fsck.erofs", "tar"].into_iter().find(|tool| Command::new(tool).arg("--help").output().is_err());
    if let Some(tool) = lacks {
        println!("skipped: {tool} is not installed");
        return false;
    }
    if !fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0) {
        println!("skipped: only root can unpack owners and devices");
        return false;
    }
    true
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Everything that must agree of one entry, in a line.
fn describe(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let content = if kind.is_symlink() {
        format!("-> {:?}", fs::read_link(path).unwrap())
    } else if kind.is_file() {
        image_builder::digest::Digest::of(&fs::read(path).unwrap()).to_string()
    } else if kind.is_char_device() || kind.is_block_device() {
        format!("device {:x}", meta.rdev())
    } else {
        String::new()
    };
    // fsck.erofs 1.5 keeps no times of symlinks and no nanoseconds before 1970.
    let mtime = if kind.is_symlink() { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
    // It also gives owners after modes, and so takes setuid and setgid from files.
    let mode = if kind.is_file() { meta.mode() & !0o6000 } else { meta.mode() };
    format!("{mode:o} {}:{} {mtime:?} {content}", meta.uid(), meta.gid())
}

fn walk(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            }
            found.insert(entry.path().strip_prefix(root).unwrap().to_owned(), describe(&entry.path()));
        }
    }
    found
}

/// Checks the disk with fsck.erofs, and its tree against what tar makes of the archive.
fn compare(tar: &[u8], disk: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs, archive) =
        (dir.path().join("ours"), dir.path().join("theirs"), dir.path().join("layer.tar"));
    fs::write(&archive, tar).unwrap();
    fs::create_dir(&theirs).unwrap();
    run(Command::new("fsck.erofs").arg(disk));
    run(Command::new("fsck.erofs").arg(format!("--extract={}", ours.display())).arg("--preserve").arg(disk));
    run(Command::new("tar")
        .args(["--delay-directory-restore", "-xpf"])
        .arg(&archive)
        .arg("--numeric-owner")
        .arg("-C")
        .arg(&theirs));
    let (ours, theirs) = (walk(&ours), walk(&theirs));
    for (path, line) in &theirs {
        assert_eq!(ours.get(path), Some(line), "{}", path.display());
    }
    assert_eq!(ours.len(), theirs.len());
}

fn build(tar: &[u8]) -> Vec<u8> {
    let mut disk = Cursor::new(Vec::new());
    write_layer(tar, [1; 16], &mut disk).unwrap();
    disk.into_inner()
}

/// All kinds of entries, sizes around every boundary, a directory of many blocks.
fn everything() -> Vec<u8> {
    let mut tar = Tar::new().dir("d", 0o1777).dir("sizes", 0o755).dir("many", 0o755).dir("names", 0o700);
    for size in [0, 1, 4031, 4032, 4033, 4095, 4096, 4097, 8192, 262_143, 262_144, 262_145, 1_000_003] {
        let data: Vec<u8> =
            (0..size).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
        tar = tar.file(&format!("sizes/{size}"), 0o644, &data);
    }
    for i in 0..10_000 {
        tar = tar.file(&format!("many/{}{i}", "x".repeat(i % 40)), 0o600, b"");
    }
    for length in (1..=255).step_by(2) {
        tar = tar.file(&format!("names/{}", "n".repeat(length)), 0o644, b"");
    }
    for name in ["!", "-", ".hidden", "...", "é"] {
        tar = tar.file(&format!("names/{name}"), 0o644, b"");
    }
    for length in [1, 100, 101, 3000, 4031, 4032, 4033, 4095] {
        tar = tar.symlink(&format!("d/{length}"), &"t".repeat(length));
    }
    let device = |major: u32, minor: u32| {
        move |header: &mut tar::Header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
    };
    tar.entry("null", EntryType::Char, 0o666, b"", device(1, 3))
        .entry("disk", EntryType::Block, 0o660, b"", device(259, 70_000))
        .entry("fifo", EntryType::Fifo, 0o622, b"", |_| {})
        .entry("owned", EntryType::Regular, 0o6755, b"x", |h| (h.set_uid(1000), h.set_gid(70_000)).1)
        .pax(&[("mtime", b"1700000000.123456789"), ("uid", b"4000000000")])
        .file("late", 0o444, b"pax")
        .file("hard", 0o644, b"linked")
        .hard_link("d/hard", "hard")
        .finish()
}

#[test]
fn all_kinds_of_entries_equal_tar_x() {
    if !can_compare() {
        return;
    }
    let tar = everything();
    let disk = tempfile::NamedTempFile::new().unwrap();
    fs::write(disk.path(), build(&tar)).unwrap();
    compare(&tar, disk.path());
}

#[test]
fn the_same_archive_gives_the_same_bytes() {
    let tar = everything();
    assert!(build(&tar) == build(&tar));
}

#[test]
fn link_counts_times_and_modes() {
    if !can_compare() {
        return;
    }
    let tar = Tar::new()
        .dir("d/one", 0o755)
        .dir("d/two", 0o755)
        .pax(&[("mtime", b"1700000000.123456789")])
        .file("f", 0o6755, b"x")
        .hard_link("g", "f")
        .hard_link("d/h", "f")
        .finish();
    let disk = tempfile::NamedTempFile::new().unwrap();
    fs::write(disk.path(), build(&tar)).unwrap();
    let dump = |path: &str| {
        let output =
            Command::new("dump.erofs").arg(format!("--path={path}")).arg(disk.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(dump("/").contains("Links: 3 "), "{}", dump("/"));
    assert!(dump("/d").contains("Links: 4 "), "{}", dump("/d"));
    assert!(dump("/g").contains("Links: 3 ") && dump("/g").contains(".123456789"), "{}", dump("/g"));
    // dump.erofs masks the mode, so setuid and setgid are looked for in the inode (erofs_fs.h: i_mode at byte 4).
    let nid: usize =
        dump("/f").split("NID: ").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    let disk = fs::read(disk.path()).unwrap();
    let meta_block = u32::from_le_bytes(disk[1024 + 40..][..4].try_into().unwrap()) as usize;
    let inode = &disk[meta_block * 4096 + nid * 32..][..64];
    assert_eq!(inode[4..6], 0o106_755u16.to_le_bytes());
}

/// fsck.erofs extracts no xattrs and dump.erofs shows none: look for the encoded entries. That Linux reads them is for the
/// tests that boot.
#[test]
fn xattrs_and_overlay_marks_are_on_the_disk() {
    let tar = Tar::new()
        .pax(&[("SCHILY.xattr.user.colour", b"blue"), ("SCHILY.xattr.trusted.overlay.redirect", b"/etc")])
        .file("f", 0o644, b"")
        .file("o/.wh..wh..opq", 0o644, b"")
        .whiteout("o/w")
        .finish();
    let disk = build(&tar);
    let has = |entry: &[u8]| disk.windows(entry.len()).any(|w| w == entry);
    assert!(has(b"\x06\x01\x04\0colourblue"));
    assert!(has(b"\x0e\x04\x01\0overlay.opaquey"));
    assert!(has(b"\x0e\x04\0\0overlay.origin"));
    assert!(!has(b"redirect"));
}

#[test]
fn the_busybox_image_is_whole_and_repeats() {
    let busybox = Path::new("/bin/busybox");
    if !busybox.exists() {
        println!("skipped: /bin/busybox (Debian's busybox-static) is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layouts = [dir.path().join("one"), dir.path().join("two")];
    let digests = layouts.each_ref().map(|l| testimage::busybox_image(l, busybox).unwrap());
    assert_eq!(digests[0], digests[1]);
    let image = source::open(layouts[0].to_str().unwrap(), &source::Options::default()).unwrap();
    let config = image.config.config().as_ref().unwrap();
    assert!(config.cmd().as_ref().is_some_and(|command| command[..2] == ["sh", "-c"]));
    build_and_compare(&image);
}

/// Builds each layer's disk through the store and compares it, where that is possible.
fn build_and_compare(image: &Image) {
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    for layer in &image.layers {
        let disk = store.layer_disk(layer, &mut |_, _| {}).unwrap();
        if can_compare() {
            let mut blob = tempfile::tempfile().unwrap();
            std::io::copy(&mut layer.blob.open().unwrap(), &mut blob).unwrap();
            blob.rewind().unwrap();
            let output = Command::new("gzip").arg("-dc").stdin(blob).output().unwrap().stdout;
            compare(&output, &disk.path);
        }
    }
}

#[test]
fn real_images() {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/images");
    for name in ["busybox", "alpine"] {
        let path = images.join(name);
        if !path.is_dir() {
            println!("skipped: {} is not there", path.display());
            continue;
        }
        build_and_compare(&source::open(path.to_str().unwrap(), &source::Options::default()).unwrap());
    }
}

#[test]
fn names_need_not_be_utf8() {
    if !can_compare() {
        return;
    }
    let tar = Tar::new().pax(&[("path", b"caf\xe9")]).file("x", 0o644, b"latin-1").finish();
    let dir = tempfile::tempdir().unwrap();
    let (disk, tree) = (dir.path().join("disk"), dir.path().join("tree"));
    fs::write(&disk, build(&tar)).unwrap();
    run(Command::new("fsck.erofs").arg(format!("--extract={}", tree.display())).arg(&disk));
    let names: Vec<_> = fs::read_dir(&tree).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.iter().map(|n| n.as_bytes()).collect::<Vec<_>>(), [b"caf\xe9"]);
}

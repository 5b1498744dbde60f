//! Disks that mke2fs and debugfs made, read without mounting them; and what the command line shows of them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use image_builder::disk::{Disk, Kind, Overlay};
use image_builder::erofs::write_layer;
use image_builder::testimage::Tar;

/// False, and a line that says why, when no disks can be made here.
fn can_make_disks() -> bool {
    let lacks = ["mke2fs", "debugfs"].into_iter().find(|tool| !Path::new("/sbin").join(tool).exists());
    if let Some(tool) = lacks {
        println!("skipped: {tool} (e2fsprogs) is not installed");
    }
    lacks.is_none()
}

/// A disk made with `options` of mke2fs, changed by `commands` of debugfs.
fn make(dir: &Path, options: &[&str], commands: &str) -> PathBuf {
    let disk = dir.join("disk.ext4");
    let mke2fs = Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4"])
        .args(options)
        .arg(&disk)
        .arg("16M")
        .output();
    assert!(mke2fs.as_ref().unwrap().status.success(), "{mke2fs:?}");
    edit(&disk, commands);
    disk
}

fn edit(disk: &Path, commands: &str) {
    let script = disk.with_extension("script");
    fs::write(&script, commands).unwrap();
    let debugfs = Command::new("/sbin/debugfs").args(["-w", "-f"]).arg(&script).arg(disk).output().unwrap();
    assert!(debugfs.status.success(), "{debugfs:?}");
}

fn error<T>(result: anyhow::Result<T>) -> String {
    result.err().map_or_else(|| "nothing wrong".to_owned(), |error| format!("{error:#}"))
}

/// A layer disk in `dir`.
fn layer(dir: &Path, name: &str, tar: Tar) -> PathBuf {
    let path = dir.join(name);
    write_layer(&tar.finish()[..], [1; 16], fs::File::create(&path).unwrap()).unwrap();
    path
}

#[test]
fn what_mke2fs_copied_is_read_at_every_block_size() {
    if !can_make_disks() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("many")).unwrap();
    for number in 0..2000 {
        fs::write(tree.join(format!("many/{number:050}")), number.to_string()).unwrap();
    }
    let data: Vec<u8> =
        (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    fs::write(tree.join("data"), &data).unwrap();
    let hole = fs::File::create(tree.join("hole")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&hole, b"end", 1 << 20).unwrap();
    std::os::unix::fs::symlink("many/../data", tree.join("link")).unwrap();
    for options in
        [&["-b", "1024"][..], &["-b", "2048", "-I", "128"], &["-b", "4096", "-O", "^metadata_csum,^64bit"]]
    {
        let path = make(dir.path(), &[options, &["-d", tree.to_str().unwrap()]].concat(), "");
        let disk = Disk::open(&path).unwrap();
        let read = |path: &[u8]| {
            let mut bytes = Vec::new();
            let inode = disk.find(path, true).unwrap();
            std::io::copy(&mut disk.contents(&inode).unwrap(), &mut bytes).unwrap();
            bytes
        };
        assert!(read(b"/data") == data && read(b"link") == data, "{options:?}");
        let hole = read(b"hole");
        assert!(hole.len() == (1 << 20) + 3 && hole.ends_with(b"\0end"));
        let many = disk.find(b"many", false).unwrap();
        assert_eq!(disk.entries(&many).unwrap().len(), 2000);
        assert_eq!(read(format!("many/{:050}", 1234).as_bytes()), b"1234");
    }
}

/// A container that changed a bit of everything, as overlayfs marks it.
const CHANGES: &str = "\
mkdir upper
mkdir work
cd upper
mknod null c 1 3
mknod nothing c 0 0
mkdir file-to-dir
mkdir etc
mkdir replaced
ea_set replaced trusted.overlay.opaque y
mkdir below
mkdir below/hidden
cd /upper/etc
mknod passwd c 0 0
write /dev/null changed
mkdir new
cd new
write /dev/null file
cd /upper/replaced
write /dev/null kept
write /dev/null added
cd /upper/below/hidden
write /dev/null again
";

#[test]
fn changes_as_docker_diff_tells_them() {
    if !can_make_disks() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layers = [
        Tar::new()
            .file("etc/passwd", 0o644, b"x")
            .file("replaced/kept", 0o644, b"x")
            .file("replaced/lost", 0o644, b"x")
            .file("replaced/deep/lost", 0o644, b"x")
            .file("replaced/old", 0o644, b"x")
            .file("below/hidden/again", 0o644, b"x"),
        Tar::new().file("file-to-dir", 0o644, b"x").file("etc/changed", 0o644, b"x").whiteout("replaced/old"),
        Tar::new().file("below/hidden/.wh..wh..opq", 0o644, b""),
    ];
    let layers: Vec<_> =
        (0..).zip(layers).map(|(number, tar)| layer(dir.path(), &format!("layer{number}"), tar)).collect();
    let scratch = make(dir.path(), &["-O", "^has_journal"], CHANGES);
    let wanted = "C /below\nC /below/hidden\nA /below/hidden/again\nC /etc\nC /etc/changed\nA /etc/new\n\
                  A /etc/new/file\nD /etc/passwd\nC /file-to-dir\nA /null\nC /replaced\nA /replaced/added\n\
                  D /replaced/deep\nC /replaced/kept\nD /replaced/lost\n";
    let mut arguments = vec!["diff", scratch.to_str().unwrap(), "--layers"];
    arguments.extend(layers.iter().map(|path| path.to_str().unwrap()));
    let output = cli(&arguments);
    assert_eq!(output, wanted);

    edit(&scratch, "cd upper\nea_set etc trusted.overlay.redirect /other\n");
    let layers: Vec<_> = layers.iter().map(|path| Disk::open(path).unwrap()).collect();
    let changes = Overlay::new(&layers).changes(&Disk::open(&scratch).unwrap(), &mut |_| Ok(()));
    assert!(error(changes).contains("\"/etc\": a renamed directory (trusted.overlay.redirect)"));
    let changes = Overlay::new(&layers).changes(&layers[0], &mut |_| Ok(()));
    assert!(error(changes).starts_with("it is no scratch disk: \"/upper\" on the disk: no such file"));
}

/// What `image-builder` says, on stdout and stderr.
fn cli(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_image-builder"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn the_command_line_lists_and_prints() {
    let dir = tempfile::tempdir().unwrap();
    let tar = Tar::new()
        .dir("./", 0o755)
        .dir("bin", 0o2755)
        .pax(&[("mtime", b"1700000000.5")])
        .file("bin/su", 0o4755, b"binary")
        .hard_link("bin/sudo", "bin/su")
        .symlink("sbin", "/bin")
        .whiteout("gone")
        .pax(&[("path", b"caf\xe9")])
        .file("x", 0o640, b"");
    let disk = layer(dir.path(), "disk", tar);
    let run = |arguments: &[&str]| cli(arguments).replace(disk.to_str().unwrap(), "DISK");
    let path = disk.to_str().unwrap();
    assert_eq!(
        run(&["ls", path]),
        "drwxr-sr-x   2     0     0          0 1970-01-01 00:00 bin\n\
         -rw-r-----   1     0     0          0 1970-01-01 00:00 caf\u{fffd}\n\
         c---------   1     0     0       0, 0 1970-01-01 00:00 gone\n\
         lrwxrwxrwx   1     0     0          4 1970-01-01 00:00 sbin -> /bin\n"
    );
    assert_eq!(
        run(&["ls", path, "sbin/"]),
        "-rwsr-xr-x   2     0     0          6 2023-11-14 22:13 su\n\
         -rwsr-xr-x   2     0     0          6 2023-11-14 22:13 sudo\n"
    );
    assert_eq!(run(&["ls", "-R", path]).lines().count(), 6);
    let json: serde_json::Value = serde_json::from_str(&run(&["ls", "--json", path, "bin/su"])).unwrap();
    let inode = &json["inode"];
    assert_eq!(
        json,
        serde_json::json!({
            "path": "bin/su", "type": "file", "mode": "4755", "uid": 0, "gid": 0, "size": 6,
            "mtime": "1700000000.500000000", "links": 2, "inode": inode,
        })
    );
    assert_eq!(run(&["cat", path, "sbin/../sbin/su"]), "binary");
    assert_eq!(
        run(&["cat", path, "bin"]),
        "image-builder: cannot read \"bin\" on disk DISK: not a regular file: Directory\n"
    );
    assert_eq!(
        run(&["ls", path, "bin/no"]),
        "image-builder: cannot list \"bin/no\" on disk DISK: \"bin/no\" on the disk: no such file or directory\n"
    );
}

#[test]
fn other_disks_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let magic = |at: usize, magic: &[u8]| {
        let mut bytes = vec![0; 4096];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        bytes
    };
    for (bytes, wanted) in [
        (vec![0; 100], "it is shorter than any filesystem"),
        (magic(0, b""), "it holds neither EROFS nor ext4"),
        (magic(0, b"QFI\xfb"), "it is a qcow2 image; `qemu-img convert -O raw` makes it a raw one"),
        (magic(510, b"\x55\xaa"), "it is a disk with partitions; a raw disk with EROFS or ext4"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = error(Disk::open(&path));
        assert!(error.contains(wanted), "{error}");
    }
}

/// Without metadata checksums, which would notice all of this first.
#[test]
fn damaged_ext4_disks_are_refused() {
    if !can_make_disks() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let good = "mkdir d\nmkdir d/e\nsymlink l target\nwrite /bin/true f\ncd d\nwrite /bin/true g\n";
    for (damage, wanted) in [
        ("", "nothing wrong"),
        ("ssv inodes_per_group 0", "a damaged ext4 superblock"),
        ("ssv blocks_per_group 0", "a damaged ext4 superblock"),
        ("ssv inode_size 100", "a damaged ext4 superblock"),
        ("ssv log_block_size 4000000000", "its ext4 block size is not 1, 2 or 4 KiB"),
        ("feature needs_recovery", "was not unmounted cleanly, and its journal holds what the disk does not"),
        ("feature inline_data", "its ext4 features 0x8000 (s_feature_incompat) are not supported"),
        ("set_bg 0 inode_table 99999999", "block 99999999 is not on the disk"),
        ("sif f links_count 0", "it has a name, but is not in use"),
        ("sif f mode 0", "of no known type"),
        ("sif f flags 0", "a block map, as of ext2 and ext3"),
        ("sif f block[0] 0", "bad magic"),
        ("sif f block[1] 0x60004", "a malformed extent tree"),
        ("sif f block[5] 99999999", "block 99999999 is not on the disk"),
        ("sif f block[0] 0x5f30a", "a malformed extent tree"),
        ("sif l size 0x7fffffff", "a symbolic link to more than 4096 bytes"),
        ("sif d size 0x7ffffffff", "a directory of more than 320 MiB"),
        ("ln d/e d/again", "a directory with two names"),
        ("sif f file_acl 5", "xattrs of ext4 inode"),
    ] {
        let disk = make(dir.path(), &["-b", "4096", "-O", "^metadata_csum"], good);
        edit(&disk, damage);
        let found = error(read_all(&disk));
        assert!(found.contains(wanted), "{damage}: {found}");
    }
}

/// Whatever is changed, reading ends, and without a panic.
#[test]
fn ext4_ends_whatever_the_bytes_are() {
    if !can_make_disks() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = "mkdir d\nsymlink l d/f\nmknod c c 1 3\nea_set d user.a b\ncd d\nwrite /bin/true f\n";
    let options = ["-b", "1024", "-N", "32", "-O", "^metadata_csum,^has_journal,^resize_inode"];
    let good = fs::read(make(dir.path(), &options, tree)).unwrap();
    let mut refused = 0;
    // Superblock, group descriptors, bitmaps, inodes and the first directories.
    for at in (1024..64 << 10).step_by(29) {
        let mut bad = good[..1 << 20].to_vec();
        for flip in [0x01, 0x80, 0xff] {
            bad[at] = good[at] ^ flip;
            refused += u32::from(Disk::new(Arc::new(bad.clone())).and_then(|disk| read(&disk)).is_err());
        }
    }
    assert!(refused > 10, "{refused}");
}

/// Reads whatever can be read.
fn read_all(path: &Path) -> anyhow::Result<()> {
    read(&Disk::open(path)?)
}

fn read(disk: &Disk) -> anyhow::Result<()> {
    disk.walk(&disk.root()?, &mut |_, inode| {
        disk.xattrs(inode)?;
        match inode.kind {
            Kind::File => {
                std::io::copy(&mut disk.contents(inode)?.take(1 << 20), &mut std::io::sink())?;
            }
            Kind::Symlink => drop(disk.target(inode)?),
            _ => {}
        }
        Ok(true)
    })
}

#[test]
fn symbolic_links_stay_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = Tar::new()
        .file("etc/shadow", 0o600, b"the disk's")
        .symlink("up", "../../../../../etc")
        .symlink("absolute", "/etc/shadow")
        .symlink("loop", "loop")
        .symlink("dir", "etc")
        .symlink("dangling", "no/where");
    for number in 0..41 {
        tar = tar.symlink(&format!("chain{number}"), &format!("chain{}", number + 1));
    }
    let path = layer(dir.path(), "disk", tar.file("chain41", 0o644, b""));
    let disk = Disk::open(&path).unwrap();
    let shadow = disk.find(b"/etc/shadow", false).unwrap().number;
    for path in [&b"up/shadow"[..], b"absolute", b"../../dir/./shadow", b"dir/../up/shadow"] {
        assert_eq!(disk.find(path, true).unwrap().number, shadow, "{}", path.escape_ascii());
    }
    assert_eq!(disk.find(b"absolute", false).unwrap().kind, Kind::Symlink);
    assert!(disk.find(b"chain1", true).is_ok());
    for (path, wanted) in [
        (&b"loop"[..], "more than 40 symbolic links"),
        (b"chain0", "more than 40 symbolic links"),
        (b"dangling", "no such file or directory"),
        (b"etc/shadow/x", "not a directory"),
        (b"etc/no", "no such file or directory"),
    ] {
        let error = error(disk.find(path, true));
        assert!(error.ends_with(wanted), "{error}");
    }
}

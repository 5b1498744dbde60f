//! Layer disks as the guest's kernel sees them.

use crate::harness::{Test, options, probe, run, store, temporary};
use crate::tests;
use anyhow::{Context, Result, ensure};
use image_builder::store::LayerFs;
use image_builder::testimage::{self, Tar};
use oci_spec::image::ConfigBuilder;
use std::fs;
use std::path::Path;
use std::process::Command;
use vch::RunOptions;

pub fn tests() -> Vec<Test> {
    let ext4 = Test::new("layers::ext4_layer_disk", ext4_layer_disk);
    [
        tests![
            stacking,
            stacking_on_ext4,
            entries,
            many_layers_and_repeated_ones,
            implied_directories,
            root_folder
        ],
        vec![ext4],
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// An image of busybox below `layers`, and options to run a script in it.
pub fn image(dir: &Path, layers: Vec<Tar>, script: &str) -> Result<RunOptions> {
    let mut base = Tar::new().file("bin/busybox", 0o755, &fs::read("/bin/busybox")?);
    for applet in ["sh", "cat", "find", "ls", "stat", "sort", "sha256sum", "head", "wc", "grep", "readlink"] {
        base = base.symlink(&format!("bin/{applet}"), "busybox");
    }
    let layers: Vec<Vec<u8>> = [vec![base], layers].into_iter().flatten().map(Tar::finish).collect();
    testimage::write(dir, &layers, ConfigBuilder::default().env(vec!["PATH=/bin".into()]).build()?)?;
    Ok(options(&dir.display().to_string(), &["sh", "-c", script]))
}

fn stacking() -> Result<()> {
    stack(LayerFs::Erofs)
}

/// The layers as ext4 disks of our own making, which show no more than EROFS ones: no lost+found either.
fn stacking_on_ext4() -> Result<()> {
    stack(LayerFs::Ext4)
}

fn stack(fs: LayerFs) -> Result<()> {
    let dir = temporary()?;
    let below = Tar::new()
        .file("d/gone", 0o644, b"1")
        .file("d/kept", 0o644, b"below")
        .file("opaque/hidden", 0o644, b"1")
        .file("becomes-dir", 0o644, b"1")
        .file("becomes-file/x", 0o644, b"1")
        .file("over", 0o600, b"below");
    let above = Tar::new()
        .whiteout("d/gone")
        .file("d/new", 0o644, b"above")
        .file("opaque/.wh..wh..opq", 0, b"")
        .file("opaque/seen", 0o644, b"1")
        .file("becomes-dir/y", 0o644, b"1")
        .file("becomes-file", 0o644, b"now a file")
        .file("over", 0o644, b"above");
    let script =
        "find d opaque becomes-dir becomes-file over | sort; cat d/kept over becomes-file; stat -c %a over;
                  echo more >> d/kept; cat d/kept; ls d;
                  find . -maxdepth 1 -name 'lost*'";
    let mut options = image(dir.path(), vec![below, above], script)?;
    options.layer_fs = fs;
    run(&options)?.gives(
        "becomes-dir\nbecomes-dir/y\nbecomes-file\nd\nd/kept\nd/new\nopaque\nopaque/seen\nover\nbelowabovenow a file644\nbelowmore\nkept\nnew\n",
    )
}

fn entries() -> Result<()> {
    let dir = temporary()?;
    let long = "n".repeat(255);
    let big: Vec<u8> = (0..3_000_001_u32).map(|i| i.to_le_bytes()[(i % 3) as usize]).collect();
    let mut layer = Tar::new()
        .entry("setuid", tar_kind(b'0'), 0o4755, b"x", |header| {
            header.set_uid(1234);
            header.set_gid(70000);
            header.set_mtime(981_173_106);
        })
        .entry("fifo", tar_kind(b'6'), 0o640, b"", |_| {})
        .entry("device", tar_kind(b'3'), 0o600, b"", |header| {
            header.set_device_major(1).and_then(|()| header.set_device_minor(5)).expect("numbers that fit");
        })
        .file("many/first", 0o644, b"linked")
        .hard_link("many/second", "many/first")
        .symlink("many/dangling", "/no/such\u{e9}")
        .file(&long, 0o644, b"")
        .file("big", 0o644, &big)
        .dir("sticky", 0o1777);
    for number in 0..3000 {
        layer = layer.file(&format!("crowd/{number:05}"), 0o644, number.to_string().as_bytes());
    }
    let script = "stat -c '%a %u %g %Y' setuid; stat -c '%F %a' fifo; stat -c '%F %t:%T' device; stat -c %h many/first; cat many/second;
                  readlink many/dangling; find . -maxdepth 1 -name 'nnn*' | wc -c; sha256sum big; stat -c %a sticky; ls crowd | wc -l;
                  cat crowd/00000 crowd/01234 crowd/02999; ls crowd/09999 2>&1 | grep -c 'No such'";
    let ran = run(&image(dir.path(), vec![layer], script)?)?;
    let hash: String =
        <sha2::Sha256 as sha2::Digest>::digest(&big).iter().map(|byte| format!("{byte:02x}")).collect();
    ran.gives(&format!(
        "4755 1234 70000 981173106\nfifo 640\ncharacter special file 1:5\n2\nlinked/no/such\u{e9}\n258\n{hash}  big\n1777\n3000\n012342999{}",
        "1\n"
    ))
}

fn tar_kind(byte: u8) -> tar::EntryType {
    tar::EntryType::new(byte)
}

/// More layers than a VM has room for disks, and than docker has layers (127), with one standing in the image three times.
fn many_layers_and_repeated_ones() -> Result<()> {
    let dir = temporary()?;
    let same = || Tar::new().file("same", 0o644, b"same");
    let mut layers = vec![same()];
    for number in 0..137 {
        layers.push(Tar::new().file(&format!("layers/{number}"), 0o644, b"x").file(
            "last",
            0o644,
            number.to_string().as_bytes(),
        ));
    }
    layers.insert(30, Tar::new().whiteout("same"));
    layers.insert(40, same());
    layers.push(same());
    run(&image(dir.path(), layers, "ls layers | wc -l; cat last same")?)?.gives("137\n136same")
}

/// A layer that only has a file in a directory says nothing of the directory.
fn implied_directories() -> Result<()> {
    let dir = temporary()?;
    let below = Tar::new().dir("tmp", 0o1777).dir("usr/lib", 0o711).symlink("lib", "usr/lib");
    let above = Tar::new().file("tmp/x", 0o644, b"").file("lib/x", 0o644, b"by the link\n");
    let script = "stat -c %a /tmp /usr/lib; readlink /lib; cat /usr/lib/x";
    run(&image(dir.path(), vec![below, above], script)?)?.gives("1777\n711\nusr/lib\nby the link\n")
}

/// `/` is as its topmost layer has it, xattrs, ACLs and time among the rest.
fn root_folder() -> Result<()> {
    let dir = temporary()?;
    // Version 2: user::rwx, user:7:rwx, group::r-x, mask::rwx, other::r-x.
    let acl = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x07\0\x07\0\0\0\x04\0\x05\0\xff\xff\xff\xff\
                \x10\0\x07\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
    // What is mounted on must be there: to make it would be a change.
    let below = ["dev", "etc", "proc", "sys"].into_iter().fold(Tar::new(), |tar, dir| tar.dir(dir, 0o755));
    let above = Tar::new()
        .file("probe", 0o755, &fs::read(probe())?)
        .pax(&[
            ("mtime", b"981173106.5"),
            ("SCHILY.xattr.user.colour", b"red"),
            ("SCHILY.xattr.system.posix_acl_access", acl),
        ])
        .dir("./", 0o775);
    let options = image(dir.path(), vec![below, above], "/probe tree / 2>/dev/null | head -n 1")?;
    let line = run(&options)?.out();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for part in ["\t0775\t0:0\t981173106.500000000\t", &hex(b"red"), &hex(acl)] {
        ensure!(line.contains(part), "{part:?} is not in {line:?}");
    }
    Ok(())
}

/// Layer disks that others have made as ext4 work, too: tether looks at the superblock.
fn ext4_layer_disk() -> Result<()> {
    let dir = temporary()?;
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("bin"))?;
    fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", tree.join("bin/cat"))?;
    let uuid = protocol::Uuid::from_bytes([0x5e; 16]);
    let disk = dir.path().join("layer.ext4");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-U", &uuid.to_string(), "-d"])
        .args([&tree, &disk])
        .arg("8M")
        .output()
        .context("running mke2fs")?;
    ensure!(made.status.success(), "mke2fs: {}", String::from_utf8_lossy(&made.stderr));
    let mut options = options("", &["/bin/cat", "/proc/mounts"]);
    options.store = Some(store());
    let text = crate::harness::run_with_layers(&options, &[(disk.as_path(), uuid)])?;
    ensure!(text.lines().next().is_some_and(|line| line.starts_with("overlay / overlay rw")), "{text}");
    Ok(())
}

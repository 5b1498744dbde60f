//! Merged disks against Linux: what its EROFS shows of one must be what its overlayfs shows of the layers' own disks.
//!
//! Needs erofs-utils, getfattr, and root with loop devices, EROFS and overlayfs; what is missing is said, and the test skipped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Write, copy};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use image_builder::digest::Digest;
use image_builder::erofs::reader::ReadAt;
use image_builder::source;
use image_builder::store::{ChainDisk, HeldLayer, LayerStore};
use image_builder::testimage::{self, Tar};
use tar::EntryType;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// A layer with whiteouts, opaque directories, hard links, devices, xattrs and changes of kind. Every directory has an entry,
/// for of others overlayfs knows nothing.
fn layer(number: u64, random: &mut Random) -> Tar {
    let stamp = format!("{}.{:09}", number * 1000, number * 111);
    let mut tar = Tar::new().pax(&[("mtime", stamp.as_bytes())]).dir("./", 0o751);
    let mut file = None;
    for dir in ["", "a/", "a/b/", "c/"] {
        if !dir.is_empty() {
            let colour = format!("{number}");
            tar = tar.pax(&[("SCHILY.xattr.user.colour", colour.as_bytes()), ("mtime", stamp.as_bytes())]);
            tar = tar.dir(dir, 0o700 + u32::try_from(random.below(64)).unwrap());
            if random.below(4) == 0 {
                tar = tar.file(&format!("{dir}.wh..wh..opq"), 0, b"");
            }
        }
        for name in ["e", "f", "g", "h", "i"] {
            let path = format!("{dir}{name}");
            let kind = random.below(9);
            if kind == 8 || (kind == 5 && file.is_none()) {
                continue;
            }
            let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
            tar = tar.pax(&[("mtime", stamp.as_bytes()), ("SCHILY.xattr.security.capability", capability)]);
            tar = match kind {
                0 => tar.whiteout(&path),
                1 => tar.symlink(&path, &"t".repeat(1 + usize::try_from(random.below(4090)).unwrap())),
                2 => tar.dir(&path, 0o1777).file(&format!("{path}/in"), 0o600, stamp.as_bytes()),
                3 => tar.entry(&path, EntryType::Fifo, 0o622, b"", |header| header.set_uid(number)),
                4 => tar.entry(&path, EntryType::Char, 0o600, b"", |header| {
                    header.set_device_major(9).and_then(|()| header.set_device_minor(300)).unwrap();
                }),
                5 => tar.hard_link(&path, file.as_deref().unwrap()),
                _ => {
                    let data = stamp.repeat(usize::try_from(random.below(900)).unwrap());
                    file = Some(path.clone());
                    tar.file(&path, 0o4750, data.as_bytes())
                }
            };
        }
    }
    tar
}

/// An image's disks: of each layer, and of all.
fn disks(dir: &Path, layers: Vec<Tar>) -> (Vec<HeldLayer>, ChainDisk) {
    let layers: Vec<_> = layers.into_iter().map(Tar::finish).collect();
    testimage::write(&dir.join("image"), &layers, oci_spec::image::Config::default()).unwrap();
    let image = source::open(dir.join("image").to_str().unwrap(), &source::Options::default()).unwrap();
    let store = LayerStore::open(dir.join("store")).unwrap();
    let disks: Vec<_> = image.layers.iter().map(|layer| store.hold(layer, &mut |_, _| {}).unwrap()).collect();
    let chain = store.chain_disk(&disks).unwrap();
    (disks, chain)
}

/// The merged disk's pieces in one file.
fn concatenate(disk: &ChainDisk, path: &Path) {
    let mut file = File::create(path).unwrap();
    for extent in &disk.extents.0 {
        let mut bytes = vec![0; usize::try_from(extent.length).unwrap()];
        extent.file.read_exact_at(&mut bytes, extent.offset).unwrap();
        file.write_all(&bytes).unwrap();
    }
}

/// Mounts, unmounted with the value.
#[derive(Default)]
struct Mounts(Vec<PathBuf>);

impl Mounts {
    /// Why it cannot be mounted, if so.
    fn add(&mut self, options: &str, kind: &str, what: &Path, at: PathBuf) -> Result<PathBuf, String> {
        fs::create_dir_all(&at).unwrap();
        let output =
            Command::new("mount").args(["-t", kind, "-o", options]).args([what, &at]).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        self.0.push(at.clone());
        Ok(at)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for at in self.0.iter().rev() {
            drop(Command::new("umount").arg(at).status());
        }
    }
}

/// Everything that must agree: attributes and content of each path, and which paths are one file.
fn tree(root: &Path) -> (BTreeMap<PathBuf, String>, Vec<Vec<PathBuf>>, String) {
    let (mut lines, mut files, mut paths) = (BTreeMap::new(), BTreeMap::new(), vec![root.to_owned()]);
    while let Some(path) = paths.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let content = if meta.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if meta.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if meta.is_file() {
            let mut data = Vec::new();
            copy(&mut File::open(&path).unwrap(), &mut data).unwrap();
            Digest::of(&data).to_string()
        } else {
            format!("{:x}", meta.rdev())
        };
        if !meta.is_dir() {
            files.entry((meta.dev(), meta.ino())).or_insert_with(Vec::new).push(name.clone());
        }
        let (mode, mtime) = (meta.mode(), (meta.mtime(), meta.mtime_nsec()));
        lines.insert(
            name,
            format!(
                "{mode:o} {}:{} {} {mtime:?} {content}",
                meta.uid(),
                meta.gid(),
                meta.size() * u64::from(!meta.is_dir())
            ),
        );
    }
    let mut groups: Vec<_> = files.into_values().collect();
    groups.iter_mut().for_each(|group| group.sort());
    groups.sort();
    let xattrs = Command::new("getfattr")
        .args(["-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "."])
        .current_dir(root)
        .output()
        .unwrap();
    let mut xattrs: Vec<_> =
        String::from_utf8(xattrs.stdout).unwrap().split("\n\n").map(str::to_owned).collect();
    xattrs.sort();
    (lines, groups, xattrs.join("\n"))
}

/// Why the comparison cannot be made here, if so.
fn compare(dir: &Path, disks: &[HeldLayer], chain: &ChainDisk) -> Result<(), String> {
    let merged = dir.join("merged.erofs");
    concatenate(chain, &merged);
    let fsck = Command::new("fsck.erofs").arg(&merged).output().map_err(|e| format!("fsck.erofs: {e}"))?;
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stderr));
    Command::new("getfattr").arg("--version").output().map_err(|e| format!("getfattr: {e}"))?;
    let mut mounts = Mounts::default();
    let mut lower = Vec::new();
    for (number, disk) in disks.iter().enumerate() {
        lower.push(
            mounts
                .add("ro,loop", "erofs", &disk.disk.path, dir.join(number.to_string()))?
                .display()
                .to_string(),
        );
    }
    lower.reverse();
    let options = format!("ro,lowerdir={}", lower.join(":"));
    let theirs = tree(&mounts.add(&options, "overlay", Path::new("overlay"), dir.join("theirs"))?);
    let ours = tree(&mounts.add("ro,loop", "erofs", &merged, dir.join("ours"))?);
    assert_eq!(ours.0, theirs.0);
    assert_eq!(ours.1, theirs.1);
    assert_eq!(ours.2, theirs.2);
    assert!(ours.2.contains("user.colour") && ours.2.contains("security.capability"), "{}", ours.2);
    Ok(())
}

#[test]
fn merged_disks_equal_overlayfs() {
    let mut random = Random(7);
    for _ in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let count = 2 + random.below(8);
        let layers = (1..=count).map(|number| layer(number, &mut random)).collect();
        let (disks, chain) = disks(dir.path(), layers);
        if let Err(why) = compare(dir.path(), &disks, &chain) {
            println!("skipped: {why}");
            return;
        }
    }
}

/// QEMU reads the descriptor as it is meant.
#[test]
fn qemu_puts_the_pieces_together() {
    let dir = tempfile::tempdir().unwrap();
    let layers = (0..5).map(|number| Tar::new().file(&number.to_string(), 0o644, &[number; 10_000]));
    let (_, chain) = disks(dir.path(), layers.collect());
    let name =
        |file: &File| fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)));
    let text = chain.extents.vmdk(|extent| name(&extent.file).unwrap().display().to_string()).unwrap();
    let [descriptor, theirs, ours] = ["disk.vmdk", "theirs", "ours"].map(|name| dir.path().join(name));
    fs::write(&descriptor, text).unwrap();
    let convert = Command::new("qemu-img")
        .args(["convert", "-f", "vmdk", "-O", "raw"])
        .args([&descriptor, &theirs])
        .output();
    let Ok(convert) = convert else {
        println!("skipped: qemu-img is not installed");
        return;
    };
    assert!(convert.status.success(), "{}", String::from_utf8_lossy(&convert.stderr));
    concatenate(&chain, &ours);
    assert!(fs::read(theirs).unwrap() == fs::read(ours).unwrap());
}

//! The store with good, damaged and lying layers.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::digest::Digest;
use crate::image::Layer;
use crate::source::BlobFile;
use crate::testimage::{self, Tar};
use crate::verity;

struct Fixture {
    dir: TempDir,
    store: LayerStore,
    layer: Layer,
}

/// A store, and a layer whose blob is `blob`, truly described but for its diffID, which is that of `tar`.
fn fixture(tar: &[u8], blob: &[u8]) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blob");
    fs::write(&path, blob).unwrap();
    let layer = Layer {
        diff_id: Digest::of(tar),
        digest: Some(Digest::of(blob)),
        size: Some(blob.len() as u64),
        blob: Arc::new(BlobFile(path)),
    };
    Fixture { store: LayerStore::open(dir.path().join("store")).unwrap(), dir, layer }
}

fn tar() -> Vec<u8> {
    Tar::new().file("f", 0o644, &[7; 100_000]).finish()
}

impl Fixture {
    fn blob(&self) -> PathBuf {
        self.dir.path().join("blob")
    }

    fn build(&self) -> Result<LayerDisk> {
        self.store.layer_disk(&self.layer, &mut |_, _| {})
    }

    /// The error's text; nothing may be in the store after it.
    fn error(&self) -> String {
        let message = format!("{:#}", self.build().expect_err("must be refused"));
        assert_eq!(fs::read_dir(self.dir.path().join("store/layers/sha256")).unwrap().count(), 0);
        assert!(message.starts_with(&format!("layer {}", self.layer.diff_id)), "{message}");
        message
    }
}

#[test]
fn builds_once_and_reuses() {
    let it = fixture(&tar(), &testimage::gzip(&tar()));
    let mut seen = Vec::new();
    let disk = it.store.layer_disk(&it.layer, &mut |done, total| seen.push((done, total))).unwrap();
    assert_eq!(seen.last(), Some(&(it.layer.size.unwrap(), it.layer.size)));
    assert_eq!(
        disk.path,
        it.dir.path().join(format!("store/layers/sha256/{}.erofs", it.layer.diff_id.hex()))
    );
    assert_eq!(disk.length, fs::metadata(&disk.path).unwrap().len());
    assert_eq!(disk.uuid, it.layer.diff_id.uuid());
    let file = File::open(&disk.path).unwrap();
    assert_eq!(verity::check(&file, &disk.verity.root_hash).unwrap(), None);
    let inode = fs::metadata(&disk.path).unwrap().ino();
    fs::remove_file(it.blob()).unwrap();
    assert_eq!(it.build().unwrap(), disk);
    assert_eq!(fs::metadata(&disk.path).unwrap().ino(), inode);
}

#[test]
fn a_damaged_disk_is_made_anew() {
    let it = fixture(&tar(), &testimage::gzip(&tar()));
    let disk = it.build().unwrap();
    let good = fs::read(&disk.path).unwrap();
    let mut flipped = good.clone();
    flipped[1024 + 50] ^= 1;
    let data = usize::try_from(disk.verity.geometry.data_blocks()).unwrap() * 4096;
    let mut other_tree = good.clone();
    other_tree[data + 16] ^= 1;
    // The filesystem alone is what this program made before there were hash trees.
    for damaged in [&good[..4096], &good[..data], &good[..good.len() - 1], &b""[..], &flipped, &other_tree] {
        fs::remove_file(&disk.path).unwrap();
        fs::write(&disk.path, damaged).unwrap();
        assert_eq!(it.build().unwrap(), disk);
        assert_eq!(fs::read(&disk.path).unwrap(), good);
    }
}

#[test]
fn however_the_tar_is_compressed_it_gives_the_same_disk() {
    let (head, tail) = (tar()[..1000].to_vec(), tar()[1000..].to_vec());
    let members = [testimage::gzip(&head), testimage::gzip(&tail)].concat();
    let mut disks = Vec::new();
    let frames = [zstd::encode_all(&head[..], 3).unwrap(), zstd::encode_all(&tail[..], 19).unwrap()].concat();
    for blob in [testimage::gzip(&tar()), members, frames, tar()] {
        disks.push(fs::read(fixture(&tar(), &blob).build().unwrap().path).unwrap());
    }
    assert!(disks.iter().all(|disk| *disk == disks[0]));
}

#[test]
fn what_follows_the_archives_end_mark_counts_for_the_digest_only() {
    let long = [tar(), vec![b'x'; 3_000_000]].concat();
    fixture(&long, &testimage::gzip(&long)).build().unwrap();
}

#[test]
fn lying_and_damaged_blobs_leave_nothing() {
    let gzip = testimage::gzip(&tar());
    let other = Digest::of(b"other");

    let mut it = fixture(&tar(), &gzip);
    it.layer.digest = Some(other);
    let message = it.error();
    assert!(message.contains(&format!("expected {other}, found {}", Digest::of(&gzip))), "{message}");

    it = fixture(b"other", &gzip);
    let message = it.error();
    assert!(message.contains(&format!("expected diffID {other}, found {}", Digest::of(&tar()))), "{message}");

    for size in [0, gzip.len() as u64 - 1, gzip.len() as u64 + 1] {
        it = fixture(&tar(), &gzip);
        it.layer.size = Some(size);
        let message = it.error();
        assert!(message.contains(&format!("the manifest says {size}")), "{message}");
    }

    let zstd = zstd::encode_all(&tar()[..], 3).unwrap();
    let trailing = [&gzip[..], b"trailing"].concat();
    for broken in [&gzip[..gzip.len() / 2], &gzip[..5], &trailing, &zstd[..zstd.len() - 1], b"\xfd7zXZ\0"] {
        let message = fixture(&tar(), broken).error();
        assert!(message.contains("cannot inflate its blob: "), "{message}");
    }

    it = fixture(&tar()[..900], &testimage::gzip(&tar()[..900]));
    let message = it.error();
    assert!(message.contains("tar entry \"f\"") && message.contains("short of the file's end"), "{message}");
}

#[test]
fn a_missing_blob_is_named() {
    let it = fixture(&tar(), b"");
    fs::remove_file(it.blob()).unwrap();
    assert!(it.error().contains("cannot open "));
}

#[test]
fn many_at_once_all_succeed() {
    let it = fixture(&tar(), &testimage::gzip(&tar()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| it.build().unwrap());
        }
    });
    assert_eq!(fs::read_dir(it.dir.path().join("store/layers/sha256")).unwrap().count(), 2);
}

#[test]
fn disk_and_recipe_give_the_tar_stream_back() {
    let noise: Vec<u8> =
        (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    let mixed = Tar::new()
        .dir("d", 0o755)
        .file("d/twice", 0o644, &noise)
        .file("d/twice", 0o644, &noise[..5000])
        .file("d/.wh.gone", 0o644, b"data of a whiteout, which no disk has")
        .file(".wh..wh.aufs", 0o644, &noise[..600])
        .pax(&[("mtime", b"1700000000.5"), ("SCHILY.xattr.user.a", &noise[..1000].to_ascii_lowercase())])
        .file("d/empty", 0o600, b"")
        .hard_link("d/hard", "d/twice")
        .symlink(&"long/".repeat(60), &"target/".repeat(60))
        .finish();
    // PAX 1.0: 3 blocks' worth of a file of 3,000,000 bytes, whose map stands before its data.
    let mut sparse = b"1\n1000000\n1500\n".to_vec();
    sparse.resize(512, 0);
    sparse.extend_from_slice(&noise[..1500]);
    let sparse = Tar::new()
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"3000000")])
        .file("sparse", 0o644, &sparse)
        .file("after", 0o644, &noise)
        .finish();
    let trailing = [mixed.clone(), vec![0; 1_000_000], noise].concat();
    for tar in [Tar::new().finish(), Vec::new(), tar(), mixed, sparse, trailing] {
        let it = fixture(&tar, &testimage::gzip(&tar));
        let mut rebuilt = Vec::new();
        it.store.hold(&it.layer, &mut |_, _| {}).unwrap().write_tar(&mut rebuilt).unwrap();
        assert!(rebuilt == tar, "{} bytes", tar.len());
    }
}

#[test]
fn a_damaged_recipe_is_an_error_and_no_panic() {
    let it = fixture(&tar(), &testimage::gzip(&tar()));
    let disk = it.build().unwrap().path;
    let good = fs::read(disk.with_extension("tarsplit")).unwrap();
    let disk = File::open(disk).unwrap();
    let rebuild = |recipe: &[u8]| {
        let mut out = Vec::new();
        recipe::rebuild(recipe, &disk, &mut out).map(|()| out)
    };
    assert!(rebuild(&good).unwrap() == tar());
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 0x41;
        drop(rebuild(&flipped)); // what comes out, if anything does, is for the digest to judge
        // The last bytes are LZ4's end mark.
        assert!(at + 8 > good.len() || rebuild(&good[..at]).map_or(true, |out| out != tar()), "cut at {at}");
    }
}

#[test]
fn ext4_stands_beside_erofs() {
    let it = fixture(&tar(), &testimage::gzip(&tar()));
    let layer = it.store.hold(&it.layer, &mut |_, _| {}).unwrap();
    let erofs = &layer.disk;
    let build = || it.store.layer_disk_as(&layer, LayerFs::Ext4).unwrap();
    let disk = build();
    assert_eq!(disk.path, erofs.path.with_extension("ext4"));
    assert_eq!((disk.uuid, disk.diff_id), (erofs.uuid, erofs.diff_id));
    let bytes = fs::read(&disk.path).unwrap();
    assert_eq!(disk.length, bytes.len() as u64);
    assert_eq!(verity::check(&File::open(&disk.path).unwrap(), &disk.verity.root_hash).unwrap(), None);
    let inode = || fs::metadata(&disk.path).unwrap().ino();
    let first = inode();
    assert_eq!((build(), inode()), (disk.clone(), first), "the disk in the store is used");
    for damaged in [&bytes[..bytes.len() - 4096], b"", &fs::read(&erofs.path).unwrap()] {
        fs::remove_file(&disk.path).unwrap();
        fs::write(&disk.path, damaged).unwrap();
        assert_eq!(build(), disk);
        assert!(fs::read(&disk.path).unwrap() == bytes);
    }
}

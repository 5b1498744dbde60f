//! Chains in the store. What is on their disks is tested with [`crate::erofs::merge`].

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::source;
use crate::testimage::{self, Tar};

/// A store, and the disks of an image with these layers.
fn store(dir: &Path, layers: Vec<Tar>) -> (LayerStore, Vec<HeldLayer>) {
    let layers: Vec<_> = layers.into_iter().map(Tar::finish).collect();
    testimage::write(&dir.join("image"), &layers, oci_spec::image::Config::default()).unwrap();
    let image = source::open(dir.join("image").to_str().unwrap(), &source::Options::default()).unwrap();
    let store = LayerStore::open(dir.join("store")).unwrap();
    let disks = image.layers.iter().map(|layer| store.hold(layer, &mut |_, _| {}).unwrap()).collect();
    (store, disks)
}

fn file(name: &str, text: &str) -> Tar {
    Tar::new().file(name, 0o644, text.as_bytes())
}

fn read(disk: &ChainDisk, path: &str) -> String {
    let reader = Reader::open(&disk.extents).unwrap();
    assert_eq!(reader.superblock().uuid, disk.uuid);
    assert_eq!(reader.superblock().length(), disk.extents.length());
    let file = reader.find(path.as_bytes()).unwrap().unwrap();
    io::read_to_string(reader.data(&file).unwrap()).unwrap()
}

/// By sha256sum(1), from the definition in config.md.
#[test]
fn chain_ids() {
    let ids = [b"a", b"b", b"c"].map(|text| Digest::of(text));
    assert_eq!(chain_id([]), None);
    assert_eq!(chain_id([ids[0]]), Some(ids[0]));
    let three = "sha256:2fce7f8ce91bcf0a1428b36e1024639fdbd9469eea762dba98aa749631885106";
    assert_eq!(chain_id(ids).unwrap().to_string(), three);
}

#[test]
fn made_once_and_anew_for_other_disks() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut disks) = store(dir.path(), vec![file("a", "1"), file("b", "2"), file("a", "3")]);
    let disk = store.chain_disk(&disks).unwrap();
    assert_eq!((read(&disk, "a"), read(&disk, "b")), ("3".to_owned(), "2".to_owned()));
    let inode = |disk: &ChainDisk| disk.extents.0[0].file.metadata().unwrap().ino();
    assert_eq!(inode(&store.chain_disk(&disks).unwrap()), inode(&disk));

    disks[1].disk.verity.root_hash = Digest::of(b"another disk of the same layer");
    let again = store.chain_disk(&disks).unwrap();
    assert_ne!(inode(&again), inode(&disk));
    assert_eq!(read(&again, "a"), "3");

    let path = store.folder.chains().join(format!("{}.erofs", disk.chain_id.hex()));
    fs::remove_file(&path).unwrap();
    fs::write(&path, [0; 8192]).unwrap();
    assert_eq!(read(&store.chain_disk(&disks).unwrap(), "a"), "3", "rubbish is replaced");
}

#[test]
fn a_single_layer_is_its_own_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (store, disks) = store(dir.path(), vec![file("a", "1")]);
    let disk = store.chain_disk(&disks).unwrap();
    assert_eq!((read(&disk, "a"), disk.uuid), ("1".to_owned(), disks[0].disk.uuid));
    assert_eq!(fs::read_dir(store.folder.chains()).unwrap().count(), 0);
    assert!(format!("{:#}", store.chain_disk(&[]).unwrap_err()).contains("no layers"));
}

#[test]
fn pruned_chains_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, disks) = store(dir.path(), vec![file("a", "1"), file("b", "2"), file("c", "3")]);
    let [three, two] = [&disks[..], &disks[..2]].map(|disks| store.chain_disk(disks).unwrap());
    fs::write(store.folder.chains().join(".pending-x"), "being written").unwrap();
    assert!(store.prune_chains(&HashSet::from([two.chain_id])).unwrap() >= 4096);
    assert_eq!(fs::read_dir(store.folder.chains()).unwrap().count(), 2);
    assert_eq!(read(&three, "c"), "3", "who has it open keeps it");
    assert_eq!(read(&store.chain_disk(&disks).unwrap(), "c"), "3");
}

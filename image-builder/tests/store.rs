//! The store as its users see it: images come, are listed, shared, named, checked, given back, and go.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use image_builder::image::Image;
use image_builder::source::{self, Options};
use image_builder::store::{ImageStore, LayerFs, Removed, StoredImage};
use image_builder::testimage::{self, Tar};
use oci_spec::image::ConfigBuilder;
use tempfile::TempDir;

struct Fixture {
    dir: TempDir,
    store: ImageStore,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: ImageStore::open(dir.path().join("store")).unwrap(), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An image of these layers, each a file of that name.
    fn image(&self, layers: &[&str]) -> Image {
        let path = self.path(&layers.join("-"));
        let layer = |name: &&str| Tar::new().file(name, 0o644, name.repeat(5000).as_bytes()).finish();
        let config = ConfigBuilder::default().cmd(vec![layers.join(" ")]).build().unwrap();
        testimage::write(&path, &layers.iter().map(layer).collect::<Vec<_>>(), config).unwrap();
        source::open(path.to_str().unwrap(), &Options::default()).unwrap()
    }

    fn pull(&self, image: &Image, name: &str) -> StoredImage {
        let name = if name.is_empty() { None } else { Some(name.parse().unwrap()) };
        self.store.pull(image, name.as_ref(), &mut |_| {}).unwrap().0
    }

    /// Names of all files of the store but version and lock, sorted.
    fn files(&self) -> Vec<String> {
        let mut found = vec![];
        for dir in ["names", "images/sha256", "layers/sha256", "chains/sha256"] {
            let entries = fs::read_dir(self.path("store").join(dir)).unwrap();
            found.extend(entries.map(|e| format!("{dir}/{}", e.unwrap().file_name().display())));
        }
        found.sort();
        found
    }
}

fn names(removed: &Removed) -> Vec<String> {
    removed.names.iter().map(|name| name.familiar()).collect()
}

#[test]
fn removing_frees_only_what_no_other_image_uses() {
    let it = Fixture::new();
    let one = it.pull(&it.image(&["base", "one"]), "one");
    let both = it.files();
    let two = it.pull(&it.image(&["base", "two"]), "two");
    it.store.tag(&two.id, &"two:also".parse().unwrap()).unwrap();

    let removed = it.store.remove("two:also", false).unwrap();
    assert_eq!((names(&removed), removed.images.len()), (vec!["two:also".to_owned()], 0));
    let removed = it.store.remove("two", false).unwrap();
    assert_eq!((names(&removed), &removed.images[..]), (vec!["two:latest".to_owned()], &[two.id][..]));
    assert_eq!(removed.layers, [two.record.layers[1].diff_id]);
    assert!(removed.bytes > 0);
    assert_eq!(it.files(), both);
    one.layers(&it.store).unwrap();
    it.store.remove(&one.id.hex()[..12], false).unwrap();
    assert_eq!(it.files(), [""; 0]);
}

#[test]
fn found_by_name_id_and_digest() {
    let it = Fixture::new();
    let local = it.image(&["a"]);
    let image = Image { registry_digest: local.manifest_digest, ..local };
    let a = it.pull(&image, "localhost:5000/x/y:1");
    let b = it.pull(&it.image(&["b"]), "b");
    let found = |text: &str| it.store.find(text).unwrap().map(|image| image.id);
    let by_digest = format!("localhost:5000/x/y@{}", image.manifest_digest.unwrap());
    for text in ["localhost:5000/x/y:1", &a.id.hex(), &a.id.to_string(), &a.id.hex()[..5], &by_digest] {
        assert_eq!(found(text), Some(a.id), "{text}");
    }
    assert_eq!(found("docker.io/library/b:latest"), Some(b.id));
    // Removed by its digest, a tag stays if the digest has a record of its own.
    it.pull(&image, &by_digest);
    assert_eq!(names(&it.store.remove(&by_digest, false).unwrap()), [&*by_digest]);
    assert_eq!(found(&by_digest), Some(a.id));
    for text in ["localhost:5000/x/y", "x", "", "sha256:", "UPPER", "../b", &"0".repeat(65)] {
        assert_eq!(found(text), None, "{text}");
    }
    // As many images as it takes for two IDs to begin with the same digit.
    let ids: Vec<_> = (0..17).map(|i| it.pull(&it.image(&[&format!("i{i}")]), "").id.hex()).collect();
    let first = ids.iter().map(|id| &id[..1]).find(|c| ids.iter().filter(|i| i.starts_with(c)).count() > 1);
    // A digit alone is a name, too, but nobody has it.
    let message = format!("{:#}", it.store.find(first.unwrap()).unwrap_err());
    assert!(message.contains("several images"), "{message}");
    assert!(it.store.remove(first.unwrap(), false).is_err());
    assert!(it.store.remove("nothing", false).unwrap_err().to_string().contains("no image \"nothing\""));
}

#[test]
fn a_name_moves_and_an_id_with_many_repositories_needs_force() {
    let it = Fixture::new();
    let old = it.pull(&it.image(&["old"]), "app");
    let new = it.pull(&it.image(&["new"]), "app");
    assert_eq!(it.store.find("app").unwrap().unwrap().id, new.id);
    assert!(it.store.image(&old.id).unwrap().unwrap().names.is_empty());
    it.store.tag(&new.id, &"other/app".parse().unwrap()).unwrap();
    let message = it.store.remove(&new.id.to_string(), false).unwrap_err().to_string();
    assert!(message.contains("several repositories (app:latest, other/app:latest)"), "{message}");
    assert_eq!(names(&it.store.remove(&new.id.to_string(), true).unwrap()).len(), 2);
    assert_eq!(it.store.prune(false).unwrap().images, [old.id]);
    assert_eq!(it.files(), [""; 0]);
}

#[test]
fn prune_takes_unnamed_images_and_rubbish_but_nothing_that_is_held() {
    let it = Fixture::new();
    it.pull(&it.image(&["named"]), "named");
    let kept = it.files();
    let (held, layers) = it.store.pull(&it.image(&["held"]), None, &mut |_| {}).unwrap();
    let gone = it.pull(&it.image(&["gone"]), "");
    let layers_dir = it.path("store/layers/sha256");
    fs::write(layers_dir.join(".pending-dead"), "half a disk").unwrap();
    fs::write(layers_dir.join(format!("{}.tarsplit", "0".repeat(64))), "a recipe without a disk").unwrap();
    fs::copy(
        layers[0].disk.path.as_path(),
        it.path(&format!("store/chains/sha256/{}.erofs", "1".repeat(64))),
    )
    .unwrap();

    let removed = it.store.prune(false).unwrap();
    assert_eq!(
        (&removed.images[..], &removed.layers[..]),
        (&[gone.id][..], &[gone.record.layers[0].diff_id][..])
    );
    assert_eq!(it.files().len(), kept.len() + 3);
    // Forced, the image goes; what a pull or a VM holds stays until it lets go.
    assert_eq!(it.store.remove(&held.id.to_string(), false).unwrap().held, [held.record.layers[0].diff_id]);
    assert_eq!(it.store.prune(false).unwrap().layers, []);
    drop(layers);
    assert_eq!(it.store.prune(false).unwrap().layers.len(), 1);
    assert_eq!(it.files(), kept);
    assert_eq!(names(&it.store.prune(true).unwrap()), ["named:latest"]);
    assert_eq!(it.files(), [""; 0]);
}

#[test]
fn what_is_exported_is_the_same_image() {
    let it = Fixture::new();
    let image = it.image(&["one", "two", "one"]);
    let stored = it.pull(&image, "app:1");
    it.store.export_dir(&stored, &it.path("layout")).unwrap();
    let again = source::open(&format!("{}:1", it.path("layout").display()), &Options::default()).unwrap();
    assert_eq!(again.id(), image.id());
    let ids = |image: &Image| image.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&image));

    let mut archive = vec![];
    it.store.export_tar(&stored, &mut archive).unwrap();
    // Always the same bytes; chance would not give them eight times.
    for _ in 0..8 {
        let mut again = vec![];
        it.store.export_tar(&stored, &mut again).unwrap();
        assert!(again == archive);
    }
    let unpacked = it.path("unpacked");
    tar::Archive::new(&archive[..]).unpack(&unpacked).unwrap();
    let again = source::open(unpacked.to_str().unwrap(), &Options::default()).unwrap();
    assert_eq!((again.id(), ids(&again)), (image.id(), ids(&image)));

    // From what is exported, other stores make the same disks.
    let other = ImageStore::open(it.path("other")).unwrap();
    let (other, _) = other.pull(&again, None, &mut |_| {}).unwrap();
    let roots = |image: &StoredImage| image.record.layers.iter().map(|it| it.root_hash).collect::<Vec<_>>();
    assert_eq!(roots(&other), roots(&stored));
    assert!(it.store.export_dir(&stored, &it.path("layout")).is_err(), "a folder that has something in it");
}

/// A folder without a lock is of an export that was killed; one with is of another that goes on.
#[test]
fn an_export_clears_away_what_killed_ones_left() {
    let it = Fixture::new();
    let stored = it.pull(&it.image(&["a"]), "a");
    let [dead, alive, file] =
        ["dead", "alive", "file"].map(|name| it.path(&format!(".image-builder-export-{name}")));
    fs::create_dir_all(dead.join("blobs/sha256")).unwrap();
    fs::create_dir(&alive).unwrap();
    fs::write(&file, "no folder").unwrap();
    let lock = fs::File::open(&alive).unwrap();
    lock.lock().unwrap();
    it.store.export_dir(&stored, &it.path("out")).unwrap();
    assert_eq!([dead, alive, file].map(|path| path.exists()), [false, true, true]);
    let left = fs::read_dir(it.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.filter(|name| name.as_encoded_bytes().starts_with(b".image")).count(), 2);
    drop(lock);
}

#[test]
fn all_images_of_an_archive_with_their_names() {
    let it = Fixture::new();
    let (a, b) = (it.image(&["base", "a"]), it.image(&["base", "b"]));
    let a_stored = it.pull(&a, "a:1");
    it.store.tag(&a_stored.id, &"localhost:5000/other/a".parse().unwrap()).unwrap();
    let opened = |path: &Path| source::open_all(path.to_str().unwrap(), &Options::default()).unwrap();

    let archive = it.path("a.tar");
    it.store
        .export_tar(&it.store.find("a:1").unwrap().unwrap(), &mut fs::File::create(&archive).unwrap())
        .unwrap();
    let found = opened(&archive);
    let names: Vec<_> = found.iter().flat_map(|(names, _)| names).map(|name| name.familiar()).collect();
    assert_eq!(names, ["a:1", "localhost:5000/other/a:latest"]);
    assert!(found.iter().all(|(_, image)| image.id() == a.id()));

    // Two in one layout: one whose name is a tag alone, and so none; one that has a full name.
    let layout = it.path("base-a");
    let other = it.path("base-b");
    for blob in fs::read_dir(other.join("blobs/sha256")).unwrap().map(Result::unwrap) {
        fs::copy(blob.path(), layout.join("blobs/sha256").join(blob.file_name())).unwrap();
    }
    let read = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap()
    };
    let (mut index, mut second) = (read(&layout), read(&other)["manifests"][0].clone());
    second["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "quay.io/b:2" });
    index["manifests"].as_array_mut().unwrap().push(second);
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let mut found: Vec<_> = opened(&layout)
        .into_iter()
        .map(|(names, image)| (image.id(), names.iter().map(ToString::to_string).collect::<Vec<_>>()))
        .collect();
    found.sort_by_key(|(_, names)| names.len());
    assert_eq!(found, [(a.id(), vec![]), (b.id(), vec!["quay.io/b:2".to_owned()])]);
}

/// A bit of every part of disk and recipe.
#[test]
fn verify_finds_every_damage_and_the_next_pull_mends_it() {
    let it = Fixture::new();
    let image = it.image(&["a"]);
    let stored = it.pull(&image, "a");
    let layer = &stored.record.layers[0];
    let verify = || it.store.verify_layer(&layer.diff_id, Some(&layer.root_hash));
    verify().unwrap();
    let disk = stored.layers(&it.store).unwrap().remove(0).disk;
    let data_blocks = usize::try_from(disk.verity.geometry.data_blocks()).unwrap();
    let ext4 = || {
        let held = it.store.layers().get(&layer.diff_id).unwrap().unwrap();
        it.store.layers().layer_disk_as(&held, LayerFs::Ext4).unwrap().path
    };
    for (path, places) in [
        (
            disk.path.clone(),
            vec![1030, 4096, 4096 * (data_blocks - 1) + 70, 4096 * data_blocks + 16, usize::MAX],
        ),
        (disk.path.with_extension("tarsplit"), vec![0, 40, usize::MAX]),
        (ext4(), vec![100_000, usize::MAX]),
    ] {
        for at in places {
            ext4();
            let mut bytes = fs::read(&path).unwrap();
            let at = at.min(bytes.len() - 9);
            bytes[at] ^= 1;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(&path, bytes).unwrap();
            let message = format!("{:#}", verify().expect_err("one bit"));
            assert!(message.contains(&layer.diff_id.to_string()), "{message}");
            it.store.discard_layer(&layer.diff_id).unwrap();
            let message = format!("{:#}", stored.layers(&it.store).unwrap_err());
            assert!(message.contains("missing") && message.contains("a:latest"), "{message}");
            it.pull(&image, "a");
            verify().unwrap();
        }
    }
    assert_eq!(it.store.layer_ids().unwrap(), [layer.diff_id]);
}

#[test]
fn a_store_that_cannot_be_written_to_can_be_read() {
    let it = Fixture::new();
    let stored = it.pull(&it.image(&["a"]), "a");
    fs::remove_file(it.path("store/lock")).unwrap(); // reading must not need it
    let store = ImageStore::open(it.path("store")).unwrap();
    let found = store.find("a").unwrap().unwrap();
    assert_eq!(found.id, stored.id);
    found.layers(&store).unwrap();
    store.verify_layer(&stored.record.layers[0].diff_id, None).unwrap();
    store.export_dir(&found, &it.path("out")).unwrap();
    assert!(!it.path("store/lock").exists(), "nothing was written");
}

#[test]
fn other_versions_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("version"), "2\n").unwrap();
    let message = format!("{:#}", ImageStore::open(dir.path()).unwrap_err());
    assert!(message.contains("of version \"2\", this program knows 1"), "{message}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(ImageStore::open(file.path()).is_err());
    assert!(ImageStore::open(Path::new("/proc/store")).is_err());
}

#[test]
fn a_layer_over_the_bound_is_refused() {
    let it = Fixture::new();
    let store = it.store.clone().with_max_size(8192);
    let message = format!("{:#}", store.pull(&it.image(&["large"]), None, &mut |_| {}).unwrap_err());
    assert!(message.contains("its bound of 8192 bytes"), "{message}");
    assert_eq!(it.files(), [""; 0]);
}

/// A disk that was changed together with its hash tree is whole by itself, but not the one that the image was made with.
#[test]
fn a_disk_with_another_root_hash_is_not_run() {
    let fixture = Fixture::new();
    let image = fixture.image(&["a"]);
    let stored = fixture.pull(&image, "");
    let path = fixture.store.layers().path(&image.layers[0].diff_id);
    let mut disk = fs::read(&path).unwrap();
    disk.truncate(disk.len() - 2 * 4096);
    *disk.iter_mut().rfind(|byte| **byte == b'a').unwrap() = b'b';
    let file = tempfile::NamedTempFile::new_in(fixture.dir.path()).unwrap();
    fs::write(file.path(), &disk).unwrap();
    let uuid = image.layers[0].diff_id.uuid();
    image_builder::verity::append(file.as_file(), disk.len() as u64, uuid).unwrap();
    file.persist(&path).unwrap();
    assert!(fixture.store.layers().get(&image.layers[0].diff_id).unwrap().is_some(), "whole by itself");

    let error = format!("{:#}", stored.layers(&fixture.store).unwrap_err());
    assert!(error.contains("another root hash") && error.contains("pull the image again"), "{error}");
    fixture.pull(&image, "");
    assert_eq!(stored.layers(&fixture.store).unwrap().len(), 1);
}

/// A gzip bomb of zeros is a large layer, and takes no room but for its hash tree.
#[test]
fn zeros_take_no_room() {
    let fixture = Fixture::new();
    let tar = Tar::new().file("zeros", 0o644, &vec![0; 64 << 20]).file("end", 0o644, b"x").finish();
    testimage::write(&fixture.path("image"), &[tar], ConfigBuilder::default().build().unwrap()).unwrap();
    let image = source::open(fixture.path("image").to_str().unwrap(), &Options::default()).unwrap();
    let disk = fixture.store.layers().layer_disk(&image.layers[0], &mut |_, _| {}).unwrap();
    let file = fs::metadata(&disk.path).unwrap();
    assert!(file.len() > 64 << 20);
    assert!(file.blocks() * 512 < 2 << 20, "{} blocks", file.blocks());
}

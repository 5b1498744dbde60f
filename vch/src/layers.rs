//! An image's layers as disks, opened: all merged into one, or each by itself.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use anyhow::{Context, Error, Result, bail, ensure};
use image_builder::extents::{Extent, Extents};
use image_builder::store::{HeldLayer, LayerFs, LayerStore};
use image_builder::verity;
use protocol::{RootHash, Uuid, Verity};

/// The most disks of layers: the guest's kernel finds no more than some 102 (two interrupt vectors for each).
const MOST_DISKS: usize = 100;

/// A read-only disk of one layer or of many merged, open for reading.
#[derive(Debug)]
pub struct OpenLayer {
    /// What the guest finds it by.
    pub uuid: Uuid,
    /// The disk.
    pub disk: Extents,
    /// What it is for people: the layer's place and diffID, the disk's path.
    pub name: String,
    /// Its hash tree, if it has one.
    pub verity: Option<verity::Info>,
    /// Layers' own disks that `disk` has nothing of: the store's locks are on them.
    pub held: Vec<File>,
}

/// Opens the disks of an image's `layers`, each of which stands there once, the lowest first: merged into one; or one by one,
/// where each is to be `checked` by its own hash tree or has the filesystem ext4. The layers stay in the store as long as
/// the disks are open, here or in QEMU.
///
/// # Errors
/// The store's, with the layer's name; more disks than a guest has room for.
pub fn open(
    store: &LayerStore,
    layers: Vec<HeldLayer>,
    fs: LayerFs,
    checked: bool,
) -> Result<Vec<OpenLayer>> {
    ensure!(!layers.is_empty(), "the image has no layers: there is nothing in it to run");
    if fs == LayerFs::Erofs && !checked {
        return Ok(vec![OpenLayer::merged(store, layers)?]);
    }
    let count = layers.len();
    if count > MOST_DISKS {
        bail!(
            "with --verity or ext4 each of the image's {count} layers is a disk of its own, and the guest has room for \
             {MOST_DISKS} at most: as one disk, without these options, it runs"
        );
    }
    let open = |(i, layer): (usize, HeldLayer)| {
        OpenLayer::single(store, layer, fs, &format!("{} of {count}", i + 1))
    };
    layers.into_iter().enumerate().map(open).collect()
}

impl OpenLayer {
    /// The disk that is in `file`, called `name`.
    ///
    /// # Errors
    /// The file's length cannot be found out.
    pub fn whole(uuid: Uuid, file: File, name: String) -> Result<Self> {
        let length = file.metadata().context("cannot read the disk's length")?.len();
        let verity = verity::read(&file).ok();
        let disk = Extents(vec![Extent { file: Arc::new(file), offset: 0, length }]);
        Ok(Self { uuid, disk, name, verity, held: vec![] })
    }

    fn merged(store: &LayerStore, layers: Vec<HeldLayer>) -> Result<Self> {
        let chain = store.chain_disk(&layers)?;
        let name = format!("the image's layers ({})", chain.chain_id);
        // Layers without file data are not on the disk, but the image that runs has them.
        let on_disk: HashSet<_> =
            chain.extents.0.iter().map(|extent| inode(&extent.file)).collect::<Result<_>>()?;
        let mut held = vec![];
        for layer in layers {
            if !on_disk.contains(&inode(&layer.file)?) {
                held.push(layer.file);
            }
        }
        Ok(Self { uuid: Uuid::from_bytes(chain.uuid), disk: chain.extents, name, verity: None, held })
    }

    /// The disk of one layer, which is number `place`; it is made if it has to have another filesystem.
    fn single(store: &LayerStore, layer: HeldLayer, fs: LayerFs, place: &str) -> Result<Self> {
        let disk = store.layer_disk_as(&layer, fs)?;
        let (file, held) = if disk.path == layer.disk.path {
            (layer.file, vec![])
        } else {
            let file = File::open(&disk.path);
            let file = file.with_context(|| format!("cannot open layer disk {}", disk.path.display()))?;
            (file, vec![layer.file])
        };
        let name = format!("layer {place} ({}), {}", disk.diff_id, disk.path.display());
        Ok(Self { held, ..Self::whole(Uuid::from_bytes(disk.uuid), file, name)? })
    }

    /// What the guest is told of it: with its hash tree if the guest is to check it.
    ///
    /// # Errors
    /// It has no hash tree.
    pub fn spec(&self, check: bool) -> Result<protocol::Layer> {
        let verity = check.then(|| {
            let tree = self.verity.as_ref().with_context(|| format!("{} has no hash tree", self.name))?;
            let root_hash = RootHash::try_from(tree.root_hash.hex()).map_err(Error::msg)?;
            anyhow::Ok(Verity {
                num_data_blocks: tree.geometry.data_blocks(),
                hash_start_block: tree.geometry.hash_start(),
                root_hash,
            })
        });
        Ok(protocol::Layer { uuid: self.uuid, verity: verity.transpose()? })
    }

    /// The words for a block of it that the guest has found damaged.
    pub fn damage(&self, block: u64) -> String {
        let what = self.verity.as_ref().map(|tree| tree.geometry.damage(block).to_string());
        format!("{}: {}", self.name, what.unwrap_or_else(|| format!("block {block} is damaged")))
    }
}

/// What tells a file from all others.
fn inode(file: &File) -> Result<(u64, u64)> {
    let metadata = file.metadata().context("cannot look at a layer disk")?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_builder::store::ImageStore;
    use image_builder::{source, testimage};

    #[test]
    fn many_layers_are_one_disk_unless_checked_or_on_ext4() {
        let dir = tempfile::tempdir().unwrap();
        let layer = |number: usize| testimage::Tar::new().file(&number.to_string(), 0o644, b"x").finish();
        let layers: Vec<_> = (0..=MOST_DISKS).map(layer).collect();
        testimage::write(&dir.path().join("image"), &layers, oci_spec::image::Config::default()).unwrap();
        let image =
            source::open(dir.path().join("image").to_str().unwrap(), &source::Options::default()).unwrap();
        let (_, held) =
            ImageStore::open(dir.path().join("store")).unwrap().pull(&image, None, &mut |_| {}).unwrap();
        let store = LayerStore::open(dir.path().join("store")).unwrap();
        let disks = |count: usize, fs, checked| {
            let again = |layer: &image_builder::image::Layer| store.hold(layer, &mut |_, _| {});
            open(&store, image.layers[..count].iter().map(again).collect::<Result<_>>()?, fs, checked)
        };
        assert_eq!(held.len(), MOST_DISKS + 1);
        assert_eq!(disks(MOST_DISKS + 1, LayerFs::Erofs, false).unwrap().len(), 1);
        assert_eq!(disks(MOST_DISKS, LayerFs::Erofs, true).unwrap().len(), MOST_DISKS);
        assert_eq!(disks(2, LayerFs::Ext4, false).unwrap().len(), 2);
        for (fs, checked) in [(LayerFs::Erofs, true), (LayerFs::Ext4, false)] {
            let error = disks(MOST_DISKS + 1, fs, checked).unwrap_err().to_string();
            assert!(error.contains("101 layers") && error.contains("without these options"), "{error}");
        }
        for checked in [false, true] {
            let error = disks(0, LayerFs::Erofs, checked).unwrap_err().to_string();
            assert!(error.contains("no layers: there is nothing in it to run"), "{error}");
        }
    }

    #[test]
    fn an_image_that_runs_is_in_use_with_all_its_layers() {
        let dir = tempfile::tempdir().unwrap();
        let layout = dir.path().join("image");
        let tar = testimage::Tar::new;
        let layers = [tar().file("f", 0o644, b"x").finish(), tar().dir("d", 0o755).finish(), tar().finish()];
        testimage::write(&layout, &layers, oci_spec::image::Config::default()).unwrap();
        let image = source::open(layout.to_str().unwrap(), &source::Options::default()).unwrap();
        let store = ImageStore::open(dir.path().join("store")).unwrap();
        for (fs, checked) in [(LayerFs::Erofs, false), (LayerFs::Erofs, true), (LayerFs::Ext4, false)] {
            let (stored, held) = store.pull(&image, None, &mut |_| {}).unwrap();
            let open = open(store.layers(), held, fs, checked).unwrap();
            assert_eq!(store.prune(true).unwrap().images, []);
            drop(open);
            // A child that another test is just starting has the files, too, up to its execve.
            let pruned = (0..1000).find_map(|_| {
                let images = store.prune(true).unwrap().images;
                std::thread::sleep(std::time::Duration::from_millis(u64::from(images.is_empty()) * 10));
                (!images.is_empty()).then_some(images)
            });
            assert_eq!(pruned, Some(vec![stored.id]));
        }
    }
}

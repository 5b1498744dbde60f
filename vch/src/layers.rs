//! An image's layers as disks, opened.

use std::fs::File;

use anyhow::{Context, Error, Result};
use image_builder::store::{HeldLayer, LayerFs, LayerStore};
use image_builder::verity;
use protocol::{RootHash, Uuid, Verity};

/// A layer disk, open for reading.
#[derive(Debug)]
pub struct OpenLayer {
    /// What the guest finds it by.
    pub uuid: Uuid,
    /// The disk.
    pub file: File,
    /// What it is for people: the layer's place and diffID, the disk's path.
    pub name: String,
    /// Its hash tree, if it has one.
    pub verity: Option<verity::Info>,
    /// The EROFS disk of a layer that is run from another: the store's lock is on it.
    pub held: Option<File>,
}

impl OpenLayer {
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

impl OpenLayer {
    /// Opens the disk with the filesystem `fs` of a layer of `store`, making it if need be. The layer stays in the store as
    /// long as this is there, or its file open in QEMU.
    ///
    /// # Errors
    /// The layer cannot be put on that filesystem; its disk cannot be opened.
    pub fn open(store: &LayerStore, held: HeldLayer, fs: LayerFs) -> Result<Self> {
        let disk = store.layer_disk_as(&held, fs)?;
        let (file, held) = if disk.path == held.disk.path {
            (held.file, None)
        } else {
            let file = File::open(&disk.path);
            let file = file.with_context(|| format!("cannot open layer disk {}", disk.path.display()))?;
            (file, Some(held.file))
        };
        Ok(Self {
            uuid: Uuid::from_bytes(disk.uuid),
            file,
            name: format!("layer {}, {}", disk.diff_id, disk.path.display()),
            verity: Some(disk.verity),
            held,
        })
    }
}

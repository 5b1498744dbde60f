//! Layer disks as ext4, beside the EROFS ones: `DIR/layers/sha256/<hex of the diffID>.ext4`.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::pending::PendingFile;
use super::{HeldLayer, LayerDisk, LayerStore};
use crate::disk::{Disk, Ext4, Filesystem};
use crate::{ext4, verity};

/// What a layer disk holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerFs {
    /// For every guest whose kernel can mount it: smaller, faster, and it can be mapped.
    #[default]
    Erofs,
    /// For the others.
    Ext4,
}

impl std::str::FromStr for LayerFs {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "erofs" => Ok(Self::Erofs),
            "ext4" => Ok(Self::Ext4),
            _ => anyhow::bail!("{name:?} is not a filesystem of layer disks: erofs, ext4"),
        }
    }
}

impl LayerStore {
    /// The disk with the same tree as the layer's, of the filesystem `fs`: itself, the one in the store, or a new one.
    ///
    /// # Errors
    /// The layer has what ext4 cannot hold (see [`crate::ext4`]); the disk cannot be written. The store is then as it was.
    pub fn layer_disk_as(&self, layer: &HeldLayer, fs: LayerFs) -> Result<LayerDisk> {
        match fs {
            LayerFs::Erofs => Ok(layer.disk.clone()),
            LayerFs::Ext4 => {
                self.ext4_disk(layer).with_context(|| format!("layer {} as ext4", layer.disk.diff_id))
            }
        }
    }

    fn ext4_disk(&self, layer: &HeldLayer) -> Result<LayerDisk> {
        let erofs = &layer.disk;
        let path = erofs.path.with_extension("ext4");
        let verity = match check(&path, erofs.uuid) {
            Ok(Some(verity)) => verity,
            Ok(None) => self.convert(layer, &path)?,
            Err(_damaged) => {
                std::fs::remove_file(&path)
                    .with_context(|| format!("cannot remove damaged layer disk {}", path.display()))?;
                self.convert(layer, &path)?
            }
        };
        Ok(LayerDisk { path, length: verity.geometry.length(), verity, ..erofs.clone() })
    }

    fn convert(&self, layer: &HeldLayer, path: &Path) -> Result<verity::Info> {
        let disk = Disk::new(Arc::new(layer.file.try_clone()?))?;
        let uuid = layer.disk.uuid;
        let mut pending = PendingFile::create_in(&self.folder.layers())?;
        let length = ext4::write(&disk, uuid, pending.file())?;
        let verity = verity::append(pending.file(), length, uuid)?;
        pending.publish(path)?;
        Ok(verity)
    }
}

/// The hash tree of the disk at `path`; nothing if there is none.
///
/// # Errors
/// What is there is another layer's disk, or a part of one.
fn check(path: &Path, uuid: [u8; 16]) -> Result<Option<verity::Info>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let verity = verity::read(&file)?;
    let fs = Ext4::open(Arc::new(file))?;
    let whole = fs.length() == verity.geometry.data_blocks() * verity::BLOCK;
    ensure!(whole && fs.uuid() == uuid && verity.uuid == uuid, "another layer's disk, or a part of one");
    Ok(Some(verity))
}

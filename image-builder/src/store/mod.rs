//! The store of layer disks, shared by all images and by all processes at once.
//!
//! A layer's disk is `DIR/layers/sha256/<hex of the diffID>.erofs`.
//! Of a chain of layers, the metadata that make one disk of them is `DIR/chains/sha256/<hex of the chainID>.erofs`.
//!
//! Promises:
//! - A disk is a filesystem and its hash tree (see [`verity`]).
//! - A name in the store is always a whole disk: it is written without a name (`O_TMPFILE`), synced, and linked in only
//!   when the blob's size and digest and the diffID agree with the image. After a kill at any moment there is nothing.
//! - Two processes that build the same layer both succeed; one disk stays.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::digest::Digest;
use crate::erofs::{self, superblock::Superblock};
use crate::image::Layer;
use crate::verity;

mod chain;
mod pending;
mod unpack;

pub use chain::{ChainDisk, chain_id};
use pending::PendingFile;
use unpack::unpack;

/// A layer disk in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDisk {
    /// The disk, a raw image.
    pub path: PathBuf,
    /// Its filesystem's UUID: the first 16 bytes of the diffID. The guest finds the disk by it.
    pub uuid: [u8; 16],
    /// The layer.
    pub diff_id: Digest,
    /// Length in bytes with the hash tree, a multiple of 4096.
    pub length: u64,
    /// Where its filesystem ends and its hash tree is, and the root hash as the disk itself has it.
    pub verity: verity::Info,
}

/// A folder of layer disks.
#[derive(Clone, Debug)]
pub struct LayerStore {
    layers: PathBuf,
    chains: PathBuf,
}

/// Where the store is unless the user says: `$CONTAINERVM_STORE`, else `$XDG_DATA_HOME/containervm`, else
/// `~/.local/share/containervm`.
///
/// # Errors
/// None of the three variables (`HOME` is the last) is set.
pub fn default_dir() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // The XDG base directory specification: a relative XDG_DATA_HOME is to be ignored.
    let data_home = variable("XDG_DATA_HOME").filter(|p| p.is_absolute());
    variable("CONTAINERVM_STORE")
        .or_else(|| data_home.map(|d| d.join("containervm")))
        .or_else(|| variable("HOME").map(|h| h.join(".local/share/containervm")))
        .context("no place for the store: set CONTAINERVM_STORE, XDG_DATA_HOME or HOME")
}

impl LayerStore {
    /// Opens the store in `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let [layers, chains] = ["layers/sha256", "chains/sha256"].map(|name| dir.as_ref().join(name));
        for folder in [&layers, &chains] {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the store {}", folder.display()))?;
        }
        Ok(Self { layers, chains })
    }

    /// The disk of `layer`: the one in the store, or a new one. `progress` is told the blob's bytes done, and all of
    /// them where that is known; it is not called for a disk that is there already.
    ///
    /// # Errors
    /// The blob cannot be read, does not verify, or is not a layer we can hold; the disk cannot be written. Each names the
    /// layer. The store is then as it was.
    pub fn layer_disk(&self, layer: &Layer, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<LayerDisk> {
        let path = self.layers.join(format!("{}.erofs", layer.diff_id.hex()));
        let verity = match check_or_remove(&path, &layer.diff_id)? {
            Some(verity) => verity,
            None => self.build(layer, &path, progress).with_context(|| format!("layer {}", layer.diff_id))?,
        };
        let length = verity.geometry.length();
        Ok(LayerDisk { path, uuid: layer.diff_id.uuid(), diff_id: layer.diff_id, length, verity })
    }

    fn build(
        &self,
        layer: &Layer,
        path: &Path,
        progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<verity::Info> {
        let blob = layer.blob.open()?;
        let mut pending = PendingFile::create_in(&self.layers)?;
        let uuid = layer.diff_id.uuid();
        let summary = unpack(blob, layer, progress, |tar: &mut dyn Read| {
            erofs::write_layer(tar, uuid, pending.file())
                .with_context(|| format!("cannot make the disk in {}", self.layers.display()))
        })?;
        let verity = verity::append(pending.file(), summary.length, uuid)
            .with_context(|| format!("cannot make the disk in {}", self.layers.display()))?;
        pending.publish(path)?;
        Ok(verity)
    }
}

/// The hash tree of the disk at `path` if it is one of `diff_id`, by its superblocks; anything else there is removed.
fn check_or_remove(path: &Path, diff_id: &Digest) -> Result<Option<verity::Info>> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| format!("cannot open layer disk {}", path.display()))?,
    };
    if let Ok(verity) = check(&mut file, diff_id) {
        return Ok(Some(verity));
    }
    // Another process may have put a good disk there since.
    let opened = file.metadata().map(|m| (m.dev(), m.ino())).ok();
    if std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok() == opened {
        std::fs::remove_file(path)
            .with_context(|| format!("cannot remove damaged layer disk {}", path.display()))?;
    }
    Ok(None)
}

/// A whole disk by its superblocks and its length. The blocks are the guest's to check, or [`verity::check`]'s.
fn check(file: &mut File, diff_id: &Digest) -> Result<verity::Info> {
    let mut block = [0; erofs::BLOCK_SIZE];
    file.read_exact(&mut block)?;
    let superblock = Superblock::decode(&block)?;
    let verity = verity::read(file)?;
    let is_ours = |uuid: [u8; 16]| uuid == diff_id.uuid();
    if !is_ours(superblock.uuid)
        || !is_ours(verity.uuid)
        || u64::from(superblock.blocks) != verity.geometry.data_blocks()
    {
        bail!("another layer's disk, or a part of one");
    }
    Ok(verity)
}

#[cfg(test)]
mod tests;

//! All layers of an image as one disk: the merged metadata, kept in the store by chainID, and the layers' own data.
//!
//! What is kept is a cache: it can be removed at any time, and is made again in milliseconds. It belongs to these very
//! layer disks, which its superblock's label tells by a digest of their root hashes; with others it is made anew.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::pending::PendingFile;
use super::{HeldLayer, LayerStore};
use crate::digest::Digest;
use crate::erofs::merge::{Layout, merge};
use crate::erofs::{self, Reader, superblock::Superblock};
use crate::extents::{Extent, Extents};

/// An image's layers as one disk.
#[derive(Clone, Debug)]
pub struct ChainDisk {
    /// The chainID of the uppermost layer.
    pub chain_id: Digest,
    /// The filesystem's UUID: the first 16 bytes of the chainID. The guest finds the disk by it.
    pub uuid: [u8; 16],
    /// What the disk is made of.
    pub extents: Extents,
}

/// The chainID of layers with these diffIDs, the lowest first (image-spec, config.md, "Layer ChainID"); of none, nothing.
pub fn chain_id(diff_ids: impl IntoIterator<Item = Digest>) -> Option<Digest> {
    diff_ids.into_iter().reduce(|chain, diff_id| Digest::of(format!("{chain} {diff_id}").as_bytes()))
}

impl LayerStore {
    /// The disk that has all of `layers`, the lowest first, merged as overlayfs would stack them ([`erofs::merge`]). Of a
    /// single layer it is that layer's own. The layers stay held as long as the extents' files, or duplicates, are open.
    ///
    /// # Errors
    /// There is no layer; a layer's disk is damaged; together they are too large for EROFS; the store cannot be written to.
    pub fn chain_disk(&self, layers: &[HeldLayer]) -> Result<ChainDisk> {
        let chain_id =
            chain_id(layers.iter().map(|layer| layer.disk.diff_id)).context("the image has no layers")?;
        self.chain(chain_id, layers).context("cannot merge the image's layers")
    }

    fn chain(&self, chain_id: Digest, layers: &[HeldLayer]) -> Result<ChainDisk> {
        let file = |layer: &HeldLayer| layer.file.try_clone().map(Arc::new);
        let files = layers.iter().map(file).collect::<Result<Vec<_>, _>>().context("too many open files")?;
        let uuid = chain_id.uuid();
        if let ([layer], [file]) = (layers, &files[..]) {
            let length = layer.disk.verity.geometry.data_blocks() * erofs::BLOCK;
            let extents = Extents(vec![Extent { file: file.clone(), offset: 0, length }]);
            return Ok(ChainDisk { chain_id, uuid, extents });
        }
        let readers = files.iter().map(|file| Reader::open(&**file)).collect::<Result<Vec<_>>>()?;
        let superblocks: Vec<_> = readers.iter().map(|reader| *reader.superblock()).collect();
        let layout = Layout::new(&superblocks)?;
        let metadata = self.metadata(chain_id, label(layers), &readers, &layout)?;
        let length = metadata.metadata().context("cannot read its length")?.len();
        let mut extents = vec![Extent { file: Arc::new(metadata), offset: 0, length }];
        extents.extend(layout.parts.iter().map(|part| Extent {
            file: files[part.layer].clone(),
            offset: part.offset,
            length: part.length,
        }));
        Ok(ChainDisk { chain_id, uuid, extents: Extents(extents) })
    }

    /// The metadata of the merged disk: those in the store, or new ones.
    fn metadata(
        &self,
        chain_id: Digest,
        label: [u8; 15],
        layers: &[Reader<&File>],
        layout: &Layout,
    ) -> Result<File> {
        let path = self.folder.chains().join(format!("{}.erofs", chain_id.hex()));
        for _ in 0..3 {
            if let Some(file) = find(&path, chain_id, label, layout)? {
                return Ok(file);
            }
            let mut pending = PendingFile::create_in(&self.folder.chains())?;
            merge(layers, chain_id.uuid(), label, pending.file())?;
            pending.publish(&path)?;
        }
        bail!("{} is removed again and again", path.display());
    }

    /// Removes from the store the metadata of all chains but `kept`. Gives the bytes freed. Whoever runs such a chain has its
    /// file open; whoever wants it later makes it again.
    ///
    /// # Errors
    /// The folder cannot be read or written to.
    pub fn prune_chains(&self, kept: &HashSet<Digest>) -> Result<u64> {
        let context = || format!("cannot read {}", self.folder.chains().display());
        let kept: HashSet<_> = kept.iter().map(|chain_id| format!("{}.erofs", chain_id.hex())).collect();
        let mut freed = 0;
        for entry in std::fs::read_dir(self.folder.chains()).with_context(context)? {
            let entry = entry.with_context(context)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // What has no such name is not whole yet.
            if name.ends_with(".erofs") && !kept.contains(&name) {
                freed += entry.metadata().map_or(0, |metadata| metadata.len());
                remove(&entry.path())?;
            }
        }
        Ok(freed)
    }
}

/// What is at `path`, if it belongs to these layers; anything else there is removed.
fn find(path: &Path, chain_id: Digest, label: [u8; 15], layout: &Layout) -> Result<Option<File>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| format!("cannot open {}", path.display()))?,
    };
    let matches = superblock(&file).is_ok_and(|superblock| {
        let length = file.metadata().map_or(0, |metadata| metadata.len() + layout.length());
        (superblock.uuid, superblock.label, superblock.length()) == (chain_id.uuid(), label, length)
    });
    if matches {
        return Ok(Some(file));
    }
    remove(path)?;
    Ok(None)
}

fn superblock(file: &File) -> Result<Superblock> {
    let mut block = [0; erofs::BLOCK_SIZE];
    erofs::reader::ReadAt::read_exact_at(file, &mut block, 0)?;
    Superblock::decode(&block)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// The rules by which layers are merged. Another number makes all merged disks anew.
const RULES: &str = "2";

/// 15 hex digits that tell these layer disks, merged by these rules, from all others, be it of the same layers.
fn label(layers: &[HeldLayer]) -> [u8; 15] {
    let hashes: String = layers.iter().map(|layer| layer.disk.verity.root_hash.to_string()).collect();
    let mut label = [0; 15];
    label.copy_from_slice(&Digest::of(format!("{RULES}{hashes}").as_bytes()).hex().as_bytes()[..15]);
    label
}

#[cfg(test)]
mod tests;

//! The layers' disks: made, found, held.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::folder::{Folder, retry};
use super::pending::PendingFile;
use super::recipe::{self, Recorder};
use super::unpack::unpack;
use super::writeback::WriteBack;
use crate::digest::{Digest, Hasher};
use crate::erofs::{self, WriteOptions, superblock::Superblock};
use crate::image::Layer;
use crate::verity::{self, HashedDisk};

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

/// A layer disk that stays in the store as long as `file`, or a duplicate of it, is open anywhere.
#[derive(Debug)]
pub struct HeldLayer {
    /// The disk.
    pub disk: LayerDisk,
    /// The same, open for reading, with a shared flock.
    pub file: File,
}

impl HeldLayer {
    /// Writes the layer's uncompressed tar stream, as its blob had it, to `out`; gives its length in bytes.
    ///
    /// # Errors
    /// Disk or recipe are damaged: what was written is then not the layer. Those of `out`.
    pub fn write_tar(&self, out: impl Write) -> Result<u64> {
        let write = || {
            let path = self.disk.path.with_extension("tarsplit");
            let recipe =
                File::open(&path).with_context(|| format!("cannot open its recipe {}", path.display()))?;
            let mut out = Hashing { out, hash: Hasher::default() };
            recipe::rebuild(recipe, &self.file, &mut out)?;
            out.flush().context("cannot write the layer's tar stream")?;
            let (found, length) = out.hash.finish();
            ensure!(found == self.disk.diff_id, "it is damaged: its disk and recipe make {found}");
            Ok(length)
        };
        write().with_context(|| format!("layer {}", self.disk.diff_id))
    }
}

/// Hashes what goes by.
struct Hashing<W> {
    out: W,
    hash: Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A folder of layer disks.
#[derive(Clone, Debug)]
pub struct LayerStore {
    pub(super) folder: Folder,
    max_size: u64,
}

impl LayerStore {
    /// Opens the store in `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// A store of another version; the folder cannot be made.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::of(Folder::open(dir.as_ref())?))
    }

    pub(super) fn of(folder: Folder) -> Self {
        Self { folder, max_size: WriteOptions::MAX_SIZE }
    }

    /// Refuses layers whose disk has more than `bytes`, holes of sparse files included.
    #[must_use]
    pub fn with_max_size(mut self, bytes: u64) -> Self {
        self.max_size = bytes;
        self
    }

    /// The disk of `layer`: the one in the store, or a new one. `progress` is told the blob's bytes done, and all of
    /// them where that is known; it is not called for a disk that is there already.
    ///
    /// # Errors
    /// The blob cannot be read, does not verify, or is not a layer we can hold; the disk cannot be written. Each names the
    /// layer. The store is then as it was.
    pub fn layer_disk(&self, layer: &Layer, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<LayerDisk> {
        self.hold(layer, progress).map(|held| held.disk)
    }

    /// As [`LayerStore::layer_disk`], and keeps it from being removed. A damaged disk is made anew.
    ///
    /// # Errors
    /// As [`LayerStore::layer_disk`].
    pub fn hold(&self, layer: &Layer, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<HeldLayer> {
        let mut built = None;
        loop {
            match self.find(&layer.diff_id)? {
                Found::Whole(held) => return Ok(held),
                Found::Damaged(file, _) => self.remove_damaged(&layer.diff_id, &file)?,
                Found::Nothing => {}
            }
            // Built and gone again: it was another process's disk, and is removed already.
            drop::<Option<File>>(built.take());
            built = Some(self.build(layer, progress).with_context(|| format!("layer {}", layer.diff_id))?);
        }
    }

    /// The disk of `diff_id`, if the store has it.
    ///
    /// # Errors
    /// It is damaged, as far as its superblocks tell, or cannot be read.
    pub fn get(&self, diff_id: &Digest) -> Result<Option<HeldLayer>> {
        match self.find(diff_id).with_context(|| format!("layer {diff_id}"))? {
            Found::Whole(held) => Ok(Some(held)),
            Found::Nothing => Ok(None),
            Found::Damaged(_, why) => Err(why.context(format!("layer {diff_id} is damaged"))),
        }
    }

    /// Where the disk of `diff_id` is, or would be.
    pub fn path(&self, diff_id: &Digest) -> PathBuf {
        self.folder.layers().join(format!("{}.erofs", diff_id.hex()))
    }

    pub(super) fn recipe_path(&self, diff_id: &Digest) -> PathBuf {
        self.path(diff_id).with_extension("tarsplit")
    }

    fn find(&self, diff_id: &Digest) -> Result<Found> {
        let path = self.path(diff_id);
        let file = loop {
            let file = match File::open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
                opened => opened.with_context(|| format!("cannot open layer disk {}", path.display()))?,
            };
            retry(|| file.lock_shared()).with_context(|| format!("cannot lock {}", path.display()))?;
            // Removed before it was locked: the name may be another disk's by now.
            if file.metadata()?.nlink() > 0 {
                break file;
            }
        };
        Ok(match self.check(&file, diff_id) {
            Ok(verity) => {
                let (uuid, length) = (diff_id.uuid(), verity.geometry.length());
                let disk = LayerDisk { path, uuid, diff_id: *diff_id, length, verity };
                Found::Whole(HeldLayer { disk, file })
            }
            Err(why) => Found::Damaged(file, why),
        })
    }

    /// A whole disk by its superblocks and its length. The blocks are the guest's to check, or [`verity::check`]'s.
    fn check(&self, mut file: &File, diff_id: &Digest) -> Result<verity::Info> {
        let mut block = [0; erofs::BLOCK_SIZE];
        file.read_exact(&mut block).context("cannot read its superblock")?;
        let superblock = Superblock::decode(&block)?;
        let verity = verity::read(file)?;
        let is_ours = |uuid: [u8; 16]| uuid == diff_id.uuid();
        if !is_ours(superblock.uuid)
            || !is_ours(verity.uuid)
            || u64::from(superblock.blocks) != verity.geometry.data_blocks()
        {
            bail!("another layer's disk, or a part of one");
        }
        ensure!(self.recipe_path(diff_id).exists(), "its recipe is missing");
        Ok(verity)
    }

    fn remove_damaged(&self, diff_id: &Digest, found: &File) -> Result<()> {
        let path = self.path(diff_id);
        let _lock = self.folder.exclude()?;
        // Another process may have put a good disk there since.
        let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        if fs::metadata(&path).is_ok_and(|named| found.metadata().is_ok_and(|found| same(named, found))) {
            fs::remove_file(&path)
                .with_context(|| format!("cannot remove damaged layer disk {}", path.display()))?;
        }
        Ok(())
    }

    /// Makes the disk. The file given back keeps it from being removed.
    fn build(&self, layer: &Layer, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<File> {
        let dir = self.folder.layers();
        let blob = layer.blob.open()?;
        let mut disk = self.pending()?;
        let mut recipe = self.pending()?;
        let recipe_file = recipe.file().try_clone().context("cannot duplicate a descriptor")?;
        let mut recorder = Recorder::new(recipe_file, self.max_size)?;
        let options = WriteOptions { uuid: layer.diff_id.uuid(), max_size: self.max_size };
        let hashes = self.pending()?.file().try_clone().context("cannot duplicate a descriptor")?;
        let file: &File = disk.file();
        let mut hashed = HashedDisk::new(WriteBack::new(file), hashes);
        let summary = unpack(blob, layer, progress, |tar| {
            erofs::write_layer_recorded(&mut *tar, options, &mut hashed, Some(&mut recorder))
                .and_then(|summary| recorder.rest(tar).map(|()| summary))
                .with_context(|| format!("cannot make the disk in {}", dir.display()))
        })?;
        hashed
            .finish(file, summary.length, options.uuid)
            .with_context(|| format!("cannot make the disk in {}", dir.display()))?;
        recorder.finish()?;
        // What takes long comes before the lock, which is there so that nobody takes a recipe without a disk for rubbish.
        disk.sync()?;
        let _lock = self.folder.share()?;
        recipe.replace(&self.recipe_path(&layer.diff_id))?;
        disk.publish(&self.path(&layer.diff_id))
    }

    fn pending(&self) -> Result<PendingFile> {
        // So that a file that has a name is locked before anyone asks whether its process lives.
        let _lock = self.folder.share()?;
        PendingFile::create_in(&self.folder.layers())
    }
}

/// What there is of a layer.
enum Found {
    Nothing,
    Whole(HeldLayer),
    Damaged(File, anyhow::Error),
}

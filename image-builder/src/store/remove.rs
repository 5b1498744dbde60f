//! Removing names, images and layers, and clearing away what processes left behind that died.
//!
//! The store's lock is held exclusively throughout, so no record comes or goes; and a layer is removed only where nobody
//! holds its disk.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::pending::PREFIX;
use super::record::{DamagedRecord, ImageRecord, NameRecord};
use super::{ImageStore, StoredImage, chain_id, topmost};
use crate::digest::Digest;
use crate::source::Name;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that stand for nothing now.
    pub names: Vec<Name>,
    /// Images, by ID.
    pub images: Vec<Digest>,
    /// Layers, by diffID.
    pub layers: Vec<Digest>,
    /// Layers that no image has, but a running containerVM or a pull holds: the next [`ImageStore::prune`] takes them.
    pub held: Vec<Digest>,
    /// Bytes freed on the disk.
    pub bytes: u64,
    /// Records that cannot be read. As any layer may be of use to their images, none was removed.
    pub damaged: Vec<DamagedRecord>,
}

impl ImageStore {
    /// Forgets the name `text`, and with its last name the image; or the image whose ID, or the first digits of it, is
    /// `text`, with all its names. Frees what no other image uses.
    ///
    /// # Errors
    /// No such image; digits that begin several IDs; an image by ID that has names in several repositories, without
    /// `force`; the store cannot be written to.
    pub fn remove(&self, text: &str, force: bool) -> Result<Removed> {
        let _lock = self.folder.exclude()?;
        let image = self.find(text)?.with_context(|| format!("there is no image {text:?}"))?;
        let named = text.parse::<Name>().ok().map(|name| self.find_name(&name)).transpose()?.flatten();
        let mut removed = Removed::default();
        let names = match named {
            Some(name) => vec![name],
            None => {
                let repositories: HashSet<_> =
                    image.names.iter().map(|it| (&it.name.host, &it.name.repository)).collect();
                ensure!(
                    force || repositories.len() < 2,
                    "image {text:?} is named in several repositories ({}): give a name, or --force",
                    image.names.iter().map(|it| it.name.familiar()).collect::<Vec<_>>().join(", ")
                );
                image.names.clone()
            }
        };
        for name in &names {
            NameRecord::remove(&self.folder, &name.name)?;
            removed.names.push(name.name.clone());
        }
        if names.len() == image.names.len() {
            self.remove_image(&image, &mut removed)?;
            let layers = image.record.layers.iter().map(|layer| layer.diff_id).collect();
            self.free(Some(layers), &mut removed)?;
        }
        Ok(removed)
    }

    /// Removes the images without a name (with `all`, every image) that no containerVM runs, layers that no image uses, and
    /// what is left of processes that died. Where a record cannot be read, layers stay, and images that seem to have no name.
    ///
    /// # Errors
    /// The store cannot be read or written to.
    pub fn prune(&self, all: bool) -> Result<Removed> {
        let _lock = self.folder.exclude()?;
        let mut removed = Removed::default();
        let all_names_known = self.damaged()?.is_empty();
        for image in self.images()? {
            if (all || (image.names.is_empty() && all_names_known)) && !self.in_use(&image)? {
                for name in &image.names {
                    NameRecord::remove(&self.folder, &name.name)?;
                    removed.names.push(name.name.clone());
                }
                self.remove_image(&image, &mut removed)?;
            }
        }
        self.forget_lost_names(&mut removed)?;
        self.free(None, &mut removed)?;
        self.remove_leftovers(&mut removed)?;
        Ok(removed)
    }

    /// Removes the disk of a layer, so that the next pull makes it anew. Who has it open keeps it.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn discard_layer(&self, diff_id: &Digest) -> Result<()> {
        let _lock = self.folder.exclude()?;
        remove_file(&self.layers().path(diff_id).with_extension("ext4"))?;
        remove_file(&self.layers().path(diff_id))?;
        remove_file(&self.layers().recipe_path(diff_id)).map(drop)
    }

    /// Removes the records that cannot be read, and gives them.
    ///
    /// # Errors
    /// The store cannot be read or written to.
    pub fn discard_damaged(&self) -> Result<Vec<DamagedRecord>> {
        let _lock = self.folder.exclude()?;
        let damaged = self.damaged()?;
        for record in &damaged {
            remove_file(&record.path)?;
        }
        Ok(damaged)
    }

    fn remove_image(&self, image: &StoredImage, removed: &mut Removed) -> Result<()> {
        ImageRecord::remove(&self.folder, &image.id)?;
        removed.images.push(image.id);
        Ok(())
    }

    /// Names whose image someone removed by hand.
    fn forget_lost_names(&self, removed: &mut Removed) -> Result<()> {
        for name in NameRecord::all(&self.folder)? {
            if let Ok(None) = ImageRecord::read(&self.folder, &name.image) {
                NameRecord::remove(&self.folder, &name.name)?;
                removed.names.push(name.name);
            }
        }
        Ok(())
    }

    /// Whoever runs an image holds all its layers.
    fn in_use(&self, image: &StoredImage) -> Result<bool> {
        let mut paths = image.record.layers.iter().map(|layer| self.layers().path(&layer.diff_id)).peekable();
        if paths.peek().is_none() {
            return Ok(false);
        }
        for path in paths {
            if let Claim::Free(_) = claim(&path)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes those of `candidates`, or of all layers, that no image has and nobody holds; and merged disks of no image.
    fn free(&self, candidates: Option<Vec<Digest>>, removed: &mut Removed) -> Result<()> {
        removed.damaged = self.damaged()?;
        if !removed.damaged.is_empty() {
            return Ok(());
        }
        let records = ImageRecord::all(&self.folder)?;
        let used: HashSet<_> = records.iter().flat_map(|it| &it.layers).map(|layer| layer.diff_id).collect();
        let candidates: HashSet<_> = match candidates {
            Some(candidates) => candidates.into_iter().collect(),
            None => self.stored_layers()?,
        };
        let mut candidates: Vec<_> = candidates.difference(&used).collect();
        candidates.sort();
        for diff_id in candidates {
            let (disk, recipe) = (self.layers().path(diff_id), self.layers().recipe_path(diff_id));
            let Claim::Free(_claim) = claim(&disk)? else {
                removed.held.push(*diff_id);
                continue;
            };
            // In this order: a disk has its recipe.
            let bytes =
                [remove_file(&disk.with_extension("ext4"))?, remove_file(&disk)?, remove_file(&recipe)?];
            if bytes[1].is_some() {
                removed.layers.push(*diff_id);
            }
            removed.bytes += bytes.into_iter().flatten().sum::<u64>();
        }
        removed.bytes += self.layers().prune_chains(&chains(&records))?;
        Ok(())
    }

    /// The layers that there is a disk or a recipe of.
    pub(super) fn stored_layers(&self) -> Result<HashSet<Digest>> {
        let names = list(&self.folder.layers())?;
        let digest = |path: &PathBuf| format!("sha256:{}", path.file_stem()?.to_str()?).parse().ok();
        Ok(names.iter().filter_map(digest).collect())
    }

    /// Files that were being written when their process died: nobody holds them.
    fn remove_leftovers(&self, removed: &mut Removed) -> Result<()> {
        for dir in [self.folder.layers(), self.folder.chains(), self.folder.images(), self.folder.names()] {
            for path in list(&dir)? {
                let is_pending = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(PREFIX));
                if is_pending && let Claim::Free(_claim) = claim(&path)? {
                    removed.bytes += remove_file(&path)?.unwrap_or(0);
                }
            }
        }
        Ok(())
    }
}

/// The chainIDs of all images, as they are run.
fn chains(records: &[ImageRecord]) -> HashSet<Digest> {
    let layers = |record: &ImageRecord| topmost(&record.layers, |layer| layer.diff_id);
    records.iter().filter_map(|record| chain_id(layers(record).iter().map(|layer| layer.diff_id))).collect()
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
    });
    entries.with_context(|| format!("cannot read {}", dir.display()))
}

/// Whether a file may be removed.
enum Claim {
    /// As long as this is open, nobody can take hold of it. None: it is not there.
    Free(Option<File>),
    /// Somebody holds it.
    Held,
}

fn claim(path: &Path) -> Result<Claim> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Claim::Free(None)),
        opened => opened.with_context(|| format!("cannot open {}", path.display()))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Claim::Free(Some(file))),
        Err(TryLockError::WouldBlock) => Ok(Claim::Held),
        Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Bytes that the file took on the disk; none if there is no such file.
fn remove_file(path: &Path) -> Result<Option<u64>> {
    use std::os::unix::fs::MetadataExt;
    let bytes = fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512);
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        removed => {
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
            Ok(Some(bytes))
        }
    }
}

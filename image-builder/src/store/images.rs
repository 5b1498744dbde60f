//! Images in the store: added, listed, found, named.

use std::path::Path;
use std::sync::mpsc::Receiver;

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::ImageConfiguration;

use super::fetch::{Event, topmost};
use super::folder::Folder;
use super::record::{self, DamagedRecord, ImageRecord, LayerRecord, NameRecord, now};
use super::{HeldLayer, LayerStore};
use crate::digest::Digest;
use crate::image::{Image, parse_config};
use crate::source::Name;

/// A store's images, and their layers.
///
/// ```
/// use image_builder::{image, source, store::ImageStore, testimage::{self, Tar}};
/// # let dir = tempfile::tempdir()?;
/// let layer = Tar::new().file("etc/motd", 0o644, b"hello\n").finish();
/// testimage::write(&dir.path().join("layout"), &[layer], Default::default())?;
/// let image = source::open(dir.path().join("layout").to_str().unwrap(), &source::Options::default())?;
///
/// let store = ImageStore::open(dir.path().join("store"))?;
/// let (stored, _layers) = store.pull(&image, Some(&"motd:1".parse()?), &mut |_| {})?;
/// assert_eq!(stored.id, image.id());
/// assert_eq!(store.find("motd:1")?.unwrap().id, stored.id);
/// assert!(stored.layers(&store)?[0].disk.path.exists());
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(super) folder: Folder,
    layers: LayerStore,
}

/// An image in the store.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// Its ID: the digest of its config.
    pub id: Digest,
    /// What is kept of it.
    pub record: ImageRecord,
    /// The config.
    pub config: ImageConfiguration,
    /// Its names, sorted.
    pub names: Vec<NameRecord>,
}

impl ImageStore {
    /// Opens the store in `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// A store of another version; the folder cannot be made.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Folder::open(dir.as_ref()).map(Self::of)
    }

    /// The store in `dir`, if there is one: for those who have nothing to put into it.
    ///
    /// # Errors
    /// A store of another version; it cannot be read.
    pub fn existing(dir: impl AsRef<Path>) -> Result<Option<Self>> {
        Ok(Folder::existing(dir.as_ref())?.map(Self::of))
    }

    fn of(folder: Folder) -> Self {
        Self { layers: LayerStore::of(folder.clone()), folder }
    }

    /// Refuses layers whose disk has more than `bytes`, holes of sparse files included.
    #[must_use]
    pub fn with_max_size(mut self, bytes: u64) -> Self {
        self.layers = self.layers.with_max_size(bytes);
        self
    }

    /// The layers' disks.
    pub fn layers(&self) -> &LayerStore {
        &self.layers
    }

    /// Makes the disks of `image` that are lacking, several at once, and keeps it as `name`, or unnamed. `event` is told what
    /// happens to its layers, each once (see [`topmost`]). The layers that come back are held.
    ///
    /// # Errors
    /// The first layer's that fails, and the store's.
    pub fn pull(
        &self,
        image: &Image,
        name: Option<&Name>,
        event: &mut dyn FnMut(&Event),
    ) -> Result<(StoredImage, Vec<HeldLayer>)> {
        let layers = topmost(&image.layers, |layer| layer.diff_id);
        let held = collect(self.layers.fetch(&layers), layers.len(), event)?;
        let stored = self.add(image, name, &held)?;
        Ok((stored, held))
    }

    /// Keeps `image`, whose layers are `held`, as `name`, which it takes from any other image; or unnamed.
    ///
    /// # Errors
    /// A layer is not among `held`; the config is not UTF-8; the store cannot be written to.
    pub fn add(&self, image: &Image, name: Option<&Name>, held: &[HeldLayer]) -> Result<StoredImage> {
        let layer = |layer: &crate::image::Layer| {
            let disk = held.iter().map(|held| &held.disk).find(|disk| disk.diff_id == layer.diff_id);
            let disk = disk.with_context(|| format!("layer {} has no disk", layer.diff_id))?;
            Ok(LayerRecord {
                diff_id: layer.diff_id,
                blob: layer.digest,
                blob_size: layer.size,
                disk_size: disk.length,
                root_hash: disk.verity.root_hash,
            })
        };
        let record = ImageRecord {
            config: String::from_utf8(image.config_json.clone()).context("the config is not UTF-8")?,
            manifest: image.manifest_digest,
            added: now(),
            layers: image.layers.iter().map(layer).collect::<Result<_>>()?,
        };
        let id = record.id();
        // A damaged record is written anew.
        let known = if name.is_none() { ImageRecord::read(&self.folder, &id).unwrap_or(None) } else { None };
        // Running an image that is known writes nothing.
        if let Some(known) =
            known.filter(|known| ImageRecord { added: known.added, ..record.clone() } == *known)
        {
            return StoredImage::new(known, &NameRecord::all(&self.folder)?);
        }
        let _lock = self.folder.share()?;
        record.write(&self.folder)?;
        if let Some(name) = name {
            self.write_name(name, id, image.registry_digest)?;
        }
        StoredImage::new(record, &NameRecord::all(&self.folder)?)
    }

    /// Gives image `id` a further name, which it takes from any other image.
    ///
    /// # Errors
    /// There is no such image; the store cannot be written to.
    pub fn tag(&self, id: &Digest, name: &Name) -> Result<()> {
        ensure!(name.digest.is_none(), "{name}: a digest cannot be given, only a tag");
        let _lock = self.folder.share()?;
        ensure!(ImageRecord::read(&self.folder, id)?.is_some(), "there is no image {id}");
        self.write_name(name, *id, None)
    }

    fn write_name(&self, name: &Name, image: Digest, digest: Option<Digest>) -> Result<()> {
        // What a digest names does not change, whatever the tag beside it.
        let tag = if name.digest.is_some() { None } else { name.tag.clone() };
        let name = Name { tag, ..name.clone() };
        NameRecord { digest: name.digest.or(digest), name, image }.write(&self.folder)
    }

    /// All images whose records can be read, the newest in the store first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn images(&self) -> Result<Vec<StoredImage>> {
        let names = NameRecord::all(&self.folder)?;
        let records = ImageRecord::all(&self.folder)?;
        let mut images =
            records.into_iter().map(|record| StoredImage::new(record, &names)).collect::<Result<Vec<_>>>()?;
        images.sort_by_key(|image| (std::cmp::Reverse(image.record.added), image.id));
        Ok(images)
    }

    /// The records that cannot be read. [`ImageStore::discard_damaged`] removes them; until then all layers stay.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn damaged(&self) -> Result<Vec<DamagedRecord>> {
        record::damaged(&self.folder)
    }

    /// The image with this ID.
    ///
    /// # Errors
    /// The store cannot be read; the image's record is damaged.
    pub fn image(&self, id: &Digest) -> Result<Option<StoredImage>> {
        let Some(record) = ImageRecord::read(&self.folder, id)? else { return Ok(None) };
        StoredImage::new(record, &NameRecord::all(&self.folder)?).map(Some)
    }

    /// The image that `text` means: a name, else an ID or the first digits of one, with or without `sha256:`.
    ///
    /// # Errors
    /// The digits begin several IDs; those of [`ImageStore::image`].
    pub fn find(&self, text: &str) -> Result<Option<StoredImage>> {
        if let Ok(name) = text.parse::<Name>()
            && let Some(record) = self.find_name(&name)?
        {
            return self.image(&record.image);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(is_hex) {
            return Ok(None);
        }
        let mut found = self.images()?;
        found.retain(|image| image.id.hex().starts_with(digits));
        if found.len() > 1 {
            let ids = found.iter().map(|image| image.id.hex()).collect::<Vec<_>>().join(", ");
            bail!("{text:?} begins the IDs of several images: {ids}");
        }
        Ok(found.pop())
    }

    /// What is known of `name`. One with a digest is also found by the digest of a tag, the first of several.
    ///
    /// # Errors
    /// The store cannot be read; the name's record is damaged.
    pub fn find_name(&self, name: &Name) -> Result<Option<NameRecord>> {
        let Some(digest) = name.digest else { return NameRecord::read(&self.folder, name) };
        let is_it = |record: &NameRecord| {
            (&record.name.host, &record.name.repository, record.digest)
                == (&name.host, &name.repository, Some(digest))
        };
        let found = NameRecord::all(&self.folder)?.into_iter().filter(is_it);
        // The digest itself comes first: no tag is less than one.
        Ok(found.min_by(|a, b| a.name.cmp(&b.name)))
    }
}

impl StoredImage {
    fn new(record: ImageRecord, names: &[NameRecord]) -> Result<Self> {
        let id = record.id();
        let config = parse_config(record.config.as_bytes()).with_context(|| format!("image {id}"))?;
        let mut names: Vec<_> = names.iter().filter(|name| name.image == id).cloned().collect();
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { id, record, config, names })
    }

    /// Its layers' disks, held, the lowest first, each once (see [`topmost`]).
    ///
    /// # Errors
    /// One is missing, or is not the disk that the image's record has the root hash of (then it is removed): pull the
    /// image again.
    pub fn layers(&self, store: &ImageStore) -> Result<Vec<HeldLayer>> {
        let get = |layer: &LayerRecord| {
            let diff_id = &layer.diff_id;
            let held = store.layers.get(diff_id)?;
            let held = held.with_context(|| format!("layer {diff_id} is missing: pull the image again"))?;
            if held.disk.verity.root_hash != layer.root_hash {
                store.discard_layer(diff_id)?;
                bail!(
                    "layer {diff_id} had another root hash than the image's record, and is removed: pull the image again"
                );
            }
            Ok(held)
        };
        let layers = topmost(&self.record.layers, |layer| layer.diff_id);
        let layers = layers.iter().map(get).collect::<Result<_>>();
        layers.with_context(|| format!("image {}", self.shown()))
    }

    /// As messages show it: a name if it has one, else its ID.
    pub fn shown(&self) -> String {
        self.names.first().map_or_else(|| self.id.to_string(), |name| name.name.familiar())
    }
}

/// Waits for all `count` layers.
fn collect(events: Receiver<Event>, count: usize, event: &mut dyn FnMut(&Event)) -> Result<Vec<HeldLayer>> {
    let mut held: Vec<Option<HeldLayer>> = (0..count).map(|_| None).collect();
    for it in events {
        event(&it);
        match it {
            Event::Done { layer, held: done } => held[layer] = Some(done),
            Event::Failed { error, .. } => return Err(error),
            Event::Progress { .. } => {}
        }
    }
    held.into_iter().collect::<Option<_>>().context("a thread that makes layer disks panicked")
}

//! The files in which the store keeps what an image is and what it is called: JSON, written whole or not at all.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::pending::{PendingFile, sync_dir_of};
use crate::digest::Digest;
use crate::source::Name;

/// A layer as its image's record has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LayerRecord {
    /// Digest of the uncompressed tar stream.
    #[serde(rename = "diffID")]
    pub diff_id: Digest,
    /// Digest of the blob that the layer came from, where its source knew it.
    pub blob: Option<Digest>,
    /// Size of that blob in bytes.
    pub blob_size: Option<u64>,
    /// Length of the layer's disk in bytes, with its hash tree.
    pub disk_size: u64,
    /// Root hash of the disk's dm-verity tree.
    pub root_hash: Digest,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// The config, byte for byte.
    pub config: String,
    /// Digest of the manifest, where there was one.
    pub manifest: Option<Digest>,
    /// When it came into the store: seconds since 1970.
    pub added: u64,
    /// Layers, the lowest first.
    pub layers: Vec<LayerRecord>,
}

/// A name and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameRecord {
    /// In full: `docker.io/library/alpine:3.20`.
    #[serde(with = "text")]
    pub name: Name,
    /// ID of the image.
    pub image: Digest,
    /// The digest by which the name's repository knows the image, where it came from one.
    pub digest: Option<Digest>,
}

/// A record that cannot be read. What it says of its image, and so of layers, nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRecord {
    /// Its file.
    pub path: PathBuf,
    /// In a sentence.
    why: String,
}

impl fmt::Display for DamagedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, why } = self;
        write!(
            f,
            "{} is damaged ({why}): `image-builder verify --repair` removes it, and its image can be pulled again",
            path.display()
        )
    }
}

/// What is kept in a file of its own.
trait Record: Serialize + DeserializeOwned {
    /// The file that it belongs into.
    fn path(&self, folder: &Folder) -> PathBuf;
}

impl Record for ImageRecord {
    fn path(&self, folder: &Folder) -> PathBuf {
        Self::path(folder, &self.id())
    }
}

impl Record for NameRecord {
    fn path(&self, folder: &Folder) -> PathBuf {
        Self::path(folder, &self.name)
    }
}

/// All records that cannot be read, of images and of names.
pub fn damaged(folder: &Folder) -> Result<Vec<DamagedRecord>> {
    let images = read_all::<ImageRecord>(folder, &folder.images())?;
    let names = read_all::<NameRecord>(folder, &folder.names())?;
    Ok(images.into_iter().filter_map(Result::err).chain(names.into_iter().filter_map(Result::err)).collect())
}

impl ImageRecord {
    /// The image's ID.
    pub fn id(&self) -> Digest {
        Digest::of(self.config.as_bytes())
    }

    /// Writes the record, over the one that is there. The store's lock is held shared.
    pub fn write(&self, folder: &Folder) -> Result<()> {
        write(&Self::path(folder, &self.id()), self)
    }

    /// The record of image `id`, if there is one.
    pub fn read(folder: &Folder, id: &Digest) -> Result<Option<Self>> {
        read(folder, &Self::path(folder, id))?.transpose().map_err(Error::msg)
    }

    /// All records that can be read: for the others see `damaged`.
    pub fn all(folder: &Folder) -> Result<Vec<Self>> {
        Ok(read_all(folder, &folder.images())?.into_iter().filter_map(Result::ok).collect())
    }

    /// Removes the record of image `id`.
    pub fn remove(folder: &Folder, id: &Digest) -> Result<()> {
        remove(&Self::path(folder, id))
    }

    fn path(folder: &Folder, id: &Digest) -> PathBuf {
        folder.images().join(format!("{}.json", id.hex()))
    }
}

impl NameRecord {
    /// Writes the record, over the one that is there. The store's lock is held shared.
    pub fn write(&self, folder: &Folder) -> Result<()> {
        write(&Self::path(folder, &self.name), self)
    }

    /// What `name` stands for, if it is known.
    pub fn read(folder: &Folder, name: &Name) -> Result<Option<Self>> {
        read(folder, &Self::path(folder, name))?.transpose().map_err(Error::msg)
    }

    /// All names that can be read: for the others see `damaged`.
    pub fn all(folder: &Folder) -> Result<Vec<Self>> {
        Ok(read_all(folder, &folder.names())?.into_iter().filter_map(Result::ok).collect())
    }

    /// Forgets `name`.
    pub fn remove(folder: &Folder, name: &Name) -> Result<()> {
        remove(&Self::path(folder, name))
    }

    /// Names have slashes, and up to 447 bytes: neither will do for a file's.
    fn path(folder: &Folder, name: &Name) -> PathBuf {
        folder.names().join(format!("{}.json", Digest::of(name.to_string().as_bytes()).hex()))
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn write(path: &Path, record: &impl Serialize) -> Result<()> {
    let dir = path.parent().context("a file's path has a folder")?;
    let mut pending = PendingFile::create_in(dir)?;
    let bytes = serde_json::to_vec_pretty(record)?;
    pending.file().write_all(&bytes).with_context(|| format!("cannot write {}", path.display()))?;
    pending.replace(path)?;
    sync_dir_of(path)
}

/// The record in `path`. None: there is no such file.
fn read<T: Record>(folder: &Folder, path: &Path) -> Result<Option<Result<T, DamagedRecord>>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let record = match serde_json::from_slice::<T>(&bytes) {
        Ok(record) if record.path(folder) == path => Ok(record),
        Ok(_) => Err("it is another's".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    Ok(Some(record.map_err(|why| DamagedRecord { path: path.to_owned(), why })))
}

fn read_all<T: Record>(folder: &Folder, dir: &Path) -> Result<Vec<Result<T, DamagedRecord>>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", dir.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            // None: removed since.
            records.extend(read(folder, &path)?);
        }
    }
    Ok(records)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => {
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
            sync_dir_of(path)
        }
    }
}

/// Names in JSON are what they are in text.
mod text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::source::Name;

    pub fn serialize<S: Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(name)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|e| D::Error::custom(format!("{e:#}")))
    }
}

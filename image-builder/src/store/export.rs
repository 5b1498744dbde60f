//! An image as an OCI layout (image-spec, image-layout.md), in a folder or a tar stream.
//!
//! Its layers are plain tar streams, so a blob's digest is its diffID; the config is the image's own, so the ID stays. The
//! manifest is new: the one that the image came with is of blobs that the store does not keep.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use oci_spec::image::{Descriptor, ImageIndexBuilder, ImageManifestBuilder, MediaType};
use tempfile::TempDir;

use super::folder::retry;
use super::pending::PendingFile;
use super::{HeldLayer, ImageStore, StoredImage};
use crate::digest::Digest;

/// What `oci-layout` says.
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// What a folder is called in which a layout is being made: nobody keeps anything of theirs under such a name.
const PREFIX: &str = ".image-builder-export-";

/// The parts of a layout: everything but the layers is small.
struct Parts {
    layers: Vec<(HeldLayer, u64)>,
    files: Vec<(String, Vec<u8>)>,
}

impl ImageStore {
    /// Writes `image` as an OCI layout to the folder `dir`, which must not be there, or be empty. On failure nothing is left.
    ///
    /// # Errors
    /// A layer is missing or damaged; the folder cannot be written.
    pub fn export_dir(&self, image: &StoredImage, dir: &Path) -> Result<()> {
        let parts = Parts::of(self, image)?;
        let parent = parent(dir);
        // Under its name it is whole.
        let (work, lock) =
            work_dir(parent).with_context(|| format!("cannot make a folder in {}", parent.display()))?;
        remove_stale(parent, lock.metadata().context("cannot look at a new folder")?.uid());
        fs::create_dir_all(work.path().join("blobs/sha256")).context("cannot make the layout's folders")?;
        for (layer, _) in &parts.layers {
            let path = work.path().join(blob(&layer.disk.diff_id));
            let file =
                fs::File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
            layer.write_tar(file)?;
        }
        for (name, bytes) in &parts.files {
            fs::write(work.path().join(name), bytes).with_context(|| format!("cannot write {name}"))?;
        }
        let work = work.keep();
        let opened = fs::File::open(&work).and_then(|work| open_to_all(&work, 0o755));
        opened.and_then(|()| fs::rename(&work, dir)).map_err(|error| {
            drop(fs::remove_dir_all(&work));
            anyhow::Error::from(error).context(format!("cannot make {}", dir.display()))
        })
    }

    /// Writes `image` as an OCI archive to the file `path`, in the place of what has that name. Under it the archive is whole; a
    /// process that is killed leaves nothing.
    ///
    /// # Errors
    /// A layer is missing or damaged; the file cannot be written.
    pub fn export_file(&self, image: &StoredImage, path: &Path) -> Result<()> {
        let mut file = PendingFile::create_in(parent(path))?;
        self.export_tar(image, &mut BufWriter::new(&*file.file()))?;
        open_to_all(file.file(), 0o644).with_context(|| format!("cannot make {}", path.display()))?;
        file.replace(path)
    }

    /// Writes `image` as an OCI archive, a tar stream of the layout, to `out`.
    ///
    /// # Errors
    /// A layer is missing or damaged: nothing is written then. `out`'s.
    pub fn export_tar(&self, image: &StoredImage, out: &mut dyn Write) -> Result<()> {
        let parts = Parts::of(self, image)?;
        let failed = || "cannot write the archive".to_owned();
        for (name, bytes) in &parts.files {
            entry(out, name, bytes.len() as u64, |out| Ok(out.write_all(bytes)?)).with_context(failed)?;
        }
        for (layer, size) in &parts.layers {
            entry(out, &blob(&layer.disk.diff_id), *size, |out| layer.write_tar(out).map(drop))?;
        }
        out.write_all(&[0; 1024]).and_then(|()| out.flush()).with_context(failed)
    }
}

impl Parts {
    /// Each layer is rebuilt once for its size, which the manifest needs, and to see that it can be.
    fn of(store: &ImageStore, image: &StoredImage) -> Result<Self> {
        let size = |layer: HeldLayer| layer.write_tar(io::sink()).map(|size| (layer, size));
        let layers = image.layers(store)?.into_iter().map(size).collect::<Result<Vec<_>>>();
        let layers = layers.with_context(|| format!("image {}", image.shown()))?;
        let descriptors = image.record.layers.iter().map(|record| {
            let layer = layers.iter().find(|(layer, _)| layer.disk.diff_id == record.diff_id);
            let (_, size) = layer.context("a layer has no disk")?;
            descriptor(MediaType::ImageLayer, record.diff_id, *size)
        });
        let config = image.record.config.as_bytes();
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(descriptor(MediaType::ImageConfig, image.id, config.len() as u64)?)
            .layers(descriptors.collect::<Result<Vec<_>>>()?)
            .build()?;
        let manifest = serde_json::to_vec(&manifest)?;
        let id = Digest::of(&manifest);
        let index = index(image, descriptor(MediaType::ImageManifest, id, manifest.len() as u64)?)?;
        let files = vec![
            ("oci-layout".to_owned(), LAYOUT.to_owned()),
            ("index.json".to_owned(), index),
            (blob(&id), manifest),
            (blob(&image.id), config.to_owned()),
        ];
        Ok(Self { layers, files })
    }
}

/// An index in which the image has each of its tags, or none.
fn index(image: &StoredImage, manifest: Descriptor) -> Result<Vec<u8>> {
    let tagged = image.names.iter().filter_map(|it| it.name.tag.as_ref().map(|tag| (&it.name, tag)));
    let mut manifests: Vec<_> = tagged
        .map(|(name, tag)| {
            let mut manifest = manifest.clone();
            // The first is the specification's, the second what containerd and docker read full names from.
            let annotations = [
                ("org.opencontainers.image.ref.name", tag.clone()),
                ("io.containerd.image.name", name.to_string()),
            ];
            manifest.set_annotations(Some(annotations.map(|(key, value)| (key.to_owned(), value)).into()));
            manifest
        })
        .collect();
    if manifests.is_empty() {
        manifests.push(manifest);
    }
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .build()?;
    // By way of a value, whose keys are sorted: annotations are kept in a map whose order changes from run to run.
    Ok(serde_json::to_vec(&serde_json::to_value(&index)?)?)
}

fn descriptor(media_type: MediaType, digest: Digest, size: u64) -> Result<Descriptor> {
    let digest: oci_spec::image::Digest = digest.to_string().parse()?;
    Ok(Descriptor::new(media_type, size, digest))
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A regular file of the archive.
fn entry(
    out: &mut dyn Write,
    name: &str,
    size: u64,
    data: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    out.write_all(header.as_bytes()).context("cannot write the archive")?;
    data(out)?;
    let padding = usize::try_from(size.next_multiple_of(512) - size)?;
    out.write_all(&[0; 512][..padding]).context("cannot write the archive")
}

/// A folder in `parent` to make a layout in, and the lock on it, which the kernel takes from a process that dies.
fn work_dir(parent: &Path) -> io::Result<(TempDir, fs::File)> {
    loop {
        let work = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        let lock = fs::File::open(work.path())?;
        retry(|| lock.lock())?;
        // Another export may have been faster, and taken it for stale.
        if work.path().exists() {
            return Ok((work, lock));
        }
    }
}

/// Removes work folders in `parent`, those of the user `owner`, whose processes died; as far as it can be done.
fn remove_stale(parent: &Path, owner: u32) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_work = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        // Links are not followed.
        let is_own = || entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == owner);
        if is_work
            && is_own()
            && let Ok(folder) = fs::File::open(entry.path())
            && folder.try_lock().is_ok()
        {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// What is temporary is its owner's alone; a layout is as its user's umask has it, nearly.
fn open_to_all(file: &fs::File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

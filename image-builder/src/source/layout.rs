//! OCI image layout folders (image-spec, image-layout.md). Nothing outside the folder's `blobs/sha256` is opened but
//! `oci-layout` and `index.json`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use oci_spec::image::{Descriptor, ImageIndex, OciLayout};
use serde_json::from_slice;

use crate::digest::Digest;
use crate::image::{self, Blob, Content, Stream, read_bounded};

/// A layout folder of a version we know.
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Checks `oci-layout`.
    ///
    /// # Errors
    /// No layout, or one of another version.
    pub fn open(root: &Path) -> Result<Self> {
        let bytes = read(&root.join("oci-layout")).context("not an OCI image layout folder")?;
        let layout: OciLayout = from_slice(&bytes).context("oci-layout is malformed")?;
        let version = layout.image_layout_version();
        if version != "1.0.0" {
            bail!("image layout version {version:?} is not supported, only 1.0.0");
        }
        Ok(Self { root: root.to_owned() })
    }

    /// The entry point, `index.json`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn index(&self) -> Result<ImageIndex> {
        let bytes = read(&self.root.join("index.json"))?;
        from_slice(&bytes).context("index.json is malformed")
    }
}

impl Content for Layout {
    fn json(&self, descriptor: &Descriptor) -> Result<Stream> {
        Ok(Box::new(open(&path(&self.root, &image::digest(descriptor)?))?))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn Blob>> {
        let digest = image::digest(descriptor)?;
        let path = path(&self.root, &digest);
        let size = std::fs::metadata(&path).with_context(|| format!("blob {}", path.display()))?.len();
        if size != descriptor.size() {
            bail!("blob {digest} has {size} bytes, the manifest says {}", descriptor.size());
        }
        Ok(Arc::new(BlobFile(path)))
    }
}

/// A blob that is a file.
#[derive(Debug)]
pub struct BlobFile(pub PathBuf);

impl Blob for BlobFile {
    fn open(&self) -> Result<Stream> {
        Ok(Box::new(open(&self.0)?))
    }
}

/// Where the blob of `digest` is.
pub fn path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs/sha256").join(digest.hex())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    read_bounded(open(path)?, &path.display().to_string())
        .with_context(|| format!("cannot read {}", path.display()))
}

fn open(path: &Path) -> Result<File> {
    let shown = || format!("cannot open {}", path.display());
    // Looked at before it is opened: opening a FIFO would wait for ever.
    if !std::fs::metadata(path).with_context(shown)?.is_file() {
        bail!("{} is not a regular file", path.display());
    }
    File::open(path).with_context(shown)
}

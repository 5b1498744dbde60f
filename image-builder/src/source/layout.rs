//! OCI image layouts (image-spec, image-layout.md), in folders and in archives. Nothing of them is opened but
//! `oci-layout`, `index.json` and what is in `blobs/sha256`.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use oci_spec::image::{Descriptor, ImageIndex, OciLayout};
use serde_json::from_slice;

use super::files::Files;
use crate::digest::Digest;
use crate::image::{self, Blob, Content, Stream, read_bounded};

/// The file that makes a folder a layout.
pub const MARK: &str = "oci-layout";

/// A layout of a version we know.
pub struct Layout {
    files: Box<dyn Files>,
}

impl Layout {
    /// Checks `oci-layout`.
    ///
    /// # Errors
    /// No layout, or one of another version.
    pub fn open(files: impl Files + 'static) -> Result<Self> {
        let bytes = read(&files, MARK).context("not an OCI image layout")?;
        let layout: OciLayout = from_slice(&bytes).context("oci-layout is malformed")?;
        let version = layout.image_layout_version();
        if version != "1.0.0" {
            bail!("image layout version {version:?} is not supported, only 1.0.0");
        }
        Ok(Self { files: Box::new(files) })
    }

    /// The entry point, `index.json`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn index(&self) -> Result<ImageIndex> {
        from_slice(&read(&*self.files, "index.json")?).context("index.json is malformed")
    }
}

impl Content for Layout {
    fn json(&self, descriptor: &Descriptor) -> Result<Stream> {
        self.files.open(&name(&image::digest(descriptor)?))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn Blob>> {
        let digest = image::digest(descriptor)?;
        let (blob, size) = self.files.blob(&name(&digest))?;
        if size != descriptor.size() {
            bail!("blob {digest} has {size} bytes, the manifest says {}", descriptor.size());
        }
        Ok(blob)
    }
}

/// Where the blob of `digest` is.
pub fn name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn read(files: &dyn Files, name: &str) -> Result<Vec<u8>> {
    read_bounded(files.open(name)?, name).with_context(|| format!("cannot read {name}"))
}

//! Reading a layout's JSON blobs: bounded, verified.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use oci_spec::image::{Descriptor, ImageIndex, OciLayout};
use serde_json::from_slice;

use crate::digest::Digest;

/// Larger indexes, manifests and configs are refused: registries have the same bound.
const MAX_JSON: u64 = 4 << 20;

/// A layout folder of a version we know.
pub struct Blobs {
    root: PathBuf,
}

impl Blobs {
    /// Checks `oci-layout`.
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
    pub fn index(&self) -> Result<ImageIndex> {
        let bytes = read(&self.root.join("index.json"))?;
        from_slice(&bytes).context("index.json is malformed")
    }

    /// The JSON blob of `descriptor`, which is a `what`.
    pub fn json<T: serde::de::DeserializeOwned>(&self, descriptor: &Descriptor, what: &str) -> Result<T> {
        let expected = digest(descriptor)?;
        let bytes = read(&path(&self.root, &expected)).with_context(|| what.to_owned())?;
        if bytes.len() as u64 != descriptor.size() {
            bail!("{what} {expected} has {} bytes, its descriptor says {}", bytes.len(), descriptor.size());
        }
        let found = Digest::of(&bytes);
        if found != expected {
            bail!("{what} {expected} is damaged: its digest is {found}");
        }
        from_slice(&bytes).with_context(|| format!("{what} {expected} is malformed"))
    }
}

/// The descriptor's digest.
pub fn digest(descriptor: &Descriptor) -> Result<Digest> {
    descriptor.digest().to_string().parse()
}

/// Where the blob of `digest` is.
pub fn path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs/sha256").join(digest.hex())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let shown = || format!("cannot read {}", path.display());
    // Looked at before it is opened: opening a FIFO would wait for ever.
    if !std::fs::metadata(path).with_context(shown)?.is_file() {
        bail!("{} is not a regular file", path.display());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(shown)?;
    file.take(MAX_JSON + 1).read_to_end(&mut bytes).with_context(shown)?;
    if bytes.len() as u64 > MAX_JSON {
        bail!("{} is larger than {} MiB", path.display(), MAX_JSON >> 20);
    }
    Ok(bytes)
}

//! OCI image layout folders (image-spec, image-layout.md): from a reference to a checked config and its layers.
//!
//! Promises: every blob that is read is bounded, and verified against the size and digest of its descriptor; what is not
//! supported is refused by name; nothing outside the folder's `blobs/sha256` is opened but `oci-layout` and `index.json`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};

use crate::digest::Digest;

mod blobs;
mod reference;
mod select;

use blobs::Blobs;
use reference::Reference;

/// An image whose manifest and config have been read and verified; its layers are only known to be there.
#[derive(Debug)]
pub struct Image {
    /// The image config (image-spec, config.md).
    pub config: ImageConfiguration,
    /// Layers, the lowest first.
    pub layers: Vec<Layer>,
    /// Digest of the manifest: the image's identity.
    pub manifest_digest: Digest,
}

/// A layer as its image describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the uncompressed tar stream.
    pub diff_id: Digest,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob, in bytes.
    pub size: u64,
    /// The blob's media type, as the manifest gives it.
    pub media_type: String,
    /// How the blob is packed, by its media type.
    pub compression: Compression,
    /// Where the blob is.
    pub blob: PathBuf,
}

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar stream.
    None,
    /// gzip, one member or several.
    Gzip,
}

impl Image {
    /// Opens the image that `reference` names: `PATH`, `PATH:TAG` or `PATH@sha256:...`, where PATH is an OCI image
    /// layout folder. A tag is the annotation `org.opencontainers.image.ref.name`, or what stands after its last colon.
    /// Of several platforms, linux/amd64 is taken.
    ///
    /// # Errors
    /// No such folder, a layout that is broken or not supported, a blob that does not verify, none or several images
    /// that match; each names the image and the part.
    pub fn open(reference: &str) -> Result<Self> {
        open(reference).with_context(|| format!("image {reference:?}"))
    }
}

fn open(reference: &str) -> Result<Image> {
    let reference = Reference::parse(reference)?;
    let blobs = Blobs::open(&reference.path)?;
    let descriptor = select::manifest(&blobs, &reference.selector)?;
    let manifest_digest = blobs::digest(&descriptor)?;
    let manifest: ImageManifest = blobs.json(&descriptor, "manifest")?;
    let config = read_config(&blobs, manifest.config())?;
    let layers = layers(&reference.path, &manifest, &config)?;
    Ok(Image { config, layers, manifest_digest })
}

fn read_config(blobs: &Blobs, descriptor: &Descriptor) -> Result<ImageConfiguration> {
    let media_type = descriptor.media_type().as_ref();
    if !matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    ) {
        bail!("config of media type {media_type:?} is not supported: this is not a container image");
    }
    let config: ImageConfiguration = blobs.json(descriptor, "config")?;
    let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
    if (os.as_str(), architecture.as_str()) != ("linux", "amd64") {
        bail!("an image for {os}/{architecture} is not supported, only linux/amd64");
    }
    Ok(config)
}

fn layers(root: &Path, manifest: &ImageManifest, config: &ImageConfiguration) -> Result<Vec<Layer>> {
    let diff_ids = config.rootfs().diff_ids();
    let count = manifest.layers().len();
    if diff_ids.len() != count {
        bail!("the manifest has {count} layers, but the config {} diffIDs", diff_ids.len());
    }
    let layer = |(i, (blob, diff_id)): (usize, (&Descriptor, &String))| {
        layer(root, blob, diff_id).with_context(|| format!("layer {} of {count}", i + 1))
    };
    manifest.layers().iter().zip(diff_ids).enumerate().map(layer).collect()
}

fn layer(root: &Path, blob: &Descriptor, diff_id: &str) -> Result<Layer> {
    let media_type = blob.media_type().as_ref().to_owned();
    let compression = match media_type.as_str() {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Compression::None
        }
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Compression::Gzip,
        _ => bail!("media type {media_type:?} is not supported"),
    };
    let digest = blobs::digest(blob)?;
    let path = blobs::path(root, &digest);
    let size = std::fs::metadata(&path).with_context(|| format!("blob {}", path.display()))?.len();
    if size != blob.size() {
        bail!("blob {digest} has {size} bytes, the manifest says {}", blob.size());
    }
    Ok(Layer {
        diff_id: diff_id.parse().context("diffID")?,
        digest,
        size,
        media_type,
        compression,
        blob: path,
    })
}

#[cfg(test)]
mod tests;

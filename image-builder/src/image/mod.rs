//! Images: a checked config, and layers whose blobs can be read, wherever they are kept.
//!
//! Promises: what is read of an index, manifest or config is bounded, and verified against the size and digest of its
//! descriptor; what is not supported is refused by name. [`crate::source`] knows the places images come from.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex};
use serde::de::IgnoredAny;

use crate::digest::Digest;

mod content;
mod document;
mod media_type;
mod platform;
mod select;

pub use content::{Blob, Content, MAX_JSON, Stream, digest, read_bounded, read_json};
pub use document::parse_config;
pub use platform::Platform;
pub use select::Selector;

/// An image whose manifest and config have been read and verified. Its layers' blobs are read, and verified, when a
/// disk is made of them.
#[derive(Clone, Debug)]
pub struct Image {
    /// The image config (image-spec, config.md).
    pub config: ImageConfiguration,
    /// The same, as its bytes stand in the source: their digest is the image's ID.
    pub config_json: Vec<u8>,
    /// Layers, the lowest first.
    pub layers: Vec<Layer>,
    /// Digest of the manifest, where there is one: the archives of `docker save` have none.
    pub manifest_digest: Option<Digest>,
    /// Digest by which its registry knows it, where it came from one: of what its name stood for, the manifest or an index.
    pub registry_digest: Option<Digest>,
}

/// A layer as its image describes it.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Digest of the uncompressed tar stream.
    pub diff_id: Digest,
    /// Digest of the blob, where the source knows it.
    pub digest: Option<Digest>,
    /// Size of the blob in bytes, where the source knows it.
    pub size: Option<u64>,
    /// The blob itself: a tar stream, compressed or not (see [`crate::compression`]).
    pub blob: Arc<dyn Blob>,
}

impl Image {
    /// The image that `selector` and `platform` choose from `index`.
    ///
    /// # Errors
    /// None or several images match; a part is missing, does not verify or is not supported.
    pub fn choose(
        content: &dyn Content,
        index: &ImageIndex,
        selector: &Selector,
        platform: &Platform,
    ) -> Result<Self> {
        Self::read(content, &select::manifest(content, index, selector, platform)?, platform)
    }

    /// All images for `platform` that `selector` matches, each once with the names that `index` gives it.
    ///
    /// # Errors
    /// There is none; a part is missing, does not verify or is not supported.
    pub fn choose_all(
        content: &dyn Content,
        index: &ImageIndex,
        selector: &Selector,
        platform: &Platform,
    ) -> Result<Vec<(Vec<String>, Self)>> {
        let found = select::manifests(content, index, selector, platform)?;
        let read = |(names, descriptor)| Ok((names, Self::read(content, &descriptor, platform)?));
        found.into_iter().map(read).collect()
    }

    /// The image whose manifest is `descriptor`.
    ///
    /// # Errors
    /// A part is missing, does not verify or is not supported.
    pub fn read(content: &dyn Content, descriptor: &Descriptor, platform: &Platform) -> Result<Self> {
        let manifest = document::read_manifest(content, descriptor)?;
        let media_type = manifest.config().media_type().as_ref();
        if !media_type::is_config(media_type) {
            bail!("config of media type {media_type:?} is not supported: this is not a container image");
        }
        let (config_json, IgnoredAny) = read_json(content, manifest.config(), "config")?;
        let layers = manifest.layers().iter().map(|blob| (blob, content)).collect::<Vec<_>>();
        Self::assemble(
            config_json,
            Some(digest(descriptor)?),
            platform,
            &layers,
            |(blob, content), diff_id| layer(*content, blob, diff_id),
        )
    }

    /// Puts together an image from its config and whatever `parts` its layers are made of, one a diffID.
    ///
    /// # Errors
    /// The config is malformed or for another platform, or has another number of diffIDs; `layer`'s.
    pub fn assemble<P>(
        config_json: Vec<u8>,
        manifest_digest: Option<Digest>,
        platform: &Platform,
        parts: &[P],
        layer: impl Fn(&P, Digest) -> Result<Layer>,
    ) -> Result<Self> {
        let config = parse_config(&config_json)?;
        if !platform.accepts_config(&config) {
            let found = platform::shown(config.os(), config.architecture(), None);
            bail!("it is for {found}, and {platform} is wanted");
        }
        let (diff_ids, count) = (config.rootfs().diff_ids(), parts.len());
        if diff_ids.len() != count {
            bail!("the manifest has {count} layers, but the config {} diffIDs", diff_ids.len());
        }
        let layer = |(i, (part, diff_id)): (usize, (&P, &String))| {
            let diff_id = diff_id.parse().context("diffID");
            diff_id.and_then(|d| layer(part, d)).with_context(|| format!("layer {} of {count}", i + 1))
        };
        let layers = parts.iter().zip(diff_ids).enumerate().map(layer).collect::<Result<_>>()?;
        Ok(Self { config, config_json, layers, manifest_digest, registry_digest: None })
    }

    /// The image's ID, as docker has it: the digest of its config.
    pub fn id(&self) -> Digest {
        Digest::of(&self.config_json)
    }
}

fn layer(content: &dyn Content, blob: &Descriptor, diff_id: Digest) -> Result<Layer> {
    media_type::check_layer(blob.media_type().as_ref())?;
    let (digest, size) = (Some(digest(blob)?), Some(blob.size()));
    Ok(Layer { diff_id, digest, size, blob: content.blob(blob)? })
}

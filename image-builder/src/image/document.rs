//! Manifests and indexes: each is read as what its descriptor says it is, and as nothing else.

use anyhow::{Context, Result, bail};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::from_slice;

use super::content::{Content, read_json};

/// What tells the kinds of documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
}

/// The manifest of `descriptor`.
///
/// # Errors
/// As [`read_json`]; it is an index as well, or of schema 1.
pub fn read_manifest(content: &dyn Content, descriptor: &Descriptor) -> Result<ImageManifest> {
    read(content, descriptor, "manifest", |shape| shape.manifests.is_some())
}

/// The index of `descriptor`.
///
/// # Errors
/// As [`read_json`]; it is a manifest as well.
pub fn read_index(content: &dyn Content, descriptor: &Descriptor) -> Result<ImageIndex> {
    read(content, descriptor, "index", |shape| shape.layers.is_some() || shape.config.is_some())
}

fn read<T: DeserializeOwned>(
    content: &dyn Content,
    descriptor: &Descriptor,
    what: &str,
    is_other: impl Fn(&Shape) -> bool,
) -> Result<T> {
    let (bytes, shape): (_, Shape) = read_json(content, descriptor, what)?;
    let digest = descriptor.digest();
    if shape.schema_version == Some(1) {
        bail!("{what} {digest} is of schema 1 (docker before 1.10), which is not supported");
    }
    // It would be one image to us and another to who reads it otherwise (CVE-2021-41190).
    if is_other(&shape) {
        bail!("{what} {digest} is ambiguous: it could be a manifest and an index");
    }
    from_slice(&bytes).with_context(|| format!("{what} {digest} is malformed"))
}

//! Manifests and indexes: each is read as what its descriptor says it is, and as nothing else. Configs.

use anyhow::{Context, Result, bail};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, from_slice, from_value};

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
    read(content, descriptor, "manifest", ["", "layers"], |shape| shape.manifests.is_some())
}

/// The index of `descriptor`.
///
/// # Errors
/// As [`read_json`]; it is a manifest as well.
pub fn read_index(content: &dyn Content, descriptor: &Descriptor) -> Result<ImageIndex> {
    let is_other = |shape: &Shape| shape.layers.is_some() || shape.config.is_some();
    read(content, descriptor, "index", ["", "manifests"], is_other)
}

/// The config in `bytes`.
///
/// # Errors
/// It is malformed.
pub fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration> {
    parse(bytes, ["/rootfs", "diff_ids"]).context("the config is malformed")
}

/// The document in `bytes`. Its `list`, which is called so in what a JSON pointer leads to, may be null or missing if it is
/// empty: so Go writes it, and with it docker, of images `FROM scratch` without a layer.
fn parse<T: DeserializeOwned>(bytes: &[u8], [parent, list]: [&str; 2]) -> serde_json::Result<T> {
    from_slice(bytes).or_else(|error| {
        let mut document: Value = from_slice(bytes)?;
        match document.pointer_mut(parent) {
            Some(Value::Object(parent)) if parent.get(list).is_none_or(Value::is_null) => {
                parent.insert(list.to_owned(), Value::Array(Vec::new()));
                from_value(document)
            }
            _ => Err(error),
        }
    })
}

fn read<T: DeserializeOwned>(
    content: &dyn Content,
    descriptor: &Descriptor,
    what: &str,
    list: [&str; 2],
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
    parse(&bytes, list).with_context(|| format!("{what} {digest} is malformed"))
}

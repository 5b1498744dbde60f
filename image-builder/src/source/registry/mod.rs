//! Images in registries: the OCI distribution-spec's "pull", over HTTP.
//!
//! Promises:
//! - What a registry says is verified by digest, the header `Docker-Content-Digest` not looked at; only a tag is taken on
//!   the registry's word.
//! - Credentials and tokens go to the registry they are for, and to the token server it names, by https; in no error and
//!   no `Debug` do they show. Plain http and unchecked certificates are for this machine, or for `insecure`.
//! - All is bounded: time, sizes, redirects, tries. Blobs resume where a connection broke.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use oci_spec::image::{Descriptor, ImageIndex, ImageIndexBuilder, MediaType};
use serde::Deserialize;
use serde_json::Value;

use self::credentials::Keeper;
use self::repository::{Manifest, Repository, RepositoryContent};
use self::retry::Limits;
use crate::digest::Digest;
use crate::image::{Blob, Content, Image, MAX_JSON, Platform, Selector, Stream};
use crate::source::Name;

mod auth;
mod blob;
mod challenge;
mod credentials;
mod helper;
mod http;
mod message;
mod origin;
mod proxy;
mod redirect;
mod repository;
mod retry;
mod secret;
mod status;

/// The image `name` for `platform`. With `insecure`, plain http will do where there is no https, and the certificate of the
/// registry's host is not checked; for loopback addresses that is always so (docker's `insecure-registries`).
///
/// # Errors
/// No such image, none for the platform; no answer, no access; a part that does not verify or is not supported.
pub fn open(name: &Name, platform: &Platform, insecure: bool) -> Result<Image> {
    let limits = Limits::default();
    pull(name, platform, insecure, Keeper::from_environment(limits.helper), limits)
}

fn pull(name: &Name, platform: &Platform, insecure: bool, keeper: Keeper, limits: Limits) -> Result<Image> {
    let repository = Arc::new(Repository::new(name, insecure, keeper, limits)?);
    let manifest = repository.manifest(&name.reference())?;
    let root = descriptor(&manifest).with_context(|| format!("manifest {}", name.reference()))?;
    let found = Digest::of(&manifest.bytes);
    if let Some(digest) = name.digest.filter(|&digest| digest != found) {
        bail!("the registry gave another manifest for {digest}: its digest is {found}");
    }
    let content = Rooted { content: RepositoryContent(repository), root: (root.clone(), manifest.bytes) };
    let index: ImageIndex = ImageIndexBuilder::default().schema_version(2u32).manifests([root]).build()?;
    let image = Image::choose(&content, &index, &Selector::Any, platform)?;
    Ok(Image { registry_digest: Some(found), ..image })
}

/// What tells the kinds of documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Value>,
    layers: Option<Value>,
}

/// The descriptor that would lead to `manifest`.
fn descriptor(manifest: &Manifest) -> Result<Descriptor> {
    if manifest.bytes.len() as u64 > MAX_JSON {
        bail!("it is larger than {} MiB", MAX_JSON >> 20);
    }
    let kind: Kind = serde_json::from_slice(&manifest.bytes).context("it is malformed")?;
    if kind.schema_version == Some(1) {
        bail!("docker's schema 1 is not supported (push the image again with a docker of 2016 or later)");
    }
    // A document that is both would be another image to others (CVE-2021-41190).
    if kind.manifests.is_some() && kind.layers.is_some() {
        bail!("it is ambiguous: both an index and a manifest");
    }
    let media_type =
        kind.media_type.or_else(|| manifest.media_type.clone()).context("it has no media type")?;
    let digest: oci_spec::image::Digest = Digest::of(&manifest.bytes).to_string().parse()?;
    Ok(Descriptor::new(MediaType::from(media_type.as_str()), manifest.bytes.len() as u64, digest))
}

/// A repository of which one document was read already.
struct Rooted {
    content: RepositoryContent,
    root: (Descriptor, Vec<u8>),
}

impl Content for Rooted {
    fn json(&self, descriptor: &Descriptor) -> Result<Stream> {
        if *descriptor == self.root.0 {
            return Ok(Box::new(std::io::Cursor::new(self.root.1.clone())));
        }
        self.content.json(descriptor)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn Blob>> {
        self.content.blob(descriptor)
    }
}

#[cfg(test)]
mod tests;

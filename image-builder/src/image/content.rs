//! What the sources of images have in common: content by descriptor, read bounded and verified.

use std::fmt::Debug;
use std::io::Read;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use oci_spec::image::Descriptor;
use serde::de::DeserializeOwned;
use serde_json::from_slice;

use crate::digest::Digest;

/// Larger indexes, manifests and configs are refused: registries have the same bound.
pub const MAX_JSON: u64 = 4 << 20;

/// A stream of bytes that a thread of its own can read.
pub type Stream = Box<dyn Read + Send>;

/// Where an image's parts are: a layout, an archive, a registry. What it gives out is not verified yet.
pub trait Content: Send + Sync {
    /// The bytes of an index, manifest or config.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    fn json(&self, descriptor: &Descriptor) -> Result<Stream>;

    /// The blob of a layer.
    ///
    /// # Errors
    /// It is known not to be there, or to have another size.
    fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn Blob>>;
}

/// A layer's blob, which can be read when it is wanted, and again.
pub trait Blob: Debug + Send + Sync {
    /// The blob from its first byte. The reader verifies size and digest.
    ///
    /// # Errors
    /// It cannot be read.
    fn open(&self) -> Result<Stream>;
}

/// The descriptor's digest.
///
/// # Errors
/// It is malformed, or of another algorithm than SHA-256.
pub fn digest(descriptor: &Descriptor) -> Result<Digest> {
    descriptor.digest().to_string().parse()
}

/// The JSON of `descriptor`, which is a `what`: the bytes, and what they say.
///
/// # Errors
/// Larger than [`MAX_JSON`], another size or digest than the descriptor's, malformed.
pub fn read_json<T: DeserializeOwned>(
    content: &dyn Content,
    descriptor: &Descriptor,
    what: &str,
) -> Result<(Vec<u8>, T)> {
    let expected = digest(descriptor)?;
    let bytes = content
        .json(descriptor)
        .and_then(|stream| read_bounded(stream, &format!("{what} {expected}")))
        .with_context(|| format!("cannot read {what} {expected}"))?;
    if bytes.len() as u64 != descriptor.size() {
        bail!("{what} {expected} has {} bytes, its descriptor says {}", bytes.len(), descriptor.size());
    }
    let found = Digest::of(&bytes);
    if found != expected {
        bail!("{what} {expected} is damaged: its digest is {found}");
    }
    let value = from_slice(&bytes).with_context(|| format!("{what} {expected} is malformed"))?;
    Ok((bytes, value))
}

/// All of `stream`, which is `what`, up to [`MAX_JSON`] bytes.
///
/// # Errors
/// It is larger, or cannot be read.
pub fn read_bounded(stream: impl Read, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(MAX_JSON + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_JSON {
        bail!("{what} is larger than {} MiB", MAX_JSON >> 20);
    }
    Ok(bytes)
}

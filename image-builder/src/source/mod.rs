//! Where images come from: from a reference, as a user gives it, to an [`Image`].

use anyhow::{Context, Result};

use crate::image::{Image, Platform};

mod layout;
mod reference;

pub use layout::{BlobFile, Layout};
use reference::Reference;

/// Opens the image that `reference` names: `PATH`, `PATH:TAG` or `PATH@sha256:...`, where PATH is an OCI image
/// layout folder. A tag is the annotation `org.opencontainers.image.ref.name`, or what stands after its last colon.
///
/// # Errors
/// No such folder, a layout that is broken or not supported, a blob that does not verify, none or several images
/// that match; each names the image and the part.
pub fn open(reference: &str, platform: &Platform) -> Result<Image> {
    let open = || {
        let reference = Reference::parse(reference)?;
        let layout = Layout::open(&reference.path)?;
        Image::choose(&layout, &layout.index()?, &reference.selector, platform)
    };
    open().with_context(|| format!("image {reference:?}"))
}

#[cfg(test)]
mod tests;

//! Where images come from: from a [`Reference`], as a user gives it, to an [`Image`].

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::image::{Image, Platform};

mod layout;
mod name;
mod reference;
mod registry;

pub use layout::{BlobFile, Layout};
pub use name::{DOCKER_HUB, Name};
pub use reference::{Format, Reference};

/// How images are opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which image of several is meant.
    pub platform: Platform,
    /// Folder for what cannot be read where it is: a stream, a compressed archive. It becomes a file without a name there,
    /// so nothing is left of it. The default is the store's default folder: /tmp may be in memory.
    pub spool: Option<PathBuf>,
    /// The most bytes of such a file, and of what archives unpack to.
    pub max_size: u64,
    /// Of a registry, take plain http where it has no https, and any certificate. Loopback addresses need no such leave.
    pub insecure: bool,
}

impl Options {
    /// The default of [`Options::max_size`]: 64 GiB.
    pub const MAX_SIZE: u64 = 64 << 30;
}

impl Default for Options {
    fn default() -> Self {
        Self { platform: Platform::default(), spool: None, max_size: Self::MAX_SIZE, insecure: false }
    }
}

/// Opens the image that `reference` names; see [`Reference`] for its forms. A tag is the annotation
/// `org.opencontainers.image.ref.name`, or what stands after its last colon.
///
/// # Errors
/// Nothing is there, it is broken or not supported, a blob does not verify, none or several images match; each names
/// the image and the part.
pub fn open(reference: &str, options: &Options) -> Result<Image> {
    let open = || match Reference::parse(reference)? {
        Reference::Layout { path, selector } => {
            let layout = Layout::open(&path)?;
            Image::choose(&layout, &layout.index()?, &selector, &options.platform)
        }
        Reference::Archive { .. } | Reference::Stdin { .. } => {
            bail!(
                "archives are not supported, only OCI image layout folders (made by: skopeo copy docker://NAME oci:DIR)"
            )
        }
        Reference::Name(name) => registry::open(&name, &options.platform, options.insecure),
    };
    open().with_context(|| format!("image {reference:?}"))
}

#[cfg(test)]
mod tests;

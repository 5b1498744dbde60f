//! How a user names an image: `PATH`, `PATH:TAG`, `PATH@sha256:...`.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::image::Selector;

/// A parsed reference.
#[derive(Debug, PartialEq, Eq)]
pub struct Reference {
    /// An existing folder.
    pub path: PathBuf,
    /// Which of the folder's images.
    pub selector: Selector,
}

impl Reference {
    /// A folder that exists is taken at its word, colons and all; then the parts are tried.
    pub fn parse(text: &str) -> Result<Self> {
        let whole = PathBuf::from(text);
        if whole.is_dir() {
            return Ok(Self { path: whole, selector: Selector::Any });
        }
        let (path, selector) = if let Some((path, digest)) = text.rsplit_once('@') {
            (path, Selector::Digest(digest.parse()?))
        } else if let Some((path, tag)) = text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            (path, Selector::Tag(tag.to_owned()))
        } else {
            (text, Selector::Any)
        };
        let path = PathBuf::from(path);
        if path.is_dir() {
            return Ok(Self { path, selector });
        }
        let what = if path.exists() || whole.exists() { "not a folder" } else { "no such folder" };
        bail!("{what}; an OCI image layout folder is expected (made by: skopeo copy docker://NAME oci:DIR)")
    }
}

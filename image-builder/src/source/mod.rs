//! Where images come from: from a [`Reference`], as a user gives it, to an [`Image`].

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::image::{Image, Platform, Selector};
use crate::store;

mod archive;
mod docker;
mod files;
mod layout;
mod name;
mod reference;
mod registry;
mod spool;

pub use archive::Archive;
pub use files::{BlobFile, Files, Folder};
pub use layout::Layout;
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
/// `org.opencontainers.image.ref.name` or `io.containerd.image.name`, in docker's archives one of the `RepoTags`, or what stands
/// after its last colon.
///
/// # Errors
/// Nothing is there, it is broken or not supported, a blob does not verify, none or several images match; each names
/// the image and the part.
pub fn open(reference: &str, options: &Options) -> Result<Image> {
    let platform = &options.platform;
    let open = || {
        let (opened, selector) = match Reference::parse(reference)? {
            Reference::Name(name) => return registry::open(&name, platform, options.insecure),
            local => local.open(options)?,
        };
        match opened {
            Opened::Docker(archive) => docker::open(&archive, &selector, platform),
            Opened::Layout(layout) => Image::choose(&layout, &layout.index()?, &selector, platform),
        }
    };
    open().with_context(|| format!("image {reference:?}"))
}

/// All images of the layout or archive that `reference` names, or those that its tag or digest chooses; each with the full
/// names that it has there. (A tag alone is no name.)
///
/// # Errors
/// As [`open`]; a name of a registry's image.
pub fn open_all(reference: &str, options: &Options) -> Result<Vec<(Vec<Name>, Image)>> {
    let platform = &options.platform;
    let open = || {
        let (opened, selector) = match Reference::parse(reference)? {
            Reference::Name(name) => bail!("no such file or folder ({name} would be a registry's image)"),
            local => local.open(options)?,
        };
        match opened {
            Opened::Docker(archive) => docker::open_all(&archive, &selector, platform),
            Opened::Layout(layout) => Image::choose_all(&layout, &layout.index()?, &selector, platform),
        }
    };
    let images = open().with_context(|| format!("image {reference:?}"))?;
    Ok(images.into_iter().map(|(names, image)| (full_names(&names), image)).collect())
}

/// The names among `names` that say more than a tag. By a digest a registry knows an image, and here there is none.
fn full_names(names: &[String]) -> Vec<Name> {
    let full = names.iter().filter(|name| name.contains([':', '/']));
    let mut full: Vec<Name> = full.filter_map(|name| name.parse().ok()).collect();
    full.retain(|name| name.digest.is_none());
    full.sort();
    full.dedup();
    full
}

/// What a reference to something on this machine leads to.
enum Opened {
    Layout(Layout),
    Docker(Archive),
}

impl Reference {
    /// Opens a layout or an archive, and tells which of its images are meant.
    fn open(self, options: &Options) -> Result<(Opened, Selector)> {
        Ok(match self {
            Self::Layout { path, selector } => (Opened::Layout(Layout::open(Folder(path))?), selector),
            Self::Archive { path, format, selector } => {
                let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
                (archive(file, format, options)?, selector)
            }
            Self::Stdin { selector } => {
                let stdin = io::stdin();
                if stdin.is_terminal() {
                    bail!("standard input is a terminal, and an archive is expected there");
                }
                (archive(stdin.as_fd().try_clone_to_owned()?.into(), None, options)?, selector)
            }
            Self::Name(name) => bail!("{name} is not on this machine"),
        })
    }
}

/// Of an archive that is both, the OCI layout counts: it has digests for everything, and all the platforms.
fn archive(file: File, format: Option<Format>, options: &Options) -> Result<Opened> {
    let spool = options.spool.clone().map_or_else(store::default_dir, Ok)?;
    let archive = Archive::open(file, &spool, options.max_size)?;
    match (format, archive.has(layout::MARK), archive.has(docker::MARK)) {
        (None | Some(Format::Oci), true, _) => Ok(Opened::Layout(Layout::open(archive)?)),
        (None | Some(Format::Docker), _, true) => Ok(Opened::Docker(archive)),
        (Some(Format::Oci), ..) => bail!("not an OCI archive: there is no {} in it", layout::MARK),
        (Some(Format::Docker), ..) => {
            bail!("not an archive of docker save: there is no {} in it", docker::MARK)
        }
        (None, ..) if archive.has("repositories") => {
            bail!("an archive of docker before 1.10, which is not supported: load it there, and save it anew")
        }
        (None, ..) => bail!(
            "not an image archive: there is neither {} nor {} in it (docker export writes a file tree, not an image: docker save)",
            layout::MARK,
            docker::MARK
        ),
    }
}

#[cfg(test)]
mod tests;

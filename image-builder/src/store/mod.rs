//! The store: images and their layers' disks, shared by all images and by all processes at once.
//!
//! ```text
//! version                           of this form: 1
//! lock                              flock: see below
//! names/HEX.json                    a name and the image it stands for; HEX is the digest of the name
//! images/sha256/HEX.json            an image: its config, its layers; HEX is its ID, the digest of its config
//! layers/sha256/HEX.erofs           a layer's disk, with its hash tree; HEX is the diffID
//! layers/sha256/HEX.ext4            the same tree as ext4, where that was asked for ([`LayerFs`])
//! layers/sha256/HEX.tarsplit        its recipe: what of the tar stream is not on the disk
//! chains/sha256/HEX.erofs           the metadata that make one disk of a chain of layers ([`ChainDisk`]); HEX is the chainID
//! .../.pending-*                    being written, where files without a name are not to be had
//! ```
//!
//! Promises:
//! - What has a name is whole: files are written without one (`O_TMPFILE`), synced, and linked or renamed in; a layer's
//!   only when the blob's size and digest and the diffID agree with the image. A process that is killed at any moment
//!   leaves nothing but what [`ImageStore::prune`] clears away; nothing it leaves is ever mistaken for a layer or an image.
//! - Order: recipe, disk, image, name; removed in the reverse. So a disk has its recipe, a name its image, and an image
//!   its layers (unless someone removes them by hand: then they are missing, and the next pull makes them anew).
//! - Two processes that build the same layer both succeed; one disk stays.
//! - Who makes, picks or runs a layer holds a shared flock on its disk ([`HeldLayer`]), so an image that is being pulled
//!   or run loses nothing. Removing takes an exclusive one without waiting and leaves what it does not get.
//! - The store's lock is shared for the moment of writing a record and exclusive while something is removed; no download
//!   is ever waited for. Reading takes no lock, and works on a read-only folder.

use std::path::PathBuf;

use anyhow::{Context, Result};

mod chain;
mod export;
mod ext4;
mod fetch;
mod folder;
mod images;
mod layers;
mod pending;
mod pipe;
mod recipe;
mod record;
mod remove;
mod unpack;
mod verify;
mod writeback;

pub use chain::{ChainDisk, chain_id};
pub use ext4::LayerFs;
pub use fetch::{Event, topmost};
pub use images::{ImageStore, StoredImage};
pub use layers::{HeldLayer, LayerDisk, LayerStore};
pub use record::{DamagedRecord, ImageRecord, LayerRecord, NameRecord};
pub use remove::Removed;

/// Where the store is unless the user says: `$CONTAINERVM_STORE`, else `$XDG_DATA_HOME/containervm`, else
/// `~/.local/share/containervm`.
///
/// # Errors
/// None of the three variables (`HOME` is the last) is set.
pub fn default_dir() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // The XDG base directory specification: a relative XDG_DATA_HOME is to be ignored.
    let data_home = variable("XDG_DATA_HOME").filter(|p| p.is_absolute());
    variable("CONTAINERVM_STORE")
        .or_else(|| data_home.map(|d| d.join("containervm")))
        .or_else(|| variable("HOME").map(|h| h.join(".local/share/containervm")))
        .context("no place for the store: set CONTAINERVM_STORE, XDG_DATA_HOME or HOME")
}

#[cfg(test)]
mod tests;

//! The EROFS writer: one pass over a layer's tar stream, no root, no mount, no unpacked tree. [`reader`] reads it back.
//!
//! On the disk, in 4 KiB blocks (Linux, `fs/erofs/erofs_fs.h`; `Documentation/filesystems/erofs.rst`):
//!
//! ```text
//! block 0        superblock at byte 1024
//! data           files, each from a block of its own, in the order of the archive
//! meta           inodes (root first), each with its xattrs and, where they fit, a symlink's target or a directory's tail
//! blocks         full directory blocks
//! ```
//!
//! Promises:
//! - File data is never compressed nor packed (`EROFS_INODE_FLAT_PLAIN`), so that it can be mapped (DAX). Symlinks and
//!   small directories stand in the metadata: the kernel never maps those, and a block for each would be waste.
//! - Inodes are the extended ones: 32-bit owners, nanosecond times.
//! - The content is overlayfs's own form of a layer, see [`layer`].
//! - The same archive gives the same bytes: nothing comes from the clock, the machine or a hash's order.
//! - Memory grows with the entries, never with file contents, and is bounded ([`tree::MAX_METADATA`]).

use std::io::{BufRead, Seek, Write};

use anyhow::Result;

use crate::tarball;

pub use reader::Reader;

mod dirent;
mod image;
pub mod layer;
pub mod merge;
mod output;
mod path;
pub mod reader;
pub mod superblock;
pub mod tree;
mod xattr;

/// Size of a block, in bytes.
pub const BLOCK: u64 = BLOCK_SIZE as u64;
/// The same, where it is the length of an array.
pub const BLOCK_SIZE: usize = 4096;

/// How a disk is to be made. A bare UUID takes the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// The filesystem's UUID.
    pub uuid: [u8; 16],
    /// Most bytes that the disk may have, holes of sparse files included: a few kilobytes of archive can ask for
    /// petabytes.
    pub max_size: u64,
}

impl WriteOptions {
    /// The [`WriteOptions::max_size`] that a bare UUID takes: 64 GiB, several times the largest layers in use.
    pub const MAX_SIZE: u64 = 64 << 30;
}

impl From<[u8; 16]> for WriteOptions {
    fn from(uuid: [u8; 16]) -> Self {
        Self { uuid, max_size: Self::MAX_SIZE }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Length of the filesystem, in bytes; a multiple of [`BLOCK`].
    pub length: u64,
    /// Inodes in it, the root included.
    pub inodes: u64,
}

/// Writes the EROFS image of the layer whose uncompressed tar stream is `tar` to `out`, from position 0 on.
///
/// `tar` is read up to its end mark, not further.
///
/// # Errors
/// A stream that is malformed, an entry that is hostile or not supported (named), a disk over `max_size`, and those of
/// `out`; what was written by then is of no use.
///
/// ```
/// let tar = image_builder::testimage::Tar::new().file("hello", 0o644, b"hi").finish();
/// let mut disk = std::io::Cursor::new(Vec::new());
/// let summary = image_builder::erofs::write_layer(&tar[..], [7; 16], &mut disk)?;
/// assert_eq!(disk.get_ref().len() as u64, summary.length);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn write_layer(
    tar: impl BufRead,
    options: impl Into<WriteOptions>,
    out: impl Write + Seek,
) -> Result<Summary> {
    write_layer_recorded(tar, options, out, None)
}

/// [`write_layer`], with a `record` of where on the disk each file's data stand, and of the stream's other bytes.
///
/// # Errors
/// As [`write_layer`], and the record's.
pub fn write_layer_recorded(
    tar: impl BufRead,
    options: impl Into<WriteOptions>,
    out: impl Write + Seek,
    record: Option<&mut dyn tarball::Record>,
) -> Result<Summary> {
    let WriteOptions { uuid, max_size } = options.into();
    let mut output = output::Output::new(out, max_size)?;
    let tree = layer::read(&mut tarball::Reader::new(tar, record), &mut output)?;
    image::finish(&tree, output, uuid)
}

#[cfg(test)]
mod tests;

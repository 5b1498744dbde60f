//! Reading tar streams: ustar, V7, GNU and PAX (POSIX.1-2017, `pax`; GNU tar's `tar.h`), one entry after another.
//!
//! Promises: nothing is buffered but headers (bounded), no byte of input makes it panic, every error names the entry or
//! the offset, and what is not understood is refused by name, never guessed at. Where the format is ambiguous it
//! reads as Go's `archive/tar` does, for that is what Docker, containerd and BuildKit wrote and read the layer with.
//!
//! It is our own reader because crate `tar` gives PAX sparse files the wrong name and bytes without a word, and reads
//! long names of any size into memory.
//!
//! Like Go's reader it leaves out what only other programs know: ACLs as text (`SCHILY.acl.`), which star and GNU tar
//! write beside or instead of the xattr `system.posix_acl_access`, and `LIBARCHIVE.xattr.`, which bsdtar writes beside
//! `SCHILY.xattr.`. Docker, containerd and umoci give containers none of these either.

mod header;
mod pax;
mod reader;
mod sparse;

pub use reader::{DataSink, Entry, Kind, Mtime, Reader, Record, Xattr};

/// A name as messages show it: in quotes, with escapes for what is not printable ASCII.
pub fn quoted(name: &[u8]) -> String {
    format!("\"{}\"", name.escape_ascii())
}

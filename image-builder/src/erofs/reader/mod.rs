//! The EROFS reader: the tree, the attributes and the data of a disk that [`super::write_layer`] made, without a mount
//! and without root.
//!
//! The disk is not trusted. Promises, whatever its bytes are:
//! - No panic, and no loop without an end: names, sizes, addresses and counts are checked against the format and
//!   against the disk's length before they are used; a directory that is met twice is an error.
//! - Memory is bounded. Looking up a path takes one directory at a time, [`super::tree::MAX_METADATA`] at most. A walk has
//!   the directories on the way to where it is, and the number of each that it has been in; all their names together
//!   are as many as the disk has room for.
//! - Only what our writer writes is read (uncompressed, 4 KiB blocks, extended inodes); the rest is refused, never guessed.
//!
//! What is not checked is the content of files: for that the disk has its digest.
//!
//! ```
//! # use image_builder::{erofs, testimage::Tar};
//! let tar = Tar::new().file("etc/motd", 0o644, b"hello\n").finish();
//! let mut disk = std::io::Cursor::new(Vec::new());
//! erofs::write_layer(&tar[..], [7; 16], &mut disk)?;
//!
//! let reader = erofs::Reader::open(disk.get_ref().as_slice())?;
//! let motd = reader.find(b"/etc/motd")?.expect("it is there");
//! assert_eq!(motd.attributes.mode, 0o644);
//! assert_eq!(std::io::read_to_string(reader.data(&motd)?)?, "hello\n");
//! # Ok::<(), anyhow::Error>(())
//! ```

use std::collections::HashSet;
use std::io::{self, Read};

use anyhow::{Context, Result, bail};

use super::path::{PATH_MAX, components};
use super::superblock::Superblock;
use super::{BLOCK, BLOCK_SIZE, image};
use crate::tarball::quoted;

mod directory;
mod inode;
mod source;

pub use directory::Entry;
pub use inode::{FileType, Inode, Kind};
pub use source::ReadAt;

use source::Cached;

/// An open disk.
pub struct Reader<D> {
    disk: Cached<D>,
    superblock: Superblock,
}

impl<D: ReadAt> Reader<D> {
    /// Opens the filesystem that starts at byte 0 of `disk`; what follows it there is never read.
    ///
    /// # Errors
    /// The disk cannot be read, or holds no filesystem that we write.
    pub fn open(disk: D) -> Result<Self> {
        let mut block = [0; BLOCK_SIZE];
        disk.read_exact_at(&mut block, 0).context("cannot read the superblock")?;
        let superblock = Superblock::decode(&block)?;
        if superblock.meta_block >= superblock.blocks {
            bail!("its inodes start in block {} of {}", superblock.meta_block, superblock.blocks);
        }
        // What bounds a walk counts on it.
        disk.read_exact_at(&mut [0], superblock.length() - 1)
            .context("the disk is shorter than its filesystem")?;
        Ok(Self { disk: Cached::new(disk, superblock.length()), superblock })
    }

    /// The superblock: UUID, length, count of inodes.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The root directory.
    ///
    /// # Errors
    /// As [`Reader::inode`]; it is no directory.
    pub fn root(&self) -> Result<Inode> {
        let root = self.inode(u64::from(self.superblock.root_nid))?;
        if root.kind != Kind::Dir {
            bail!("the root is not a directory");
        }
        Ok(root)
    }

    /// The inode that `path` leads to, if there is one. Symbolic links are not followed.
    ///
    /// # Errors
    /// A path with `..`, a NUL, or longer than Linux's; a damaged disk.
    pub fn find(&self, path: &[u8]) -> Result<Option<Inode>> {
        let mut at = self.root()?;
        for name in components(path)? {
            if at.kind != Kind::Dir {
                return Ok(None);
            }
            let entries = self.entries(&at)?;
            let Ok(found) = entries.binary_search_by(|entry| (*entry.name).cmp(name)) else {
                return Ok(None);
            };
            at = self.child(&entries[found])?;
        }
        Ok(Some(at))
    }

    /// The inode of a directory's entry.
    ///
    /// # Errors
    /// As [`Reader::inode`]; entry and inode disagree on what it is.
    pub fn child(&self, entry: &Entry) -> Result<Inode> {
        let inode = self.inode(entry.nid)?;
        if inode.kind.file_type() != entry.file_type {
            bail!("{} is listed as {:?} but is {:?}", quoted(&entry.name), entry.file_type, inode.kind);
        }
        Ok(inode)
    }

    /// Visits every name below the root, parents before children, in the order of their names' bytes. `visit` gets the path
    /// without a leading slash, and the inode; a file with several names is visited under each.
    ///
    /// # Errors
    /// `visit`'s; a damaged disk, a directory with two names among the damages.
    pub fn walk(&self, mut visit: impl FnMut(&[u8], &Inode) -> Result<()>) -> Result<()> {
        let mut guard = Guard::new(&self.superblock);
        let root = self.root()?;
        let mut stack = vec![(Vec::new(), root.nid, guard.enter(self, &root, root.nid)?.into_iter())];
        while let Some((path, parent, entries)) = stack.last_mut() {
            let Some(entry) = entries.next() else {
                stack.pop();
                continue;
            };
            let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let (path, parent) = ([path, separator, &entry.name].concat(), *parent);
            let inode = self.child(&entry).with_context(|| quoted(&path))?;
            visit(&path, &inode)?;
            if inode.kind == Kind::Dir {
                if path.len() > PATH_MAX {
                    bail!("{}: a path of more than {PATH_MAX} bytes", quoted(&path));
                }
                let entries = guard.enter(self, &inode, parent).with_context(|| quoted(&path))?;
                stack.push((path, inode.nid, entries.into_iter()));
            }
        }
        Ok(())
    }

    /// The data of a file, from its start.
    ///
    /// # Errors
    /// `inode` is no regular file.
    pub fn data(&self, inode: &Inode) -> Result<Data<'_, D>> {
        let Kind::File { block, size } = inode.kind else { bail!("not a regular file: {:?}", inode.kind) };
        let at = u64::from(block) * BLOCK;
        Ok(Data { disk: &self.disk.disk, at, end: at + size })
    }

    /// What a symbolic link points to: 1 to 4095 bytes, no NUL.
    ///
    /// # Errors
    /// `inode` is no symbolic link, or damaged.
    pub fn symlink(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.kind != Kind::Symlink {
            bail!("not a symbolic link: {:?}", inode.kind);
        }
        let target = self.content(inode)?;
        super::path::check_symlink(&target)?;
        Ok(target)
    }

    /// Where the inode `nid` starts, in bytes.
    fn address(&self, nid: u64) -> Result<u64> {
        let meta = u64::from(self.superblock.meta_block) * BLOCK;
        let at = nid.checked_mul(image::SLOT).and_then(|at| at.checked_add(meta));
        at.filter(|at| *at < self.superblock.length())
            .with_context(|| format!("inode {nid} is not on the disk"))
    }

    /// `length` bytes of metadata from `at` on.
    fn read(&self, at: u64, length: usize) -> Result<Vec<u8>> {
        if at.checked_add(length as u64).is_none_or(|end| end > self.superblock.length()) {
            bail!("{length} bytes at {at} are beyond the end of the filesystem");
        }
        self.disk.read(at, length).with_context(|| format!("cannot read {length} bytes at {at}"))
    }
}

/// Keeps a walk over a damaged disk from going round or growing without end.
pub struct Guard {
    /// Directories entered.
    seen: HashSet<u64>,
    /// Entries that may still come: directories can share blocks, so their number alone is no bound.
    budget: u64,
}

impl Guard {
    /// For one walk over the disk with this superblock.
    pub fn new(superblock: &Superblock) -> Self {
        Self { seen: HashSet::new(), budget: superblock.length() / directory::LEAST_ENTRY }
    }

    /// The entries of the directory `inode`, which is in the directory `parent`.
    ///
    /// # Errors
    /// It was entered before; it has another parent; there are more entries than the disk has room for; as
    /// [`Reader::entries`].
    pub fn enter<D: ReadAt>(&mut self, reader: &Reader<D>, inode: &Inode, parent: u64) -> Result<Vec<Entry>> {
        if !self.seen.insert(inode.nid) {
            bail!("directory {} has two names, or is in itself", inode.nid);
        }
        let (entries, up) = reader.entries_and_parent(inode)?;
        if up != parent {
            bail!("directory {}: its \"..\" is {up}, but it is in {parent}", inode.nid);
        }
        let left = self.budget.checked_sub(entries.len() as u64);
        self.budget = left.context("more names than the disk has room for")?;
        Ok(entries)
    }
}

/// A file's data as a stream. Made by [`Reader::data`]; it knows where it ends.
pub struct Data<'a, D> {
    disk: &'a D,
    at: u64,
    end: u64,
}

impl<D: ReadAt> Read for Data<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        self.disk.read_exact_at(&mut buffer[..length], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests;

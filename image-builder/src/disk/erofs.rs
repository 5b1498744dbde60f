//! EROFS, as [`crate::erofs::Reader`] tells of it.

use anyhow::{Result, ensure};

use super::{Entry, Extent, Filesystem, Inode, Kind, Source};
use crate::erofs::{self, BLOCK, Reader, reader};
use crate::tarball::Xattr;

/// A layer disk that we wrote.
pub struct Erofs(Reader<Source>);

impl Erofs {
    /// The filesystem in `source`.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open(source: Source) -> Result<Self> {
        Reader::open(source).map(Self)
    }
}

impl Filesystem for Erofs {
    fn uuid(&self) -> [u8; 16] {
        self.0.superblock().uuid
    }

    fn length(&self) -> u64 {
        self.0.superblock().length()
    }

    fn root(&self) -> u64 {
        u64::from(self.0.superblock().root_nid)
    }

    fn inode(&self, number: u64) -> Result<Inode> {
        let inode = self.0.inode(number)?;
        let (kind, size) = match inode.kind {
            reader::Kind::File { size, .. } => (Kind::File, size),
            reader::Kind::Dir => (Kind::Directory, 0),
            reader::Kind::Symlink => (Kind::Symlink, self.0.symlink(&inode)?.len() as u64),
            reader::Kind::CharDevice(major, minor) => (Kind::CharDevice(major, minor), 0),
            reader::Kind::BlockDevice(major, minor) => (Kind::BlockDevice(major, minor), 0),
            reader::Kind::Fifo => (Kind::Fifo, 0),
        };
        let erofs::tree::Attributes { mode, uid, gid, mtime } = inode.attributes;
        Ok(Inode { number, kind, mode, uid, gid, mtime, size, links: inode.links })
    }

    fn entries(&self, directory: &Inode) -> Result<Vec<Entry>> {
        let entries = self.0.entries(&self.0.inode(directory.number)?)?;
        Ok(entries.into_iter().map(|entry| Entry { name: entry.name.into(), number: entry.nid }).collect())
    }

    fn target(&self, link: &Inode) -> Result<Vec<u8>> {
        self.0.symlink(&self.0.inode(link.number)?)
    }

    fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        let mut xattrs = self.0.xattrs(&self.0.inode(inode.number)?)?;
        xattrs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(xattrs)
    }

    fn extents(&self, file: &Inode) -> Result<Vec<Extent>> {
        let reader::Kind::File { block, size } = self.0.inode(file.number)?.kind else {
            return Ok(Vec::new());
        };
        ensure!(size == file.size, "another disk's inode");
        let whole = Extent { offset: 0, position: u64::from(block) * BLOCK, length: size };
        Ok(if size == 0 { Vec::new() } else { vec![whole] })
    }
}

//! Disks read without mounting them and without root: layer disks, scratch disks, volumes.
//!
//! [`Disk::open`] tells by the superblock what a disk is; from there on EROFS and ext4 look the same. `cat`, `ls` and `diff`
//! of the command line are made of this, and so can be whatever copies out of a container that is not running.
//!
//! Promises:
//! - The disk is never written to, and what is on it is not trusted: no bytes make a reader panic, loop or fill the
//!   memory. Damage is an error that names the inode.
//! - Symbolic links never lead out of the disk ([`Disk::find`]).
//! - File contents are read in pieces ([`Disk::contents`]): a file may be larger than memory.
//! - A filesystem with unfinished business in its journal is refused: what is on it is not what it holds.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::tarball::{Mtime, Xattr};

mod contents;
mod erofs;
mod ext4;
mod find;
mod format;
mod overlay;
mod walk;

pub use crate::erofs::reader::ReadAt;
pub use contents::Contents;
pub use erofs::Erofs;
pub use ext4::Ext4;
pub use overlay::{Change, ChangeKind, Overlay};

/// What a disk is read from.
pub type Source = Arc<dyn ReadAt + Send + Sync>;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device: major and minor number. 0:0 is overlayfs's whiteout.
    CharDevice(u32, u32),
    /// Block device: major and minor number.
    BlockDevice(u32, u32),
    /// FIFO.
    Fifo,
    /// Unix socket.
    Socket,
}

impl Kind {
    /// Overlayfs's mark for a name that is deleted from the layers below.
    pub fn is_whiteout(self) -> bool {
        self == Self::CharDevice(0, 0)
    }
}

/// An inode's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number on this disk. Names with the same number are hard links to one file.
    pub number: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, setuid, setgid, sticky: no file type.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Length in bytes: of a file's contents, of a symbolic link's target.
    pub size: u64,
    /// Names that lead to it.
    pub links: u32,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// Number of the inode that it leads to.
    pub number: u64,
}

/// A part of a file's contents that stands on the disk in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// Where on the disk, in bytes.
    pub position: u64,
    /// How many bytes.
    pub length: u64,
}

/// What a reader of one on-disk format can tell.
///
/// Errors are those of the source, and damage. They name the inode.
pub trait Filesystem {
    /// The filesystem's UUID.
    fn uuid(&self) -> [u8; 16];
    /// The filesystem's length, in bytes; the disk has as many.
    fn length(&self) -> u64;
    /// Number of the root directory.
    fn root(&self) -> u64;
    /// The inode with that number.
    ///
    /// # Errors
    /// See the trait.
    fn inode(&self, number: u64) -> Result<Inode>;
    /// What the directory holds, in the order of the bytes of the names; neither `.` nor `..`.
    ///
    /// # Errors
    /// See the trait.
    fn entries(&self, directory: &Inode) -> Result<Vec<Entry>>;
    /// What the symbolic link points to.
    ///
    /// # Errors
    /// See the trait.
    fn target(&self, link: &Inode) -> Result<Vec<u8>>;
    /// The inode's extended attributes, by name.
    ///
    /// # Errors
    /// See the trait.
    fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>>;
    /// Where the contents of a regular file stand: ascending, not overlapping, within file and disk. The rest of the file is holes.
    ///
    /// # Errors
    /// See the trait.
    fn extents(&self, file: &Inode) -> Result<Vec<Extent>>;
}

/// A disk whose filesystem is understood.
pub struct Disk {
    source: Source,
    filesystem: Box<dyn Filesystem + Send>,
}

impl Disk {
    /// Opens the disk in the file (or block device) `path`.
    ///
    /// # Errors
    /// It cannot be read; it holds no filesystem that is understood. The error says what it is, where that is known.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || Self::new(Arc::new(File::open(path)?));
        open().with_context(|| format!("cannot read disk {}", path.display()))
    }

    /// The disk in `source`.
    ///
    /// # Errors
    /// As [`Disk::open`].
    pub fn new(source: Source) -> Result<Self> {
        let filesystem: Box<dyn Filesystem + Send> = match format::of(&*source)? {
            format::Format::Ext4 => Box::new(Ext4::open(source.clone())?),
            format::Format::Erofs => Box::new(Erofs::open(source.clone())?),
        };
        Ok(Self { source, filesystem })
    }

    /// The root directory.
    ///
    /// # Errors
    /// Of the source, and damage.
    pub fn root(&self) -> Result<Inode> {
        self.filesystem.inode(self.filesystem.root())
    }

    /// The contents of a regular file, as a stream. Holes are zeros.
    ///
    /// # Errors
    /// It is no regular file; damage.
    pub fn contents(&self, file: &Inode) -> Result<Contents> {
        if file.kind != Kind::File {
            bail!("not a regular file");
        }
        Ok(Contents::new(self.source.clone(), file.size, self.filesystem.extents(file)?))
    }
}

impl std::ops::Deref for Disk {
    type Target = dyn Filesystem + Send;

    fn deref(&self) -> &Self::Target {
        &*self.filesystem
    }
}

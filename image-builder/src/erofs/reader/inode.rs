//! Inodes (`erofs_inode_extended`), their xattrs, and what symbolic links and directories hold.

use anyhow::{Context, Result, bail};

use super::super::image::{INLINE, INODE, PLAIN};
use super::super::tree::{Attributes, MAX_METADATA};
use super::super::{BLOCK, xattr};
use super::{ReadAt, Reader};
use crate::tarball::{Mtime, Xattr};

/// One inode, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number in the filesystem: hard links to one file have the same.
    pub nid: u64,
    /// Owner, permissions, time.
    pub attributes: Attributes,
    /// Names that lead to it; of a directory, 2 and its subdirectories. As the disk says: not recounted.
    pub links: u32,
    /// What it is.
    pub kind: Kind,
    /// Length of what a symbolic link or directory holds, in bytes.
    length: usize,
    /// Its first block, where not all is inline.
    block: u32,
    /// The last part of it stands after the inode.
    inline: bool,
    /// Length of the xattrs, header included, in bytes.
    xattrs: usize,
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file: `size` bytes from `block` on, side by side on the disk.
    File {
        /// First block; of no meaning for an empty file.
        block: u32,
        /// Bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device, major and minor; 0, 0 is overlayfs's whiteout.
    CharDevice(u32, u32),
    /// A block device, major and minor.
    BlockDevice(u32, u32),
    /// A FIFO.
    Fifo,
}

/// What a directory's entry says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FileType {
    Regular = 1,
    Directory = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Symlink = 7,
}

impl Kind {
    /// Its type, without what belongs to it.
    pub fn file_type(&self) -> FileType {
        match self {
            Self::File { .. } => FileType::Regular,
            Self::Dir => FileType::Directory,
            Self::Symlink => FileType::Symlink,
            Self::CharDevice(..) => FileType::CharDevice,
            Self::BlockDevice(..) => FileType::BlockDevice,
            Self::Fifo => FileType::Fifo,
        }
    }

    /// Whether overlayfs takes it for a whiteout.
    pub fn is_whiteout(&self) -> bool {
        *self == Self::CharDevice(0, 0)
    }
}

impl<D: ReadAt> Reader<D> {
    /// The inode number `nid`.
    ///
    /// # Errors
    /// The disk cannot be read; no such inode, or one that we never write.
    pub fn inode(&self, nid: u64) -> Result<Inode> {
        let bytes = self.read(self.address(nid)?, INODE)?;
        self.decode(nid, &bytes).with_context(|| format!("inode {nid}"))
    }

    fn decode(&self, nid: u64, bytes: &[u8]) -> Result<Inode> {
        let fields = Fields(bytes);
        let format = fields.u16(0)?;
        if !matches!(format, PLAIN | INLINE) || fields.u16(6)? != 0 {
            bail!("format {format:#x} is not one that this program writes");
        }
        let (mode, size, union) = (fields.u16(4)?, fields.u64(8)?, fields.u32(16)?);
        let nanos = fields.u32(40)?;
        if nanos >= 1_000_000_000 {
            bail!("{nanos} nanoseconds in its time");
        }
        let kind = match libc::mode_t::from(mode) & libc::S_IFMT {
            libc::S_IFREG => Kind::File { block: union, size },
            libc::S_IFDIR => Kind::Dir,
            libc::S_IFLNK => Kind::Symlink,
            libc::S_IFCHR => Kind::CharDevice(major(union), minor(union)),
            libc::S_IFBLK => Kind::BlockDevice(major(union), minor(union)),
            libc::S_IFIFO => Kind::Fifo,
            _ => bail!("mode {mode:o} is of no known type"),
        };
        let seconds = i64::from_le_bytes(fields.array(32)?);
        let attributes = Attributes {
            mode: mode & 0o7777,
            uid: fields.u32(24)?,
            gid: fields.u32(28)?,
            mtime: Mtime { seconds, nanos },
        };
        let inode = Inode {
            nid,
            attributes,
            links: fields.u32(44)?,
            kind,
            length: if matches!(kind, Kind::Dir | Kind::Symlink) { usize::try_from(size)? } else { 0 },
            block: union,
            inline: format == INLINE,
            xattrs: xattr::length(fields.u16(2)?),
        };
        self.check(&inode, size)?;
        Ok(inode)
    }

    /// All that the inode speaks of must be on the disk.
    fn check(&self, inode: &Inode, size: u64) -> Result<()> {
        let holds = matches!(inode.kind, Kind::File { .. } | Kind::Dir | Kind::Symlink);
        if inode.links == 0 || (!holds && size != 0) {
            bail!("{} links and {size} bytes, as {:?}", inode.links, inode.kind);
        }
        if inode.length > MAX_METADATA {
            bail!("{} bytes, as {:?}", inode.length, inode.kind);
        }
        let blocks = if inode.inline {
            let tail = size % BLOCK;
            let at = self.address(inode.nid)? % BLOCK;
            if inode.length == 0 || tail == 0 || at + (INODE + inode.xattrs) as u64 + tail > BLOCK {
                bail!("{tail} bytes beside the inode, beyond the end of its block");
            }
            size / BLOCK
        } else {
            size.div_ceil(BLOCK)
        };
        let end = u64::from(inode.block).saturating_add(blocks);
        if blocks > 0 && end > u64::from(self.superblock.blocks) {
            bail!("its blocks end with {end}, the filesystem with {}", self.superblock.blocks);
        }
        Ok(())
    }

    /// The inode's extended attributes, overlayfs's marks (`trusted.overlay.*`) among them, in the order of the disk.
    ///
    /// # Errors
    /// The disk cannot be read, or is damaged there.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        if inode.xattrs == 0 {
            return Ok(Vec::new());
        }
        let bytes = self.read(self.address(inode.nid)? + INODE as u64, inode.xattrs)?;
        xattr::decode(&bytes).with_context(|| format!("the xattrs of inode {}", inode.nid))
    }

    /// What a symbolic link or a directory holds.
    pub(super) fn content(&self, inode: &Inode) -> Result<Vec<u8>> {
        let tail = if inode.inline { inode.length % super::BLOCK_SIZE } else { 0 };
        let mut bytes = self.read(u64::from(inode.block) * BLOCK, inode.length - tail)?;
        if tail > 0 {
            let at = self.address(inode.nid)? + (INODE + inode.xattrs) as u64;
            bytes.extend(self.read(at, tail)?);
        }
        Ok(bytes)
    }
}

/// Linux's `new_decode_dev`.
fn major(device: u32) -> u32 {
    (device & 0xf_ff00) >> 8
}

fn minor(device: u32) -> u32 {
    (device & 0xff) | ((device >> 12) & 0xf_ff00)
}

/// Little-endian fields by their offset.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    pub fn array<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let field = self.0.get(at..).and_then(|rest| rest.first_chunk());
        field.copied().with_context(|| format!("cut off at byte {at}"))
    }

    pub fn u16(&self, at: usize) -> Result<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub fn u32(&self, at: usize) -> Result<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub fn u64(&self, at: usize) -> Result<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

//! The second half of a disk: places every inode, then writes inodes, directories and the superblock.

use std::io::{Seek, Write};

use anyhow::{Context, Result};

use super::dirent::{self, Entry};
use super::output::Output;
use super::superblock::Superblock;
use super::tree::{Body, Id, ROOT, Tree};
use super::xattr::{self, Marks};
use super::{BLOCK, BLOCK_SIZE, Summary};
use crate::tarball::DataSink;

/// `erofs_inode_extended`.
pub const INODE: usize = 64;
/// A nid counts slots of this size.
pub const SLOT: u64 = 32;
/// Inode format: extended, data in blocks (`EROFS_INODE_FLAT_PLAIN`).
pub const PLAIN: u16 = 1;
/// Inode format: extended, the last part of the data after the inode (`EROFS_INODE_FLAT_INLINE`).
pub const INLINE: u16 = 1 | 2 << 1;

/// An inode's place on the disk.
#[derive(Clone, Copy, Default)]
struct Place {
    /// 0: not reachable. Slots 0 and 1 stay free, for user space takes inode number 0 as none.
    nid: u64,
    /// Names that lead to it; of a directory, 2 and its subdirectories.
    links: u32,
    parent: Id,
    inline: bool,
    /// Of a directory: it holds whiteouts.
    whiteouts: bool,
    /// The first of its blocks, counted from the first block after the inodes.
    block: u64,
}

/// Writes the rest of a disk whose file data `output` has already.
///
/// # Errors
/// Those of `output`; a disk beyond 16 TiB.
pub fn finish<W: Write + Seek>(tree: &Tree, output: Output<W>, uuid: [u8; 16]) -> Result<Summary> {
    Image::of(tree)?.finish(output, uuid, [0; 15], 0)
}

/// Writes a disk of metadata alone: `data_blocks` blocks of file data are to follow it. Files' blocks in `tree` count from
/// there; in the summary the length is that of both.
///
/// # Errors
/// As [`finish`].
pub fn finish_before<W: Write + Seek>(
    tree: &Tree,
    output: Output<W>,
    uuid: [u8; 16],
    label: [u8; 15],
    data_blocks: u32,
) -> Result<Summary> {
    let mut image = Image::of(tree)?;
    image.data_block = output.position() / BLOCK + image.meta_length / BLOCK + image.blocks;
    image.finish(output, uuid, label, data_blocks)
}

struct Image<'a> {
    tree: &'a Tree,
    /// By [`Id`].
    places: Vec<Place>,
    /// Reachable inodes, in the order of the disk.
    order: Vec<Id>,
    /// Bytes of the inode area.
    meta_length: u64,
    /// Blocks after it.
    blocks: u64,
    /// The block that files' blocks count from.
    data_block: u64,
}

impl<'a> Image<'a> {
    /// Everything placed.
    fn of(tree: &'a Tree) -> Result<Self> {
        let places = vec![Place::default(); tree.count()];
        let mut image = Self { tree, places, order: Vec::new(), meta_length: 0, blocks: 0, data_block: 0 };
        image.walk();
        image.place()?;
        Ok(image)
    }

    fn finish<W: Write + Seek>(
        self,
        mut output: Output<W>,
        uuid: [u8; 16],
        label: [u8; 15],
        data_blocks: u32,
    ) -> Result<Summary> {
        let meta_block = output.next_block()?;
        self.write(&mut output)?;
        let blocks = output.next_block()?.checked_add(data_blocks);
        let sb = Superblock {
            uuid,
            label,
            blocks: blocks.context("the disk passes 16 TiB, the most EROFS can address")?,
            meta_block,
            root_nid: u16::try_from(self.places[ROOT].nid).context("the root comes first")?,
            inodes: self.order.len() as u64,
        };
        output.finish(&sb.encode())?;
        Ok(Summary { length: sb.length(), inodes: sb.inodes })
    }

    /// Finds the reachable inodes, breadth first: the entries of a directory come to stand side by side.
    fn walk(&mut self) {
        let tree = self.tree;
        self.order.push(ROOT);
        self.places[ROOT].links = 2;
        let mut next = 0;
        while let Some(&id) = self.order.get(next) {
            next += 1;
            let Body::Dir(dir) = &tree.get(id).body else { continue };
            for &child in dir.children.values() {
                let place = &mut self.places[child];
                place.links += 1;
                if place.links == 1 {
                    place.parent = id;
                    self.order.push(child);
                }
                match tree.get(child).body {
                    Body::Dir(_) => {
                        place.links = 2;
                        self.places[id].links += 1;
                    }
                    Body::Whiteout => self.places[id].whiteouts = true,
                    _ => {}
                }
            }
        }
    }

    /// Gives each inode its slots and blocks. Inode, xattrs and tail stand in one block where they fit in one.
    fn place(&mut self) -> Result<()> {
        let mut at = 2 * SLOT;
        let mut block = 0;
        for &id in &self.order {
            let length = self.content(id).len() as u64;
            let head = (INODE + self.xattrs(id)?.len()) as u64;
            let tail = length % BLOCK;
            let inline = tail > 0 && head + tail <= BLOCK;
            let need = if inline { head + tail } else { head };
            if need <= BLOCK && at / BLOCK != (at + need - 1) / BLOCK {
                at = at.next_multiple_of(BLOCK);
            }
            let place = &mut self.places[id];
            (place.nid, place.inline, place.block) = (at / SLOT, inline, block);
            block += if inline { length / BLOCK } else { length.div_ceil(BLOCK) };
            at = (at + need).next_multiple_of(SLOT);
        }
        self.meta_length = at.next_multiple_of(BLOCK);
        self.blocks = block;
        Ok(())
    }

    fn write<W: Write + Seek>(&self, output: &mut Output<W>) -> Result<()> {
        let meta = output.position();
        let first_block = (meta + self.meta_length) / BLOCK;
        let mut blocks = Vec::new();
        for (number, &id) in (1u32..).zip(&self.order) {
            let gap = meta + self.places[id].nid * SLOT - output.position();
            output.write(&vec![0; usize::try_from(gap)?])?;
            let content = self.content(id);
            let xattrs = self.xattrs(id)?;
            output.write(&self.inode(id, number, content.len() as u64, xattrs.len(), first_block)?)?;
            output.write(&xattrs)?;
            let tail = content.len() % BLOCK_SIZE;
            let split = if self.places[id].inline { content.len() - tail } else { content.len() };
            output.write(&content[split..])?;
            blocks.extend_from_slice(&content[..split]);
            blocks.resize(blocks.len().next_multiple_of(BLOCK_SIZE), 0);
        }
        output.align()?;
        output.write(&blocks)
    }

    /// What a directory or a symlink holds; file data are on the disk already.
    fn content(&self, id: Id) -> Vec<u8> {
        match &self.tree.get(id).body {
            Body::Symlink(target) => target.to_vec(),
            Body::Dir(dir) => {
                let entry = |name, id: Id| Entry {
                    name,
                    nid: self.places[id].nid,
                    kind: dirent::kind(&self.tree.get(id).body),
                };
                let mut entries: Vec<_> =
                    dir.children.iter().map(|(name, &child)| entry(name, child)).collect();
                for special in [entry(b".", id), entry(b"..", self.places[id].parent)] {
                    let at = entries.partition_point(|e| e.name < special.name);
                    entries.insert(at, special);
                }
                dirent::encode(&entries)
            }
            _ => Vec::new(),
        }
    }

    /// The 64 bytes of an inode. `number` is its `i_ino`, `content` the length of what [`Image::content`] gave.
    fn inode(&self, id: Id, number: u32, content: u64, xattrs: usize, first_block: u64) -> Result<Vec<u8>> {
        let inode = self.tree.get(id);
        let place = &self.places[id];
        let own_block = u32::try_from(first_block + place.block).context("the layer passes 16 TiB")?;
        let (kind, size, union) = match inode.body {
            Body::File { block, size } => (libc::S_IFREG, size, self.data_block(block)?),
            Body::Dir(_) => (libc::S_IFDIR, content, own_block),
            Body::Symlink(_) => (libc::S_IFLNK, content, own_block),
            Body::CharDevice(major, minor) => (libc::S_IFCHR, 0, device(major, minor)),
            Body::BlockDevice(major, minor) => (libc::S_IFBLK, 0, device(major, minor)),
            Body::Fifo => (libc::S_IFIFO, 0, 0),
            Body::Whiteout => (libc::S_IFCHR, 0, 0),
        };
        let mode = u16::try_from(kind)? | inode.attributes.mode;
        let mut bytes = Vec::with_capacity(INODE);
        bytes.extend_from_slice(&(if place.inline { INLINE } else { PLAIN }).to_le_bytes());
        bytes.extend_from_slice(&xattr::icount(xattrs)?.to_le_bytes());
        bytes.extend_from_slice(&mode.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&union.to_le_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&inode.attributes.uid.to_le_bytes());
        bytes.extend_from_slice(&inode.attributes.gid.to_le_bytes());
        bytes.extend_from_slice(&inode.attributes.mtime.seconds.to_le_bytes());
        bytes.extend_from_slice(&inode.attributes.mtime.nanos.to_le_bytes());
        bytes.extend_from_slice(&place.links.to_le_bytes());
        bytes.extend_from_slice(&[0; 16]);
        Ok(bytes)
    }

    fn data_block(&self, block: u32) -> Result<u32> {
        u32::try_from(self.data_block + u64::from(block)).context("the disk passes 16 TiB")
    }

    /// Header and entries of the inode's xattrs, a directory's marks among them.
    fn xattrs(&self, id: Id) -> Result<Vec<u8>> {
        let inode = self.tree.get(id);
        let mut entries = inode.xattrs.clone();
        if let Body::Dir(dir) = &inode.body {
            let (opaque, implied) = (dir.opaque, dir.implied && !dir.anew);
            Marks { opaque, implied, whiteouts: self.places[id].whiteouts }.encode(&mut entries)?;
        }
        Ok(xattr::with_header(&entries))
    }
}

/// Linux's `new_encode_dev`.
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

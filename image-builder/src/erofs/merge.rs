//! Many layers as one filesystem, without a copy of their data: one disk, one mount, however many layers there are.
//!
//! The merged disk is put together from pieces of files ([`Layout`]), by QEMU or whoever else knows how to (a VMDK of flat
//! extents):
//!
//! ```text
//! metadata       superblock, inodes, directories of the merged tree: what [`merge`] writes
//! layer 1        the blocks of its disk that hold file data: from 1 to its inodes
//! layer 2        ...
//! ```
//!
//! Each layer's data stand there once, even if the image has the layer several times. To the kernel it is a plain EROFS;
//! files in it are the layers' own blocks, so the host caches them once for all images.
//!
//! The tree is what overlayfs shows of the stack, and so what the image-spec (layer.md, "Applying Changesets") asks for: layer by
//! layer, upward, an entry takes the place of what has its name; a directory over a directory keeps what is in it and takes
//! the upper one's attributes and xattrs; whiteouts and opaque directories hide what is below, and are gone then. Hard
//! links hold within a layer, and are recounted. In one thing it does better than overlayfs: a directory that a layer
//! only implies ([`super::layer`]) changes nothing of one that is there, and where a symbolic link to a directory stands in its
//! place, it is followed, as by those who unpack, and what it leads to is made where it is missing. One that is implied by
//! whiteouts and opaque marks alone is not made at all.
//!
//! The same layers give the same bytes.

use std::collections::HashMap;
use std::io::{Seek, Write};
use std::mem;

use anyhow::{Context, Result, bail};

use super::output::Output;
use super::reader::{FileType, Guard, Inode, Kind, ReadAt, Reader};
use super::superblock::Superblock;
use super::tree::{Attributes, Body, Dir, INODE_COST, Id, ROOT, Tree};
use super::{BLOCK, Summary, WriteOptions, image, path, xattr};
use crate::tarball::{Xattr, quoted};

/// Symbolic links followed in one path, at most, as in Linux.
const MOST_LINKS: usize = 40;

/// Where the layers' data are on the merged disk, counted in blocks after its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The pieces in their order.
    pub parts: Vec<Part>,
    /// For each layer, where its piece starts.
    starts: Vec<u32>,
    blocks: u32,
}

/// The data of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the layer, the lowest of the image being 0.
    pub layer: usize,
    /// Where they start on the layer's disk, in bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Layout {
    /// For layers with these superblocks, the lowest first.
    ///
    /// # Errors
    /// More than 16 TiB together, all that EROFS can address.
    pub fn new(layers: &[Superblock]) -> Result<Self> {
        let mut first = HashMap::new();
        let mut layout = Self { parts: Vec::new(), starts: Vec::new(), blocks: 0 };
        for (layer, superblock) in layers.iter().enumerate() {
            let start = *first.entry(superblock.uuid).or_insert(layout.blocks);
            layout.starts.push(start);
            // The first block is the superblock's.
            let blocks = superblock.meta_block.saturating_sub(1);
            if start < layout.blocks || blocks == 0 {
                continue;
            }
            layout.parts.push(Part { layer, offset: BLOCK, length: u64::from(blocks) * BLOCK });
            let end = layout.blocks.checked_add(blocks);
            layout.blocks = end.with_context(|| {
                format!(
                    "with layer {} of {}, the image passes 16 TiB, the most EROFS can address",
                    layer + 1,
                    layers.len()
                )
            })?;
        }
        Ok(layout)
    }

    /// Length of all the data, in bytes.
    pub fn length(&self) -> u64 {
        u64::from(self.blocks) * BLOCK
    }
}

/// Writes the metadata of the merged disk to `out`, from position 0 on; `uuid` and `label` (ASCII, zeros after it) are its
/// superblock's. In the summary the length is the whole disk's: that of
/// the metadata is less by [`Layout::length`].
///
/// # Errors
/// A layer's disk cannot be read, or is damaged; too much metadata, or data, for one filesystem; those of `out`.
///
/// ```
/// use image_builder::erofs::{Reader, merge::{Layout, merge}, write_layer};
/// # use image_builder::testimage::Tar;
/// # let disk = |tar: Tar, uuid| -> anyhow::Result<Vec<u8>> {
/// #     let mut disk = std::io::Cursor::new(Vec::new());
/// #     write_layer(&tar.finish()[..], [uuid; 16], &mut disk)?;
/// #     Ok(disk.into_inner())
/// # };
/// let lower = disk(Tar::new().file("a", 0o644, b"1").file("b", 0o644, b"2"), 1)?;
/// let upper = disk(Tar::new().whiteout("a"), 2)?;
/// let layers = [Reader::open(&lower)?, Reader::open(&upper)?];
/// let mut merged = std::io::Cursor::new(Vec::new());
/// merge(&layers, [3; 16], *b"two layers\0\0\0\0\0", &mut merged)?;
///
/// let mut merged = merged.into_inner();
/// for part in Layout::new(&layers.each_ref().map(|layer| *layer.superblock()))?.parts {
///     merged.extend(&[&lower, &upper][part.layer][part.offset as usize..][..part.length as usize]);
/// }
/// let reader = Reader::open(&merged)?;
/// assert!(reader.find(b"a")?.is_none());
/// assert_eq!(std::io::read_to_string(reader.data(&reader.find(b"b")?.unwrap())?)?, "2");
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn merge<D: ReadAt>(
    layers: &[Reader<D>],
    uuid: [u8; 16],
    label: [u8; 15],
    out: impl Write + Seek,
) -> Result<Summary> {
    let superblocks: Vec<_> = layers.iter().map(|layer| *layer.superblock()).collect();
    let layout = Layout::new(&superblocks)?;
    let mut tree = Tree::default();
    tree.dir(ROOT)?.implied = false;
    for (number, (reader, &start)) in layers.iter().zip(&layout.starts).enumerate() {
        let layer = Layer {
            tree: &mut tree,
            reader,
            start,
            links: HashMap::new(),
            made: Vec::new(),
            lowest: number == 0,
        };
        layer.apply().with_context(|| format!("layer {} of {}", number + 1, layers.len()))?;
    }
    image::finish_before(&tree, Output::new(out, WriteOptions::MAX_SIZE)?, uuid, label, layout.blocks)
}

/// One layer on its way onto the tree of those below it.
struct Layer<'a, D> {
    tree: &'a mut Tree,
    reader: &'a Reader<D>,
    /// Where its data are.
    start: u32,
    /// Its files with several names, by nid.
    links: HashMap<u64, Id>,
    /// The directories that were made because it implies them, parents first.
    made: Vec<Made>,
    lowest: bool,
}

struct Made {
    parent: Id,
    name: Box<[u8]>,
    dir: Id,
    /// What had the name.
    before: Option<Id>,
}

/// A directory whose entries wait to be applied.
struct Task {
    /// The same directory in the tree.
    dir: Id,
    inode: Inode,
    /// Its parent's nid.
    parent: u64,
}

impl<D: ReadAt> Layer<'_, D> {
    fn apply(mut self) -> Result<()> {
        // First, for they are about the layers below alone, wherever in this one they stand: with `d -> /c` below, `d/x` is
        // not what `c/.wh.x` means.
        for Hidden { dir, name } in self.hidden()? {
            let children = &mut self.tree.dir(dir)?.children;
            match name {
                Some(name) => drop(children.remove(&name)),
                None => children.clear(),
            }
        }
        let root = self.reader.root()?;
        let mut marks = Marks::of(self.reader.xattrs(&root)?);
        marks.implied &= !self.lowest;
        self.describe(ROOT, &root, &marks)?;
        let mut guard = Guard::new(self.reader.superblock());
        let parent = root.nid;
        let mut tasks = vec![Task { dir: ROOT, inode: root, parent }];
        while let Some(task) = tasks.pop() {
            for entry in guard.enter(self.reader, &task.inode, task.parent)? {
                let inode = self.reader.child(&entry)?;
                let below = self.entry(task.dir, &entry.name, &inode);
                if let Some(dir) = below.with_context(|| quoted(&entry.name))? {
                    tasks.push(Task { dir, inode, parent: task.inode.nid });
                }
            }
        }
        self.unmake()
    }

    /// What the layer's whiteouts name in the tree below it, and the directories in there that it makes opaque.
    fn hidden(&mut self) -> Result<Vec<Hidden>> {
        let mut hidden = Vec::new();
        let mut guard = Guard::new(self.reader.superblock());
        let root = self.reader.root()?;
        let parent = root.nid;
        let mut tasks = vec![Task { dir: ROOT, inode: root, parent }];
        while let Some(task) = tasks.pop() {
            if Marks::of(self.reader.xattrs(&task.inode)?).opaque {
                hidden.push(Hidden { dir: task.dir, name: None });
                continue;
            }
            for entry in guard.enter(self.reader, &task.inode, task.parent)? {
                if !matches!(entry.file_type, FileType::Directory | FileType::CharDevice) {
                    continue;
                }
                let inode = self.reader.child(&entry)?;
                if inode.kind.is_whiteout() {
                    hidden.push(Hidden { dir: task.dir, name: Some(entry.name) });
                } else if inode.kind == Kind::Dir {
                    let implied = Marks::of(self.reader.xattrs(&inode)?).implied;
                    let below = self.existing(task.dir, &entry.name, implied.then_some(Missing::None));
                    if let Some(dir) = below.with_context(|| quoted(&entry.name))? {
                        tasks.push(Task { dir, inode, parent: task.inode.nid });
                    }
                }
            }
        }
        Ok(hidden)
    }

    /// Applies one entry of `dir`. Gives the directory that it is.
    fn entry(&mut self, dir: Id, name: &[u8], inode: &Inode) -> Result<Option<Id>> {
        if inode.kind == Kind::Dir {
            return self.directory(dir, name, inode).map(Some);
        }
        if inode.kind.is_whiteout() {
            return Ok(None);
        }
        if let Some(&id) = self.links.get(&inode.nid) {
            self.tree.charge(INODE_COST + name.len())?;
            self.tree.dir(dir)?.children.insert(name.into(), id);
            return Ok(None);
        }
        let body = self.body(inode)?;
        let xattrs = xattr::encode_all(&self.reader.xattrs(inode)?, &body)?;
        let id = self.tree.put(dir, name, inode.attributes, xattrs, body)?;
        if inode.links > 1 {
            self.links.insert(inode.nid, id);
        }
        Ok(None)
    }

    /// Applies the directory itself; gives the one that its entries go to.
    fn directory(&mut self, parent: Id, name: &[u8], inode: &Inode) -> Result<Id> {
        let marks = Marks::of(self.reader.xattrs(inode)?);
        let Some(dir) =
            self.existing(parent, name, marks.implied.then_some(Missing::Make(inode.attributes)))?
        else {
            if marks.implied {
                return self.make(parent, name, inode.attributes);
            }
            self.tree.dir(parent)?.children.remove(name);
            let body = Body::Dir(Dir::default());
            let xattrs = xattr::encode_all(&marks.xattrs, &body)?;
            return self.tree.put(parent, name, inode.attributes, xattrs, body);
        };
        self.describe(dir, inode, &marks)?;
        Ok(dir)
    }

    /// Makes a directory that the layer implies.
    fn make(&mut self, parent: Id, name: &[u8], attributes: Attributes) -> Result<Id> {
        let before = self.tree.dir(parent)?.children.remove(name);
        let body = Body::Dir(Dir { implied: true, ..Dir::default() });
        let dir = self.tree.put(parent, name, attributes, Vec::new(), body)?;
        self.made.push(Made { parent, name: name.into(), dir, before });
        Ok(dir)
    }

    /// Takes back what was made for nothing: it was there to hold whiteouts.
    fn unmake(self) -> Result<()> {
        for Made { parent, name, dir, before } in self.made.into_iter().rev() {
            let made = self.tree.dir(dir)?;
            let for_nothing = mem::take(&mut made.implied) && made.children.is_empty();
            let children = &mut self.tree.dir(parent)?.children;
            if for_nothing && children.get(&name) == Some(&dir) {
                match before {
                    Some(id) => children.insert(name, id),
                    None => children.remove(&name),
                };
            }
        }
        Ok(())
    }

    /// The directory that is at `name` already. One that is `implied` may be behind a symbolic link.
    fn existing(&mut self, parent: Id, name: &[u8], implied: Option<Missing>) -> Result<Option<Id>> {
        let Some(id) = self.tree.child(parent, name) else { return Ok(None) };
        match (&self.tree.get(id).body, implied) {
            (Body::Dir(_), _) => Ok(Some(id)),
            (Body::Symlink(target), Some(missing)) => {
                let target = target.clone();
                self.resolve(parent, &target, missing)
            }
            _ => Ok(None),
        }
    }

    /// The directory that a symbolic link in `dir` leads to; the root is above itself, as in a chroot. None where something else
    /// is in the way.
    fn resolve(&mut self, mut dir: Id, target: &[u8], missing: Missing) -> Result<Option<Id>> {
        let mut names = Vec::new();
        enter(target, &mut dir, &mut names);
        let mut followed = 1;
        while let Some(name) = names.pop() {
            if *name == *b".." {
                dir = self.tree.dir(dir)?.parent;
                continue;
            }
            let Some(id) = self.tree.child(dir, &name) else {
                let Missing::Make(implied) = missing else { return Ok(None) };
                path::check(&name)?;
                dir = self.make(dir, &name, implied)?;
                continue;
            };
            match &self.tree.get(id).body {
                Body::Dir(_) => dir = id,
                Body::Symlink(target) if followed < MOST_LINKS => {
                    followed += 1;
                    enter(target, &mut dir, &mut names);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    /// Does to a directory that is there what the layer says of it.
    fn describe(&mut self, id: Id, inode: &Inode, marks: &Marks) -> Result<()> {
        if !marks.implied {
            let xattrs = xattr::encode_all(&marks.xattrs, &self.tree.get(id).body)?;
            self.tree.charge(xattrs.len())?;
            self.tree.dir(id)?.implied = false;
            let there = self.tree.get_mut(id);
            (there.attributes, there.xattrs) = (inode.attributes, xattrs);
        }
        Ok(())
    }

    fn body(&self, inode: &Inode) -> Result<Body> {
        Ok(match inode.kind {
            Kind::File { size: 0, .. } => Body::File { block: 0, size: 0 },
            Kind::File { block, size } => {
                let (first, after) = (1, u64::from(self.reader.superblock().meta_block));
                if block < first || u64::from(block) + size.div_ceil(BLOCK) > after {
                    bail!("inode {}: its data are not where a layer's disk has them", inode.nid);
                }
                Body::File { block: self.start + (block - first), size }
            }
            Kind::Symlink => Body::Symlink(self.reader.symlink(inode)?.into()),
            Kind::CharDevice(major, minor) => Body::CharDevice(major, minor),
            Kind::BlockDevice(major, minor) => Body::BlockDevice(major, minor),
            Kind::Fifo => Body::Fifo,
            Kind::Dir => bail!("a directory has no body of its own"),
        })
    }
}

/// What a layer takes from those below it.
struct Hidden {
    dir: Id,
    /// None: all that is in it.
    name: Option<Box<[u8]>>,
}

/// What a directory's xattrs say to whoever stacks layers.
struct Marks {
    opaque: bool,
    implied: bool,
    /// All of them; [`xattr::encode_all`] leaves the marks out.
    xattrs: Vec<Xattr>,
}

impl Marks {
    fn of(xattrs: Vec<Xattr>) -> Self {
        let has = |name: &[u8]| xattrs.iter().any(|xattr| xattr.name == name);
        let (opaque, implied) = (has(xattr::OPAQUE), has(xattr::IMPLIED));
        Self { opaque, implied, xattrs }
    }
}

/// What is to be done about directories that a symbolic link leads to and that are not there.
#[derive(Clone, Copy)]
enum Missing {
    /// Then there is none.
    None,
    /// `var/run/x` above `var/run -> /run` is `/run/x`, even if no layer has `/run`.
    Make(Attributes),
}

/// Puts the names of a link's target before those that are still to come, the next one last.
fn enter(target: &[u8], dir: &mut Id, names: &mut Vec<Box<[u8]>>) {
    if target.starts_with(b"/") {
        *dir = ROOT;
    }
    names.extend(path::parts(target).rev().map(Box::from));
}

#[cfg(test)]
mod tests;

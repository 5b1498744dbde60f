//! The layer's tree of inodes, in memory: what the archive said so far. File contents are on the disk already.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::path;
use crate::tarball::{Mtime, quoted};

/// Bound of the memory for a layer's tree, in bytes, roughly: two million entries of usual names.
pub const MAX_METADATA: usize = 512 << 20;

/// About what an inode and its directory entry take, names and xattrs aside.
pub const INODE_COST: usize = 256;

/// Index of an inode in its [`Tree`].
pub type Id = usize;

/// Index of the root directory.
pub const ROOT: Id = 0;

/// Owner, permission bits, time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, setuid, setgid, sticky: no file type.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
}

/// A directory that no entry describes: 0755, root's. [`Tree::date_implied`] gives it its time.
const IMPLIED: Attributes = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: Mtime { seconds: 0, nanos: 0 } };

/// What an inode is, and holds.
#[derive(Debug)]
pub enum Body {
    /// Regular file: its data are `size` bytes from `block` on.
    File {
        /// First block of its data on the disk.
        block: u32,
        /// Bytes.
        size: u64,
    },
    /// Directory.
    Dir(Dir),
    /// Symbolic link and its target.
    Symlink(Box<[u8]>),
    /// Character device.
    CharDevice(u32, u32),
    /// Block device.
    BlockDevice(u32, u32),
    /// FIFO.
    Fifo,
    /// The name is deleted from the layers below.
    Whiteout,
}

/// A directory's entries and its standing towards the layers below.
#[derive(Debug, Default)]
pub struct Dir {
    /// In the order of the bytes of their names, as EROFS wants them.
    pub children: BTreeMap<Box<[u8]>, Id>,
    /// Nothing of the same directory in lower layers shows through.
    pub opaque: bool,
    /// No entry describes it: it is there for what is in it, and has no attributes of its own.
    pub implied: bool,
    /// The lower layers' is deleted, its attributes as well; goes with `opaque`.
    pub anew: bool,
    /// The directory that it is in; the root's is the root.
    pub parent: Id,
}

/// One inode; several names may lead to it.
#[derive(Debug)]
pub struct Inode {
    /// Owner, permissions, time.
    pub attributes: Attributes,
    /// Extended attributes in their on-disk form, without the header.
    pub xattrs: Vec<u8>,
    /// The rest.
    pub body: Body,
}

/// All inodes. Those that a later entry replaced stay, unreachable: the walk from the root does not meet them.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    memory: usize,
    /// Of all entries so far.
    newest: Option<Mtime>,
    /// The last path that led through links, and the directory that it leads to: entries of one directory come together, and
    /// there can be thousands of steps to each. None since a name on the way may lead elsewhere.
    followed: Option<(Vec<Box<[u8]>>, Id)>,
}

impl Default for Tree {
    fn default() -> Self {
        let implied = Body::Dir(Dir { implied: true, ..Dir::default() });
        let root = Inode { attributes: IMPLIED, xattrs: Vec::new(), body: implied };
        Self { inodes: vec![root], memory: 0, newest: None, followed: None }
    }
}

impl Tree {
    /// The inode `id`.
    pub fn get(&self, id: Id) -> &Inode {
        &self.inodes[id]
    }

    /// The inode `id`, to be changed.
    pub fn get_mut(&mut self, id: Id) -> &mut Inode {
        &mut self.inodes[id]
    }

    /// How many inodes there are, unreachable ones included.
    pub fn count(&self) -> usize {
        self.inodes.len()
    }

    /// The inode that `names` leads to, if there is one. Its parents may be reached by symbolic links.
    ///
    /// # Errors
    /// A parent that is no directory; links that lead out of the layer or round in circles.
    pub fn find(&mut self, names: &[&[u8]]) -> Result<Option<Id>> {
        let Some((name, parents)) = names.split_last() else { return Ok(Some(ROOT)) };
        Ok(self.descend(parents, false)?.and_then(|dir| self.child(dir, name)))
    }

    /// The inode called `name` in the directory `dir`, if there is one.
    pub fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        match &self.inodes[dir].body {
            Body::Dir(dir) => dir.children.get(name).copied(),
            _ => None,
        }
    }

    /// The directory `names`, made with all its parents where there is none.
    ///
    /// # Errors
    /// As [`Tree::find`]; too much metadata.
    pub fn make_dirs(&mut self, names: &[&[u8]]) -> Result<Id> {
        self.descend(names, true)?.context("a directory just made")
    }

    /// The directory `names`; where there is none, it is made or `None`.
    fn descend(&mut self, names: &[&[u8]], make: bool) -> Result<Option<Id>> {
        let mut at = ROOT;
        for name in names {
            at = match self.step(at, name, make)? {
                Step::Dir(id) => id,
                Step::None => return Ok(None),
                Step::Link(_) => return self.follow(names, make),
            };
        }
        Ok(Some(at))
    }

    /// [`Tree::descend`] where symbolic links are on the way: they lead where they will lead the container's kernel, but
    /// never above the layer's root.
    fn follow(&mut self, names: &[&[u8]], make: bool) -> Result<Option<Id>> {
        if let Some((path, dir)) = &self.followed
            && path.iter().map(|name| &**name).eq(names.iter().copied())
        {
            return Ok(Some(*dir));
        }
        let path = names.iter().map(|&name| name.into()).collect();
        let mut at = ROOT;
        let mut names: Vec<Box<[u8]>> = names.iter().rev().map(|&name| name.into()).collect();
        // The name that is to come, these and the links': so no path in the tree is longer than Linux's longest.
        let mut length = path::NAME_MAX + names.iter().map(|name| name.len() + 1).sum::<usize>();
        while let Some(name) = names.pop() {
            if *name == *b".." {
                if at == ROOT {
                    bail!("a link in its path leads above the root");
                }
                at = self.dir(at)?.parent;
                continue;
            }
            match self.step(at, &name, make)? {
                Step::Dir(id) => at = id,
                Step::None => return Ok(None),
                Step::Link(target) => {
                    length += target.len() + 1;
                    if length > path::PATH_MAX {
                        bail!("its path passes {} bytes with the symbolic links in it", path::PATH_MAX);
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    let parts =
                        path::parts(&target).rev().map(|part| path::check(part).map(|()| part.into()));
                    names.extend(parts.collect::<Result<Vec<_>>>()?);
                }
            }
        }
        self.followed = Some((path, at));
        Ok(Some(at))
    }

    fn step(&mut self, dir: Id, name: &[u8], make: bool) -> Result<Step> {
        let child = self.child(dir, name);
        Ok(match child.map(|id| (id, &self.inodes[id].body)) {
            Some((id, Body::Dir(_))) => Step::Dir(id),
            Some((_, Body::Symlink(target))) => Step::Link(target.clone()),
            None | Some((_, Body::Whiteout)) if make => {
                let implied = Body::Dir(Dir { implied: true, ..Dir::default() });
                Step::Dir(self.put(dir, name, IMPLIED, Vec::new(), implied)?)
            }
            None | Some((_, Body::Whiteout)) => Step::None,
            Some(_) => bail!("its parent {} is not a directory in this layer", quoted(name)),
        })
    }

    /// Puts an inode at `names`. What stood there before is replaced; only a directory repeated keeps its children.
    ///
    /// # Errors
    /// A parent that is no directory, the root as anything else, too much metadata.
    pub fn insert(
        &mut self,
        names: &[&[u8]],
        attributes: Attributes,
        xattrs: Vec<u8>,
        body: Body,
    ) -> Result<()> {
        self.newest = self.newest.max(Some(attributes.mtime));
        if matches!(body, Body::Dir(_))
            && let Some(id) = self.find(names)?
            && let Inode { body: Body::Dir(dir), attributes: old, xattrs: old_xattrs } = &mut self.inodes[id]
        {
            dir.implied = false;
            (*old, *old_xattrs) = (attributes, xattrs);
            let length = old_xattrs.len();
            return self.charge(length);
        }
        let (name, parents) = path::split_last(names)?;
        let parent = self.make_dirs(parents)?;
        self.put(parent, name, attributes, xattrs, body).map(drop)
    }

    /// Adds the name `names` for `target`.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn link(&mut self, names: &[&[u8]], target: Id) -> Result<()> {
        let (name, parents) = path::split_last(names)?;
        let parent = self.make_dirs(parents)?;
        self.charge(INODE_COST + name.len())?;
        if self.dir(parent)?.children.insert(name.into(), target).is_some() {
            self.followed = None;
        }
        Ok(())
    }

    /// Takes `name` out of the root directory, with all below it, if it is there.
    pub fn remove(&mut self, name: &[u8]) {
        self.followed = None;
        if let Body::Dir(root) = &mut self.inodes[ROOT].body {
            root.children.remove(name);
        }
    }

    /// Keeps `names` for what is to come, a hard link: what stood there before is gone, as with [`Tree::insert`].
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn reserve(&mut self, names: &[&[u8]]) -> Result<()> {
        let (name, parents) = path::split_last(names)?;
        let parent = self.make_dirs(parents)?;
        self.put(parent, name, WHITEOUT, Vec::new(), Body::Whiteout).map(drop)
    }

    /// Gives the implied directories the layer's own time: the newest of its entries', or 1970 where it has none.
    pub fn date_implied(&mut self) {
        let newest = self.newest.unwrap_or_default();
        for inode in &mut self.inodes {
            if matches!(&inode.body, Body::Dir(dir) if dir.implied) {
                inode.attributes.mtime = newest;
            }
        }
    }

    /// Marks `name` in the directory `parents` as deleted from the layers below. What the layer itself has of that name
    /// stays (image-spec, layer.md, "Whiteouts": they apply to lower layers only), but nothing shows through it.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn white_out(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<()> {
        let parent = self.make_dirs(parents)?;
        match self.child(parent, name).map(|id| &mut self.inodes[id].body) {
            Some(Body::Dir(dir)) => (dir.opaque, dir.anew) = (true, true),
            Some(_) => {}
            None => self.put(parent, name, WHITEOUT, Vec::new(), Body::Whiteout).map(drop)?,
        }
        Ok(())
    }

    /// Hides all that lower layers have in the directory `names` (image-spec, layer.md, "Opaque Whiteout").
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn make_opaque(&mut self, names: &[&[u8]]) -> Result<()> {
        let id = self.make_dirs(names)?;
        self.dir(id)?.opaque = true;
        Ok(())
    }

    /// Puts an inode at `name` in the directory `parent`. A directory in the place of something else is made opaque, and anew.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn put(
        &mut self,
        parent: Id,
        name: &[u8],
        attributes: Attributes,
        xattrs: Vec<u8>,
        mut body: Body,
    ) -> Result<Id> {
        if let Body::Dir(dir) = &mut body {
            dir.parent = parent;
        }
        let target = if let Body::Symlink(target) = &body { target.len() } else { 0 };
        self.charge(INODE_COST + name.len() + xattrs.len() + target)?;
        let id = self.inodes.len();
        self.inodes.push(Inode { attributes, xattrs, body });
        let before = self.dir(parent)?.children.insert(name.into(), id);
        if before.is_some() {
            self.followed = None;
        }
        // Where the layer had something else first, or a whiteout, the lower layers' directory is gone: a new one
        // must not be merged with it.
        if let (Some(_), Body::Dir(dir)) = (before, &mut self.inodes[id].body) {
            (dir.opaque, dir.anew) = (true, true);
        }
        Ok(id)
    }

    /// The directory `id`, to be changed.
    ///
    /// # Errors
    /// It is none.
    pub fn dir(&mut self, id: Id) -> Result<&mut Dir> {
        match &mut self.inodes[id].body {
            Body::Dir(dir) => Ok(dir),
            _ => bail!("its parent is not a directory in this layer"),
        }
    }

    /// Counts `bytes` of metadata: what is in the tree, or waits to become part of it.
    ///
    /// # Errors
    /// With them the layer passes [`MAX_METADATA`].
    pub fn charge(&mut self, bytes: usize) -> Result<()> {
        self.memory = self.memory.checked_add(bytes).context("too much metadata")?;
        if self.memory > MAX_METADATA {
            bail!("the layer has too many entries: their metadata passes {} MiB", MAX_METADATA >> 20);
        }
        Ok(())
    }
}

/// Overlayfs looks at nothing of a whiteout but its device number.
const WHITEOUT: Attributes = Attributes { mode: 0, ..IMPLIED };

/// What a name in a path leads to.
enum Step {
    Dir(Id),
    /// A symbolic link to this.
    Link(Box<[u8]>),
    None,
}

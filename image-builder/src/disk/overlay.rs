//! What a container changed: the upper directory of an overlay against the layers below it, without mounting any.
//!
//! Marks are overlayfs's (Linux, `Documentation/filesystems/overlayfs.rst`): a character device 0:0 deletes a name, a directory with
//! `trusted.overlay.opaque=y` hides all that lower ones hold.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, bail, ensure};

use super::walk::{TOO_MANY, join, most_names};
use super::{Disk, Inode, Kind};
use crate::tarball::quoted;

/// Where a scratch disk holds what the container wrote. The guest makes it.
const UPPER: &[u8] = b"/upper";

/// How a path differs from the image's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The image does not have it.
    Added,
    /// The image has it too: its contents, attributes or, of a directory, entries may be others.
    Changed,
    /// The image has it, the container does not. What was below it is gone with it, and not told.
    Deleted,
}

impl ChangeKind {
    /// The letter that `docker diff` shows.
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// A path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// How.
    pub kind: ChangeKind,
    /// The path in the container, from `/` on.
    pub path: Vec<u8>,
}

/// Layers, as the container saw them stacked.
pub struct Overlay<'a> {
    /// Lowest first.
    layers: &'a [Disk],
}

/// The directories, topmost first, that overlayfs shows as one: number of the layer, and inode.
type Merged = Vec<(usize, Inode)>;

/// What the layers have of one name.
struct Lower {
    /// False: the topmost of them that says anything deletes it.
    visible: bool,
    /// Empty unless it is a directory.
    directories: Merged,
    /// Lower directories of that name join in.
    open: bool,
}

/// A directory of the upper layer.
struct Directory {
    path: Vec<u8>,
    upper: Inode,
    opaque: bool,
    lower: Merged,
}

impl<'a> Overlay<'a> {
    /// The stack of `layers`, lowest first.
    pub fn new(layers: &'a [Disk]) -> Self {
        Self { layers }
    }

    /// Tells `report` what the container that wrote to `scratch` changed: as `docker diff` does, each directory before what
    /// is in it, names in the order of their bytes. A file counts as changed when it was copied up, whatever became of it.
    ///
    /// # Errors
    /// `scratch` is no scratch disk; damage; overlayfs features that no guest of ours turns on (`redirect`); those of `report`.
    pub fn changes(&self, scratch: &Disk, report: &mut dyn FnMut(Change) -> Result<()>) -> Result<()> {
        let upper = scratch.find(UPPER, false).context("it is no scratch disk")?;
        let mut seen = HashSet::new();
        let root = Directory { path: Vec::new(), upper, opaque: false, lower: self.roots()? };
        let mut names = most_names(scratch);
        let mut pending = vec![(None, Some(root))];
        while let Some((change, directory)) = pending.pop() {
            change.map_or(Ok(()), &mut *report)?;
            let Some(directory) = directory else { continue };
            let shown = || format!("directory {}", quoted(&rooted(&directory.path)));
            ensure!(seen.insert(directory.upper.number), "{} has two names", shown());
            let below = self.compare(scratch, &directory, &mut names).with_context(shown)?;
            pending.extend(below.into_iter().rev().map(|(change, directory)| (Some(change), directory)));
        }
        Ok(())
    }

    fn roots(&self) -> Result<Merged> {
        let numbered = self.layers.iter().enumerate().rev();
        numbered.map(|(number, layer)| Ok((number, layer.root()?))).collect()
    }

    /// The changes in one directory, each with the directory in the upper layer that it is about, if there is one. Upper
    /// names are taken from the `left` ones.
    fn compare(
        &self,
        scratch: &Disk,
        directory: &Directory,
        left: &mut u64,
    ) -> Result<Vec<(Change, Option<Directory>)>> {
        let mut lower = self.merge(&directory.lower)?;
        let mut names: BTreeMap<Vec<u8>, Option<Inode>> = BTreeMap::new();
        if directory.opaque {
            names.extend(lower.keys().map(|name| (name.clone(), None)));
        }
        let entries = scratch.entries(&directory.upper)?;
        *left = left.checked_sub(entries.len() as u64).context(TOO_MANY)?;
        for entry in entries {
            names.insert(entry.name, Some(scratch.inode(entry.number)?));
        }
        let mut changes = Vec::new();
        for (name, upper) in names {
            let path = join(&directory.path, &name);
            let lower = lower.remove(&name);
            let visible = lower.as_ref().is_some_and(|lower| lower.visible);
            let kind = match upper.filter(|inode| !inode.kind.is_whiteout()) {
                None if visible => ChangeKind::Deleted,
                None => continue,
                Some(_) if visible => ChangeKind::Changed,
                Some(_) => ChangeKind::Added,
            };
            let change = Change { kind, path: rooted(&path) };
            let Some(upper) = upper.filter(|inode| inode.kind == Kind::Directory) else {
                changes.push((change, None));
                continue;
            };
            let opaque = is_opaque(scratch, &upper).with_context(|| quoted(&change.path))?;
            let lower = lower.map(|lower| lower.directories).unwrap_or_default();
            changes.push((change, Some(Directory { path, upper, opaque, lower })));
        }
        Ok(changes)
    }

    /// What the directories hold together.
    fn merge(&self, directories: &Merged) -> Result<BTreeMap<Vec<u8>, Lower>> {
        let mut merged: BTreeMap<Vec<u8>, Lower> = BTreeMap::new();
        for &(number, directory) in directories {
            let disk = &self.layers[number];
            for entry in disk.entries(&directory)? {
                let inode = disk.inode(entry.number)?;
                let visible = !inode.kind.is_whiteout();
                let lower = merged.entry(entry.name).or_insert(Lower {
                    visible,
                    directories: Vec::new(),
                    open: true,
                });
                let joins = lower.open && inode.kind == Kind::Directory;
                if joins {
                    lower.directories.push((number, inode));
                }
                lower.open = joins && !is_opaque(disk, &inode)?;
            }
        }
        Ok(merged)
    }
}

/// Whether the directory hides what lower ones hold.
fn is_opaque(disk: &Disk, directory: &Inode) -> Result<bool> {
    let xattrs = disk.xattrs(directory)?;
    let value = |name: &[u8]| xattrs.iter().find(|xattr| xattr.name == name).map(|xattr| &xattr.value);
    if value(b"trusted.overlay.redirect").is_some() {
        bail!("a renamed directory (trusted.overlay.redirect): guests of ours do not make these");
    }
    Ok(value(b"trusted.overlay.opaque").is_some_and(|value| value == b"y"))
}

/// A path as the container names it.
fn rooted(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}

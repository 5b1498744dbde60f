//! From the entries of a layer's archive to the tree: whiteouts, hard links, repeated entries.
//!
//! OCI's marks (image-spec, layer.md) become what overlayfs reads (Linux, `Documentation/filesystems/overlayfs.rst`):
//!
//! | in the archive | on the disk |
//! |---|---|
//! | `.wh.NAME` | character device 0:0 called NAME, and an empty `trusted.overlay.origin` on its directory, without which overlayfs lists the whiteouts of a directory that only one layer has |
//! | `.wh.NAME` beside NAME | NAME alone; a directory is made opaque, and is 0755, root's, if it has no entry |
//! | `.wh..wh..opq` | `trusted.overlay.opaque=y` on its directory |
//! | other `.wh..wh.` names | nothing: they are aufs's own; but hard links to files in `.wh..wh.plnk` are made |
//! | `trusted.overlay.*` xattrs | nothing: they would speak to our overlayfs, not to the container |
//! | no entry for a directory that others are in | 0755, root's, of the layer's newest time, and an empty `trusted.overlay.containervm.implied` |
//!
//! The last mark is ours. Other programs unpack a layer onto the ones below it, where such a directory is there already
//! and keeps its attributes (or is a symbolic link, and is followed); whoever merges layers can tell by the mark that this
//! one has nothing to say. Where overlayfs merges them it has its 0755: overlayfs neither understands the name nor shows
//! it, and leaves it behind on copy-up, as all that begins with `trusted.overlay.`.
//!
//! A path may lead through the layer's own symbolic links (`lib -> usr/lib`, then `lib/x`): it ends where it would in the
//! container, as with containerd and umoci. There is no other tree that it could escape to; a link that leads above
//! the root, or in circles, is refused all the same.

use std::collections::BTreeMap;
use std::io::{BufRead, Seek, Write};

use anyhow::{Context, Result, bail};

use super::output::Output;
use super::path::{check_symlink, components, split_last};
use super::tree::{Attributes, Body, Dir, INODE_COST, Tree};
use super::xattr;
use crate::tarball::{Entry, Kind, Reader, quoted};

const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Where aufs kept the files that had several names.
const PLINKS: &[u8] = b".wh..wh.plnk";

/// Reads all entries: file data go to `output`, the rest becomes the tree.
///
/// # Errors
/// Of the archive and of `output`; entries that cannot be, each named.
pub fn read<R: BufRead, W: Write + Seek>(archive: &mut Reader<R>, output: &mut Output<W>) -> Result<Tree> {
    let mut layer = Layer::default();
    while let Some(entry) = archive.next_entry()? {
        let shown = || format!("tar entry {}", quoted(&entry.path));
        layer.add(&entry, archive, output).with_context(shown)?;
    }
    layer.resolve_links()?;
    layer.tree.remove(PLINKS);
    layer.tree.date_implied();
    Ok(layer.tree)
}

#[derive(Default)]
struct Layer {
    tree: Tree,
    /// Hard links met before their targets: name and target, both normalised. One target may be another's name.
    early_links: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Layer {
    fn add<R: BufRead, W: Write + Seek>(
        &mut self,
        entry: &Entry,
        archive: &mut Reader<R>,
        output: &mut Output<W>,
    ) -> Result<()> {
        let names = components(&entry.path)?;
        if let Some((name, parents)) = names.split_last() {
            let aufs = |names: &[&[u8]]| names.iter().any(|n| n.starts_with(AUFS));
            if (aufs(parents) && parents != [PLINKS]) || (aufs(&[name]) && *name != OPAQUE) {
                return Ok(());
            }
            if let Some(parent) = parents.iter().find(|n| n.starts_with(WHITEOUT) && **n != PLINKS) {
                bail!("its parent {} has the name of a whiteout", quoted(parent));
            }
            if *name == OPAQUE {
                return self.tree.make_opaque(parents);
            }
            if let Some(hidden) = name.strip_prefix(WHITEOUT) {
                return self.white_out(parents, hidden);
            }
        }
        let body = match &entry.kind {
            Kind::HardLink { target } => return self.hard_link(&names, entry, target),
            Kind::CharDevice { major: 0, minor: 0 } => {
                let (name, parents) = split_last(&names)?;
                return self.white_out(parents, name);
            }
            kind => body(kind, archive, output)?,
        };
        // Linux gives every symbolic link 0777 and lets nobody change it.
        let mode = if matches!(body, Body::Symlink(_)) { 0o777 } else { entry.mode };
        let attributes = Attributes { mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime };
        let xattrs = xattr::encode_all(&entry.xattrs, &body)?;
        self.tree.insert(&names, attributes, xattrs, body)
    }

    fn white_out(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<()> {
        if matches!(name, b"" | b"." | b"..") {
            bail!("a whiteout without a name");
        }
        self.tree.white_out(parents, name)
    }

    fn hard_link(&mut self, names: &[&[u8]], entry: &Entry, target: &[u8]) -> Result<()> {
        let target_names = components(target).context("the hard link's target")?;
        if target_names.as_slice() == names {
            bail!("a hard link to itself");
        }
        if self.link(names, &target_names)? {
            return Ok(());
        }
        self.tree.reserve(names)?;
        self.tree.charge(INODE_COST + entry.path.len() + target.len())?;
        self.early_links.insert(names.join(&b'/'), target_names.join(&b'/'));
        Ok(())
    }

    /// False: the target is not there (yet).
    fn link(&mut self, names: &[&[u8]], target: &[&[u8]]) -> Result<bool> {
        let Some(id) = self.tree.find(target).context("the hard link's target")? else { return Ok(false) };
        match self.tree.get(id).body {
            Body::Dir(_) => bail!("a hard link to a directory"),
            Body::Whiteout => Ok(false),
            _ => self.tree.link(names, id).map(|()| true),
        }
    }

    /// Makes the links that came before their targets. Where one waits for another, that one is made first.
    fn resolve_links(&mut self) -> Result<()> {
        while let Some(link) = self.early_links.pop_first() {
            let mut chain = vec![link];
            while let Some(next) =
                chain.last().and_then(|(_, target)| self.early_links.remove_entry(target.as_slice()))
            {
                chain.push(next);
            }
            for (name, target) in chain.iter().rev() {
                let shown = || format!("tar entry {}", quoted(name));
                self.early_link(name, target).with_context(shown)?;
            }
        }
        Ok(())
    }

    fn early_link(&mut self, name: &[u8], target: &[u8]) -> Result<()> {
        let (names, target_names) = (components(name)?, components(target)?);
        // Where an entry after the link has the name by now, the last one wins.
        let reserved =
            self.tree.find(&names)?.is_some_and(|id| matches!(self.tree.get(id).body, Body::Whiteout));
        if !reserved || self.link(&names, &target_names)? {
            return Ok(());
        }
        bail!("a hard link to {}, which this layer does not have", quoted(target))
    }
}

/// The inode's body for all kinds but hard links; a file's data go to the disk.
fn body<R: BufRead, W: Write + Seek>(
    kind: &Kind,
    archive: &mut Reader<R>,
    output: &mut Output<W>,
) -> Result<Body> {
    Ok(match kind {
        Kind::File { size } => {
            output.check_room(*size)?;
            let block = output.next_block()?;
            archive.data(output)?;
            output.align()?;
            Body::File { block, size: *size }
        }
        Kind::Symlink { target } => {
            check_symlink(target)?;
            Body::Symlink(target.as_slice().into())
        }
        Kind::Dir => Body::Dir(Dir::default()),
        Kind::CharDevice { major, minor } => Body::CharDevice(*major, *minor),
        Kind::BlockDevice { major, minor } => Body::BlockDevice(*major, *minor),
        Kind::Fifo => Body::Fifo,
        Kind::HardLink { .. } => bail!("a hard link has no inode of its own"),
    })
}

//! ext4 layer disks, for guests whose kernel has no EROFS.
//!
//! One is made from the layer's finished EROFS disk, so that all that an archive can say is understood in one place
//! ([`crate::erofs::layer`]), and both disks hold the same tree. Crate `mkext4` lays it out and writes it; what it gives a
//! filesystem to be written to is taken away again.
//!
//! Promises:
//! - The same disk gives the same bytes: no clock, no random numbers (this version of `mkext4`, to be exact: it is pinned).
//! - `e2fsck -fn` finds nothing to mend. No journal, no `lost+found` (unless it is the layer's), no reserved blocks.
//! - What EROFS holds and ext4 or `mkext4` does not is refused by name: names, link targets and xattr names that are not UTF-8,
//!   xattrs of more than some 4 KB per inode, more than 65,000 hard links to a file, times before 1901 and after 2446.
//! - Memory grows with the entries, not with file contents.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use mkext4::{FsBuilder, InodeCount, InodeHandle, Meta, Options, RegionSink, SpecialKind};

use crate::disk::{Disk, Inode, Kind};
use crate::tarball::quoted;

mod size;
mod strip;

use size::Size;

/// Size of a block, in bytes.
const BLOCK: u64 = 4096;

/// Writes the tree of `disk` as an ext4 filesystem with `uuid` to `out`, which is empty. Gives its length in bytes. What is free in
/// it is a hole in `out`.
///
/// # Errors
/// `disk` is damaged, or has what ext4 cannot hold; both name the entry. `out` cannot be written.
pub fn write(disk: &Disk, uuid: [u8; 16], out: &File) -> Result<u64> {
    let mut size = Size::default();
    let root = disk.root()?;
    size.add(&root, disk)?;
    disk.walk(&root, &mut |_, inode| size.add(inode, disk).map(|()| true))?;
    let mut options = Options::new(size.bytes()?, uuid, 0);
    options.inodes = InodeCount::Exact(size.inodes()?);
    options.reserved_percent = 0;
    options.journal_blocks = Some(1);
    let length = options.size_bytes;
    out.set_len(length).context("cannot write the ext4 disk")?;
    let mut tree = Tree { disk, builder: FsBuilder::new(options)?, files: Vec::new(), links: HashMap::new() };
    tree.declare()?;
    let layout = tree.builder.seal()?;
    let mut writer = layout.writer(Sparse(out)).context("cannot write the ext4 disk")?;
    for (handle, inode) in &tree.files {
        writer.fill(*handle, &mut disk.contents(inode)?).context("cannot write the ext4 disk")?;
    }
    writer.finish()?;
    strip::strip(out).context("cannot finish the ext4 disk")?;
    Ok(length)
}

/// The tree on its way into the builder.
struct Tree<'a> {
    disk: &'a Disk,
    builder: FsBuilder,
    /// Regular files that are not empty, in the order in which their contents are to be written.
    files: Vec<(InodeHandle, Inode)>,
    /// Inodes with several names.
    links: HashMap<u64, InodeHandle>,
}

impl Tree<'_> {
    fn declare(&mut self) -> Result<()> {
        let root = self.disk.root()?;
        let shown = "the root directory";
        self.builder.set_meta(mkext4::ROOT, meta(&root).context(shown)?)?;
        self.xattrs(mkext4::ROOT, &root).context(shown)?;
        let mut directories = HashMap::from([(Vec::new(), mkext4::ROOT)]);
        let disk = self.disk;
        disk.walk(&root, &mut |path, inode| {
            let slash = path.iter().rposition(|byte| *byte == b'/');
            let (parent, name) = slash.map_or((&[][..], path), |at| (&path[..at], &path[at + 1..]));
            let parent = *directories.get(parent).context("its directory comes before it")?;
            let handle = self.add(parent, name, inode)?;
            if inode.kind == Kind::Directory {
                directories.insert(path.to_vec(), handle);
            }
            Ok(true)
        })
    }

    fn add(&mut self, parent: InodeHandle, name: &[u8], inode: &Inode) -> Result<InodeHandle> {
        let name = text(name).context("its name")?;
        if let Some(&handle) = self.links.get(&inode.number) {
            self.builder.hardlink(parent, name, handle)?;
            return Ok(handle);
        }
        let meta = meta(inode)?;
        let builder = &mut self.builder;
        let handle = match inode.kind {
            Kind::Directory => builder.mkdir(parent, name, meta)?,
            Kind::File => builder.file(parent, name, meta, inode.size)?,
            Kind::Symlink => {
                let target = self.disk.target(inode)?;
                builder.symlink(parent, name, text(&target).context("its target")?, meta)?
            }
            Kind::CharDevice(major, minor) => {
                builder.mknod(parent, name, meta, SpecialKind::Char { major, minor })?
            }
            Kind::BlockDevice(major, minor) => {
                builder.mknod(parent, name, meta, SpecialKind::Block { major, minor })?
            }
            Kind::Fifo => builder.mknod(parent, name, meta, SpecialKind::Fifo)?,
            Kind::Socket => builder.mknod(parent, name, meta, SpecialKind::Socket)?,
        };
        if inode.kind == Kind::File && inode.size > 0 {
            self.files.push((handle, *inode));
        }
        if inode.kind != Kind::Directory && inode.links > 1 {
            self.links.insert(inode.number, handle);
        }
        self.xattrs(handle, inode)?;
        Ok(handle)
    }

    /// The builder checks sizes only when all is there, and then names nobody: so it is done here.
    fn xattrs(&mut self, handle: InodeHandle, inode: &Inode) -> Result<()> {
        let xattrs = self.disk.xattrs(inode)?;
        let mut room = size::XATTR_ROOM;
        for xattr in &xattrs {
            let need = size::xattr(xattr);
            ensure!(
                need <= room,
                "xattr {} of {} bytes: ext4 disks hold {} bytes of xattrs per inode",
                quoted(&xattr.name),
                xattr.value.len(),
                size::XATTR_ROOM
            );
            room -= need;
            self.builder.set_xattr(handle, text(&xattr.name).context("an xattr's name")?, &xattr.value)?;
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Result<&str> {
    let error = || format!("{} is not UTF-8, which ext4 disks need (EROFS disks do not)", quoted(bytes));
    std::str::from_utf8(bytes).with_context(error)
}

fn meta(inode: &Inode) -> Result<Meta> {
    let (seconds, nanos) = (inode.mtime.seconds, inode.mtime.nanos);
    // 32 bits with a sign, and two more for what comes after (Documentation/filesystems/ext4/inodes.rst).
    if !(-(1 << 31)..(1 << 34) - (1 << 31)).contains(&seconds) || nanos >= 1_000_000_000 {
        bail!("its mtime, {seconds} s after 1970: ext4 holds the years 1901 to 2446");
    }
    Ok(Meta::new(inode.mode, inode.uid, inode.gid, (seconds, nanos)))
}

/// Writes to a file that is one hole, and leaves zeros out.
struct Sparse<'a>(&'a File);

impl RegionSink for Sparse<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        const PIECE: usize = 64 << 10;
        static ZEROS: [u8; PIECE] = [0; PIECE];
        for (piece, at) in bytes.chunks(PIECE).zip((offset..).step_by(PIECE)) {
            if *piece != ZEROS[..piece.len()] {
                self.0.write_all_at(piece, at)?;
            }
        }
        Ok(())
    }

    fn zeros(&mut self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }
}

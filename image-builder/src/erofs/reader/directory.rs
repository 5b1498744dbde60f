//! Directories (`erofs_dirent`): see [`super::super::dirent`] for their form.

use anyhow::{Context, Result, bail};

use super::super::dirent::HEAD;
use super::super::path::NAME_MAX;
use super::inode::Fields;
use super::{BLOCK_SIZE, FileType, Inode, Kind, ReadAt, Reader};
use crate::tarball::quoted;

/// An entry takes at least its head and a name of one byte.
pub const LEAST_ENTRY: u64 = HEAD as u64 + 1;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 1 to 255 bytes, no slash, no NUL; not `.` nor `..`.
    pub name: Box<[u8]>,
    /// The inode's number.
    pub nid: u64,
    /// What the inode is.
    pub file_type: FileType,
}

impl<D: ReadAt> Reader<D> {
    /// What is in the directory `inode`, in the order of the names' bytes, without `.` and `..`.
    ///
    /// # Errors
    /// `inode` is no directory; the disk cannot be read, or is damaged there.
    pub fn entries(&self, inode: &Inode) -> Result<Vec<Entry>> {
        self.entries_and_parent(inode).map(|(entries, _)| entries)
    }

    /// The entries, and the nid that `..` leads to.
    pub(super) fn entries_and_parent(&self, inode: &Inode) -> Result<(Vec<Entry>, u64)> {
        if inode.kind != Kind::Dir {
            bail!("not a directory: {:?}", inode.kind);
        }
        let mut entries = Vec::new();
        for block in self.content(inode)?.chunks(BLOCK_SIZE) {
            decode_block(block, &mut entries).with_context(|| format!("directory {}", inode.nid))?;
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            bail!("directory {}: {} is out of order", inode.nid, quoted(&pair[1].name));
        }
        let own = take(&mut entries, b".").with_context(|| format!("directory {}", inode.nid))?;
        if own != inode.nid {
            bail!("directory {}: its \".\" is inode {own}", inode.nid);
        }
        let parent = take(&mut entries, b"..").with_context(|| format!("directory {}", inode.nid))?;
        Ok((entries, parent))
    }
}

/// Takes out the entry `name`, a directory, and gives its nid.
fn take(entries: &mut Vec<Entry>, name: &[u8]) -> Result<u64> {
    let found = entries.binary_search_by(|entry| (*entry.name).cmp(name)).ok();
    let entry = found.map(|at| entries.remove(at)).with_context(|| format!("it has no {}", quoted(name)))?;
    if entry.file_type != FileType::Directory {
        bail!("its {} is listed as {:?}", quoted(name), entry.file_type);
    }
    Ok(entry.nid)
}

/// The first name's offset tells how many heads there are. In the last block the name ends with the block, or with a NUL
/// where the block was filled up.
fn decode_block(block: &[u8], entries: &mut Vec<Entry>) -> Result<()> {
    let fields = Fields(block);
    let first = usize::from(fields.u16(8)?);
    if first < HEAD || !first.is_multiple_of(HEAD) || first > block.len() {
        bail!("the names of a block cannot start at byte {first}");
    }
    let count = first / HEAD;
    for number in 0..count {
        let head = number * HEAD;
        let start = usize::from(fields.u16(head + 8)?);
        let end = if number + 1 < count { usize::from(fields.u16(head + HEAD + 8)?) } else { block.len() };
        let name = block.get(start..end).filter(|_| start >= first);
        let name = name.with_context(|| format!("a name from byte {start} to {end} of a block"))?;
        let name = if number + 1 < count { name } else { trim(name) };
        check_name(name)?;
        let types = block.get(head + 10..head + 12).context("cut off")?;
        entries.push(Entry { name: name.into(), nid: fields.u64(head)?, file_type: file_type(types)? });
    }
    Ok(())
}

fn trim(name: &[u8]) -> &[u8] {
    name.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > NAME_MAX || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        bail!("{} is not a name", quoted(name));
    }
    Ok(())
}

/// From the type and the reserved byte after it.
fn file_type(bytes: &[u8]) -> Result<FileType> {
    use FileType::{BlockDevice, CharDevice, Directory, Fifo, Regular, Symlink};
    let known = [Regular, Directory, CharDevice, BlockDevice, Fifo, Symlink];
    let found = known.into_iter().find(|kind| bytes == [*kind as u8, 0]);
    found.with_context(|| format!("an entry of type {bytes:?}"))
}

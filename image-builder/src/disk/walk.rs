//! A tree, entry by entry.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};

use super::{Disk, Inode, Kind};
use crate::tarball::quoted;

/// Far more than Linux lets anybody name, but a bound.
const MAX_PATH: usize = 64 << 10;

/// Bound of the memory for names that wait, in bytes: what a layer's tree may take.
const MAX_HELD: usize = crate::erofs::tree::MAX_METADATA;

/// About what a name takes while it waits.
fn cost(path: &[u8]) -> usize {
    path.len() + size_of::<(Vec<u8>, Inode)>()
}

/// Names that there is room for on `disk`, each in at least 12 bytes, as on ext4. A bound where directories have blocks in
/// common, on a disk made to harm.
pub fn most_names(disk: &Disk) -> u64 {
    disk.length() / 12
}

/// What is said of more.
pub const TOO_MANY: &str = "more names than the disk can have: the filesystem is damaged";

impl Disk {
    /// Calls `visit` for all that is below `directory`: parents before what is in them, names in the order of their bytes. Paths
    /// are relative to `directory`. Where `visit` says false, a directory is not entered.
    ///
    /// # Errors
    /// Damage, a directory with two names among it; those of `visit`. They name the entry.
    pub fn walk(
        &self,
        directory: &Inode,
        visit: &mut dyn FnMut(&[u8], &Inode) -> Result<bool>,
    ) -> Result<()> {
        // Each directory once: so no cycle, and nothing exponential.
        let mut seen = HashSet::from([directory.number]);
        let mut names = most_names(self);
        let mut pending = vec![(Vec::new(), *directory)];
        let mut held = 0;
        while let Some((path, inode)) = pending.pop() {
            held -= if path.is_empty() { 0 } else { cost(&path) };
            let enter = path.is_empty() || visit(&path, &inode).with_context(|| quoted(&path))?;
            if inode.kind != Kind::Directory || !enter {
                continue;
            }
            let entries = self.entries(&inode).with_context(|| quoted(&path))?;
            let left = names.checked_sub(entries.len() as u64);
            names = left.with_context(|| format!("{}: {TOO_MANY}", quoted(&path)))?;
            for entry in entries.iter().rev() {
                let below = join(&path, &entry.name);
                if below.len() > MAX_PATH {
                    bail!("{}: nested too deeply", quoted(&path));
                }
                let child = self.inode(entry.number).with_context(|| quoted(&below))?;
                if child.kind == Kind::Directory && !seen.insert(child.number) {
                    bail!("{}: a directory with two names: the filesystem is damaged", quoted(&below));
                }
                held += cost(&below);
                pending.push((below, child));
            }
            if held > MAX_HELD {
                bail!("{}: {TOO_MANY}", quoted(&path));
            }
        }
        Ok(())
    }
}

/// `directory/name`, or the name alone.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Entry, Extent, Filesystem};
    use super::*;
    use crate::tarball::Xattr;

    /// Each directory has the same thousand names of a file, and then the next directory.
    struct Shared;

    impl Filesystem for Shared {
        fn uuid(&self) -> [u8; 16] {
            [0; 16]
        }
        fn length(&self) -> u64 {
            100 << 10
        }
        fn root(&self) -> u64 {
            1
        }
        fn inode(&self, number: u64) -> Result<Inode> {
            let kind = if number == 0 { Kind::File } else { Kind::Directory };
            Ok(Inode {
                number,
                kind,
                mode: 0,
                uid: 0,
                gid: 0,
                mtime: crate::tarball::Mtime::default(),
                size: 0,
                links: 1,
            })
        }
        fn entries(&self, directory: &Inode) -> Result<Vec<Entry>> {
            let file = |name: u16| Entry { name: name.to_be_bytes().into(), number: 0 };
            let next = Entry { name: b"next".into(), number: directory.number + 1 };
            Ok((0..1000).map(file).chain([next]).collect())
        }
        fn target(&self, _: &Inode) -> Result<Vec<u8>> {
            bail!("no link")
        }
        fn xattrs(&self, _: &Inode) -> Result<Vec<Xattr>> {
            Ok(Vec::new())
        }
        fn extents(&self, _: &Inode) -> Result<Vec<Extent>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn directories_with_common_blocks_end() {
        let disk = Disk { source: Arc::new(Vec::new()), filesystem: Box::new(Shared) };
        let mut visited = 0;
        let walk = disk.walk(&disk.root().unwrap(), &mut |_, _| {
            visited += 1;
            Ok(true)
        });
        assert!(walk.unwrap_err().to_string().contains(TOO_MANY));
        assert!(visited < (100 << 10) / 12, "{visited}");
    }
}

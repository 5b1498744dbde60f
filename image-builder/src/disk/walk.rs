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
        let mut pending = vec![(Vec::new(), *directory)];
        let mut held = 0;
        while let Some((path, inode)) = pending.pop() {
            held -= if path.is_empty() { 0 } else { cost(&path) };
            let enter = path.is_empty() || visit(&path, &inode).with_context(|| quoted(&path))?;
            if inode.kind != Kind::Directory || !enter {
                continue;
            }
            let entries = self.entries(&inode).with_context(|| quoted(&path))?;
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
                bail!("{}: more names than the disk can have: the filesystem is damaged", quoted(&path));
            }
        }
        Ok(())
    }
}

/// `directory/name`, or the name alone.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

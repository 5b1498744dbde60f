//! From a path to an inode.

use anyhow::{Context, Result, bail};

use super::{Disk, Inode, Kind};
use crate::tarball::quoted;

/// As many symbolic links in one path as Linux follows (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Linux's PATH_MAX, as a bound for what links make of a path.
const MAX_PATH: usize = 4096;

impl Disk {
    /// The inode at `path`, with the disk's root as `/`, whether the path says so or not. Symbolic links are followed, the
    /// last one only if `follow`; `..` of the root is the root, so nothing leads out of the disk.
    ///
    /// # Errors
    /// There is no such file; too many links; damage.
    pub fn find(&self, path: &[u8], follow: bool) -> Result<Inode> {
        self.resolve(path, follow).with_context(|| format!("{} on the disk", quoted(path)))
    }

    fn resolve(&self, path: &[u8], follow: bool) -> Result<Inode> {
        let mut parents: Vec<Inode> = Vec::new();
        let mut at = self.root()?;
        let mut rest: Vec<Vec<u8>> = reversed(path)?;
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b".." {
                at = parents.pop().unwrap_or(at);
                continue;
            }
            let child = self.child(&at, &name)?.context("no such file or directory")?;
            if child.kind == Kind::Symlink && (follow || !rest.is_empty()) {
                links += 1;
                if links > MAX_LINKS {
                    bail!("more than {MAX_LINKS} symbolic links");
                }
                let target = self.target(&child)?;
                if target.starts_with(b"/") {
                    at = self.root()?;
                    parents.clear();
                }
                rest.extend(reversed(&target)?);
                if rest.iter().map(|name| name.len() + 1).sum::<usize>() > MAX_PATH {
                    bail!("symbolic links make it longer than {MAX_PATH} bytes");
                }
                continue;
            }
            parents.push(std::mem::replace(&mut at, child));
        }
        Ok(at)
    }

    /// The inode called `name` in `directory`.
    ///
    /// # Errors
    /// `directory` is none; damage.
    pub fn child(&self, directory: &Inode, name: &[u8]) -> Result<Option<Inode>> {
        if directory.kind != Kind::Directory {
            bail!("not a directory");
        }
        let entries = self.entries(directory)?;
        match entries.binary_search_by(|entry| entry.name.as_slice().cmp(name)) {
            Ok(found) => self.inode(entries[found].number).map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// The components of `path`, last first.
fn reversed(path: &[u8]) -> Result<Vec<Vec<u8>>> {
    if path.len() > MAX_PATH {
        bail!("a path of more than {MAX_PATH} bytes");
    }
    let names = path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    Ok(names.rev().map(<[u8]>::to_vec).collect())
}

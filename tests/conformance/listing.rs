//! Trees as `probe tree` lists them, and how they differ.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};

use crate::host::run;

/// Fields of a line; see `tests/probe/tree.rs`.
pub const PATH: usize = 0;
pub const MTIME: usize = 4;
pub const LINKS: usize = 5;
pub const XATTRS: usize = 10;

/// The lines of a tree, taken apart.
pub struct Listing(Vec<Vec<String>>);

impl Listing {
    /// The tree below `root`, on this machine.
    pub fn of(root: &Path) -> Result<Self> {
        Self::parse(&run(env!("CARGO_BIN_EXE_probe"), &["tree".as_ref(), root.as_os_str()])?)
    }

    /// What `probe tree` printed.
    pub fn parse(lines: &[u8]) -> Result<Self> {
        let fields = |line: &str| line.split('\t').map(str::to_owned).collect();
        Ok(Self(std::str::from_utf8(lines)?.lines().map(fields).collect()))
    }

    /// Changes fields that cannot agree, in lines that `of` is true for.
    #[must_use]
    pub fn blank(mut self, field: usize, of: impl Fn(&[String]) -> bool) -> Self {
        for line in &mut self.0 {
            if of(line) {
                "-".clone_into(&mut line[field]);
            }
        }
        self
    }

    /// Leaves out xattrs whose names begin with `prefix`: `trusted.overlay.` are overlayfs's marks, to be seen only where a layer
    /// is mounted alone; `trusted.` needs CAP_SYS_ADMIN.
    #[must_use]
    pub fn without(mut self, prefix: &str) -> Self {
        for line in &mut self.0 {
            let others = line[XATTRS].split(',').filter(|xattr| !xattr.starts_with(prefix));
            line[XATTRS] = others.collect::<Vec<_>>().join(",");
        }
        self
    }

    /// Fails with the lines that only one of the two has.
    pub fn must_equal(&self, other: &Self, us: &str, them: &str) -> Result<()> {
        let lines = |listing: &Self| listing.0.iter().map(|line| line.join("\t")).collect::<BTreeSet<_>>();
        let (ours, theirs) = (lines(self), lines(other));
        if ours == theirs {
            return Ok(());
        }
        let only = |name: &str, a: &BTreeSet<String>, b: &BTreeSet<String>| {
            let lines = a.difference(b).take(20);
            lines.map(|line| format!("{name}: {}\n", line.get(..500).unwrap_or(line))).collect::<String>()
        };
        bail!("the trees differ\n{}{}", only(us, &ours, &theirs), only(them, &theirs, &ours))
    }
}

//! `cat DISK PATH`: a file on a disk, to stdout.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use image_builder::disk::{Disk, Kind};

use super::Common;

#[derive(clap::Args)]
pub struct Args {
    /// The disk: a layer disk, a scratch disk or a volume (EROFS or ext4, raw)
    disk: PathBuf,
    /// The file on it; symbolic links are followed inside the disk
    path: std::ffi::OsString,
}

impl Args {
    pub fn run(&self, _common: &Common) -> Result<()> {
        let disk = Disk::open(&self.disk)?;
        let shown = || format!("cannot read {:?} on disk {}", self.path, self.disk.display());
        let inode = disk.find(self.path.as_bytes(), true).with_context(shown)?;
        if inode.kind != Kind::File {
            bail!("{}: not a regular file: {:?}", shown(), inode.kind);
        }
        let mut contents = disk.contents(&inode).with_context(shown)?;
        // In pieces that are worth a system call.
        let mut out = io::BufWriter::with_capacity(256 << 10, io::stdout());
        io::copy(&mut contents, &mut out).and_then(|_| out.flush()).with_context(shown)
    }
}

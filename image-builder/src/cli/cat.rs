//! `cat DISK PATH`: a file on a disk, to stdout.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use image_builder::disk::{Disk, Kind};

use super::{Common, Stdout};

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
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = contents.read(&mut buffer).with_context(shown)?;
            Stdout.write_all(&buffer[..n]).and_then(|()| Stdout.flush()).context("cannot write to stdout")?;
            if n == 0 {
                return Ok(());
            }
        }
    }
}

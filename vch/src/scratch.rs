//! The scratch disk: a sparse ext4 that takes what the container writes.
//!
//! It is a file without a name, so that it is gone with the VM however that ends, `kill -9` included.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use protocol::Uuid;

use crate::child;
use crate::text::harmless;

/// Makes a scratch disk of `size` bytes on the filesystem of `dir`, with `uuid` in its superblock.
///
/// # Errors
/// The folder cannot be written to; mke2fs is not there or fails.
pub fn create(dir: &Path, size: u64, uuid: Uuid) -> Result<File> {
    let file = unnamed(dir).with_context(|| format!("cannot make a scratch disk in {}", dir.display()))?;
    file.set_len(size)
        .with_context(|| format!("cannot make a scratch disk of {size} bytes in {}", dir.display()))?;
    format(&file, uuid)?;
    Ok(file)
}

fn unnamed(dir: &Path) -> io::Result<File> {
    let mut open = OpenOptions::new();
    open.read(true).write(true).mode(0o600);
    match open.clone().custom_flags(libc::O_TMPFILE).open(dir) {
        // What kernels and filesystems without O_TMPFILE answer (open(2)).
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let path = dir.join(format!(".scratch-{}", crate::random::id()?));
            let file = open.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        opened => opened,
    }
}

fn format(file: &File, uuid: Uuid) -> Result<()> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        // No journal: nobody mounts it a second time. Nothing is zeroed, for a new file is all zeroes: the
        // guest's kernel believes it too, and spares itself the background zeroing.
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-O", "^has_journal,^resize_inode"])
        .args(["-E", "nodiscard,lazy_itable_init=1,assume_storage_prezeroed=1,root_owner=0:0"])
        .args(["-U", &uuid.to_string()])
        .arg(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .env("PATH", path_with_sbin())
        .stdin(Stdio::null());
    // A process group of its own: ^C at the terminal is for us to act on.
    mke2fs.process_group(0);
    child::bind(&mut mke2fs, vec![file.as_raw_fd()], false);
    let output = mke2fs.output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            anyhow::anyhow!("mke2fs is not installed: it is in Debian's package e2fsprogs")
        }
        _ => anyhow::anyhow!("cannot start mke2fs: {e}"),
    })?;
    if !output.status.success() {
        bail!(
            "mke2fs could not format the scratch disk ({}): {}",
            output.status,
            harmless(&output.stderr, 500)
        );
    }
    Ok(())
}

/// mke2fs is in sbin, which users' PATHs often lack.
fn path_with_sbin() -> String {
    match std::env::var("PATH") {
        Ok(path) if !path.is_empty() => format!("{path}:/usr/sbin:/sbin"),
        _ => "/usr/sbin:/sbin".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_sparse_ext4_without_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let uuid = Uuid::from_bytes(*b"0123456789abcdef");
        let file = create(dir.path(), 1 << 30, uuid).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.nlink()), (1 << 30, 0));
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        // Documentation/filesystems/ext4/super.rst: s_magic at 0x38, s_uuid at 0x68.
        let mut superblock = [0; 1024];
        file.read_exact_at(&mut superblock, 1024).unwrap();
        assert_eq!(
            (&superblock[0x38..0x3a], &superblock[0x68..0x78]),
            (&[0x53, 0xef][..], &uuid.as_bytes()[..])
        );
    }

    #[test]
    fn a_folder_that_is_not_there() {
        let error = format!("{:#}", create(Path::new("/nonexistent"), 1 << 30, Uuid::nil()).unwrap_err());
        assert_eq!(
            error,
            "cannot make a scratch disk in /nonexistent: No such file or directory (os error 2)"
        );
    }
}

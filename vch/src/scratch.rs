//! The scratch disk: a sparse ext4 that takes what the container writes.
//!
//! It is a file without a name, so that it is gone with the VM however that ends, `kill -9` included.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use protocol::Uuid;

use crate::mke2fs;

/// Makes a scratch disk of `size` bytes on the filesystem of `dir`, with `uuid` in its superblock.
///
/// # Errors
/// The folder cannot be written to; mke2fs is not there or fails.
pub fn create(dir: &Path, size: u64, uuid: Uuid, what: mke2fs::For) -> Result<File> {
    let file = unnamed(dir).with_context(|| format!("cannot make a scratch disk in {}", dir.display()))?;
    file.set_len(size)
        .with_context(|| format!("cannot make a scratch disk of {size} bytes in {}", dir.display()))?;
    mke2fs::format(&file, uuid, what)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_sparse_ext4_without_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let uuid = Uuid::from_bytes(*b"0123456789abcdef");
        let file = create(dir.path(), 1 << 30, uuid, mke2fs::For::Scratch).unwrap();
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
        let error = format!(
            "{:#}",
            create(Path::new("/nonexistent"), 1 << 30, Uuid::nil(), mke2fs::For::Scratch).unwrap_err()
        );
        assert_eq!(
            error,
            "cannot make a scratch disk in /nonexistent: No such file or directory (os error 2)"
        );
    }
}

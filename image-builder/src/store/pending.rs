//! A file that has no name until it is whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::AT_FDCWD;
use nix::fcntl::AtFlags;
use nix::unistd::linkat;
use tempfile::NamedTempFile;

use super::folder::retry;

/// Layer disks are never written again.
const MODE: u32 = 0o444;

/// What files that are being written are called, where they must have a name.
pub const PREFIX: &str = ".pending-";

/// A file being written, with a shared flock on it as long as it is open. Dropped without being published, nothing of it
/// stays.
pub enum PendingFile {
    /// It has no name at all (`O_TMPFILE`): not even `kill -9` leaves anything.
    Unnamed(File),
    /// The filesystem cannot do that; a temporary name, removed on drop.
    Named(NamedTempFile),
}

impl PendingFile {
    /// A new, empty file on the filesystem of `dir`.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create_in(dir: &Path) -> Result<Self> {
        let unnamed =
            OpenOptions::new().read(true).write(true).mode(MODE).custom_flags(libc::O_TMPFILE).open(dir);
        let created = match unnamed {
            // What kernels and filesystems without O_TMPFILE answer (open(2)).
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)) => {
                Self::named_in(dir)
            }
            other => other.map(Self::Unnamed),
        };
        let mut created = created.with_context(|| format!("cannot make a file in {}", dir.display()))?;
        retry(|| created.file().lock_shared()).context("cannot lock a new file")?;
        Ok(created)
    }

    fn named_in(dir: &Path) -> io::Result<Self> {
        let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(dir)?;
        file.as_file().set_permissions(Permissions::from_mode(MODE))?;
        Ok(Self::Named(file))
    }

    /// The file, open for reading and writing.
    pub fn file(&mut self) -> &mut File {
        match self {
            Self::Unnamed(file) => file,
            Self::Named(file) => file.as_file_mut(),
        }
    }

    /// Syncs what is written so far.
    ///
    /// # Errors
    /// The sync fails.
    pub fn sync(&mut self) -> Result<()> {
        self.file().sync_all().context("cannot sync a new file")
    }

    /// Syncs the file and gives it the name `path`. If the name is taken, another process was first: that is fine, for
    /// the same layer gives the same bytes. The file is given back open, and so locked.
    ///
    /// # Errors
    /// The sync or the link fails.
    pub fn publish(self, path: &Path) -> Result<File> {
        let (file, linked) = match self.synced(path)? {
            Self::Unnamed(file) => {
                let linked = link(&file, path);
                (file, linked)
            }
            Self::Named(named) => match named.persist_noclobber(path) {
                Ok(file) => (file, Ok(())),
                Err(e) => (e.file.reopen()?, Err(e.error)),
            },
        };
        match linked {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.with_context(|| format!("cannot link {}", path.display()))?,
        }
        sync_dir_of(path)?;
        Ok(file)
    }

    /// Syncs the file and gives it the name `path`, in the place of what has that name. The folder is not synced.
    ///
    /// # Errors
    /// The sync or the rename fails.
    pub fn replace(self, path: &Path) -> Result<()> {
        let renamed = match self.synced(path)? {
            Self::Unnamed(file) => {
                let dir = path.parent().context("a file's path has a folder")?;
                let linked = tempfile::Builder::new().prefix(PREFIX).make_in(dir, |at| link(&file, at));
                linked.and_then(|named| named.persist(path).map(drop).map_err(|e| e.error))
            }
            Self::Named(named) => named.persist(path).map(drop).map_err(|e| e.error),
        };
        renamed.with_context(|| format!("cannot make {}", path.display()))
    }

    fn synced(mut self, path: &Path) -> Result<Self> {
        self.file().sync_all().with_context(|| format!("cannot sync {}", path.display()))?;
        Ok(self)
    }
}

/// Makes names in the folder of `path` last.
///
/// # Errors
/// The folder cannot be synced.
pub fn sync_dir_of(path: &Path) -> Result<()> {
    let dir = path.parent().context("a file's path has a folder")?;
    File::open(dir).and_then(|d| d.sync_all()).with_context(|| format!("cannot sync {}", dir.display()))
}

/// By way of /proc: AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH (open(2), "O_TMPFILE").
fn link(file: &File, path: &Path) -> io::Result<()> {
    let proc = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(AT_FDCWD, proc.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn both_ways_publish_whole_files_and_leave_nothing_else() {
        for make in
            [PendingFile::create_in as fn(&Path) -> Result<PendingFile>, |d| Ok(PendingFile::named_in(d)?)]
        {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk");
            let write = |text: &str| {
                let mut pending = make(dir.path()).unwrap();
                pending.file().write_all(text.as_bytes()).unwrap();
                assert!(!path.exists() || text == "second");
                pending
            };
            write("first").publish(&path).unwrap();
            write("second").publish(&path).unwrap();
            drop(write("second"));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "first");
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}

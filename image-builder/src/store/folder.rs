//! The store's folder: its version, its parts, its lock.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::pending::PendingFile;

/// What `version` says in the stores that this program reads and writes.
const VERSION: &str = "1";

/// A store's folder.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

/// The store's lock, held until it is dropped; the kernel takes it from a process that dies.
pub struct Lock(#[expect(dead_code, reason = "the lock is the open file's")] File);

impl Folder {
    /// Opens the store in `root`, which is made if it is not there. Nothing is written to one that is complete.
    ///
    /// # Errors
    /// A store of another version; the folder cannot be made.
    pub fn open(root: &Path) -> Result<Self> {
        if let Some(folder) = Self::existing(root)? {
            return Ok(folder);
        }
        let folder = Self { root: root.to_owned() };
        folder.make().with_context(|| format!("cannot make the store {}", root.display()))?;
        Self::existing(root)?.with_context(|| format!("{} was removed at once", root.display()))
    }

    /// The store in `root`, if there is one.
    ///
    /// # Errors
    /// A store of another version; it cannot be read.
    pub fn existing(root: &Path) -> Result<Option<Self>> {
        let version = root.join("version");
        let found = match fs::read_to_string(&version) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", version.display()))?,
        };
        if found.trim_end() != VERSION {
            bail!(
                "the store {} is of version {:?}, this program knows {VERSION}: take another folder, or the program that made it",
                root.display(),
                found.trim_end()
            );
        }
        Ok(Some(Self { root: root.to_owned() }))
    }

    /// The version comes last: a folder that has it has the rest.
    fn make(&self) -> Result<()> {
        for dir in [self.layers(), self.chains(), self.images(), self.names()] {
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        self.lock_file()?;
        let mut pending = PendingFile::create_in(&self.root)?;
        io::Write::write_all(pending.file(), format!("{VERSION}\n").as_bytes())?;
        pending.publish(&self.root.join("version")).map(drop)
    }

    /// Layer disks and recipes.
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers/sha256")
    }

    /// Merged metadata.
    pub fn chains(&self) -> PathBuf {
        self.root.join("chains/sha256")
    }

    /// Images, by ID.
    pub fn images(&self) -> PathBuf {
        self.root.join("images/sha256")
    }

    /// Names of images.
    pub fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    /// Keeps images and layers from being removed while it is held. Held for moments only, never while bytes come.
    ///
    /// # Errors
    /// The lock file cannot be opened for writing.
    pub fn share(&self) -> Result<Lock> {
        let file = self.lock_file()?;
        retry(|| file.lock_shared()).context("cannot lock the store")?;
        Ok(Lock(file))
    }

    /// Keeps everybody else from adding and removing.
    ///
    /// # Errors
    /// As [`Folder::share`].
    pub fn exclude(&self) -> Result<Lock> {
        let file = self.lock_file()?;
        retry(|| file.lock()).context("cannot lock the store")?;
        Ok(Lock(file))
    }

    fn lock_file(&self) -> Result<File> {
        let path = self.root.join("lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        open.with_context(|| format!("cannot open {}", path.display()))
    }
}

/// Does `call` again while signals interrupt it.
pub fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

//! The volumes of a store: disks that outlive containers, or folders of NFS servers; a folder each.
//!
//! ```text
//! STORE/volumes/.lock               held while volumes come and go
//! STORE/volumes/NAME/volume.json    what it is (Record)
//! STORE/volumes/NAME/disk.ext4      the disk, sparse; none of NFS
//! STORE/volumes/NAME/use.lock       locked by QEMU, which inherits it, and by the monitor, as long as the VM has the disk: as a whole where it may
//!                                   write, else shared
//! ```
//!
//! Promises: a folder that has its name is whole, and on the host's disk; a volume that one VM may write to no other has, and which
//! one has it is asked of the kernel; nothing on the disk is trusted, for the container could write it. Only the user can look
//! into it.
//!
//! [`parse`]: what the user says; [`attach`]: what a VM gets; [`share`]: folders of the host's; [`nfs`]: those of servers

pub mod attach;
pub mod nfs;
pub mod parse;
mod record;
pub mod share;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use protocol::Uuid;

pub use parse::{Mount, Source};
pub use record::Record;

use crate::containers::{Containers, names, private_dir, read};
use crate::size::MIB;
use crate::{mke2fs, random};

/// The smallest volume, in bytes: less has no room for a journal.
pub const LEAST: u64 = 16 * MIB;
/// The size of a volume when nobody says another, in bytes. It is sparse.
pub const DEFAULT: u64 = 10 << 30;
/// The longest name, in bytes.
const LONGEST: usize = 128;

const PENDING: &str = ".pending-";
const RECORD: &str = "volume.json";
const DISK: &str = "disk.ext4";
const USE_LOCK: &str = "use.lock";

/// All volumes of a store.
#[derive(Clone, Debug)]
pub struct Volumes {
    store: PathBuf,
    dir: PathBuf,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its folder.
    pub dir: PathBuf,
    /// What it is.
    pub record: Record,
}

/// A new volume.
#[derive(Clone, Debug, Default)]
pub struct New {
    /// None: one is made up, and it is anonymous.
    pub name: Option<String>,
    /// In bytes; [`DEFAULT`].
    pub size: Option<u64>,
    /// Where it is, if it is to have no disk here.
    pub nfs: Option<nfs::Export>,
    /// What the user says of it.
    pub labels: BTreeMap<String, String>,
}

/// Held while volumes come and go.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock is the open file's")] File);

/// A name that the user has given, by docker's rule.
///
/// # Errors
/// It is not a name as docker allows them.
pub fn check_name(name: &str) -> Result<()> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !starts || !rest || !(2..=LONGEST).contains(&name.len()) {
        let brief: String = name.chars().take(LONGEST).collect();
        bail!(
            "{brief:?} is no name for a volume: 2 to {LONGEST} of a-z A-Z 0-9 _ . -, the first a letter or digit; a folder of \
             the host's begins with / or ./"
        );
    }
    Ok(())
}

impl Volumes {
    /// Those of the store in `store`; the folder is made when the first one is.
    pub fn of(store: &Path) -> Self {
        Self { store: store.to_owned(), dir: store.join("volumes") }
    }

    /// Keeps all others from making and removing volumes.
    ///
    /// # Errors
    /// The store cannot be written to.
    pub fn lock(&self) -> Result<Lock> {
        private_dir(&self.dir, true)?;
        let path = self.dir.join(".lock");
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        file.and_then(|file| file.lock().map(|()| Lock(file)))
            .with_context(|| format!("cannot lock {}", path.display()))
    }

    /// All, by name.
    ///
    /// # Errors
    /// A folder or a record cannot be read.
    pub fn list(&self) -> Result<Vec<Volume>> {
        let mut all = vec![];
        for name in names(&self.dir)?.into_iter().filter(|name| check_name(name).is_ok()) {
            all.extend(self.get(&name)?);
        }
        all.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok(all)
    }

    /// The one of that name, if there is one.
    ///
    /// # Errors
    /// It is no name; the record cannot be read.
    pub fn get(&self, name: &str) -> Result<Option<Volume>> {
        check_name(name)?;
        let dir = self.dir.join(name);
        let Some(record) = read::<Record>(&dir.join(RECORD))? else { return Ok(None) };
        ensure!(record.name == name, "{} is the record of another volume", dir.join(RECORD).display());
        Ok(Some(Volume { dir, record }))
    }

    /// The one of that name.
    ///
    /// # Errors
    /// There is none; those of [`Self::get`].
    pub fn find(&self, name: &str) -> Result<Volume> {
        self.get(name)?.with_context(|| format!("no such volume: {name}"))
    }

    /// Makes a volume. One of that name that is there already is taken as it is, and grown if a larger one is wanted.
    ///
    /// # Errors
    /// A smaller one is wanted; the store's.
    pub fn create(&self, new: New, _lock: &Lock) -> Result<Volume> {
        let anonymous = new.name.is_none();
        let name = match new.name {
            Some(name) => name,
            None => random::id().context("cannot make a volume's name up")?,
        };
        if let Some(volume) = self.get(&name)? {
            let same = new.labels.is_empty() || new.labels == volume.record.labels;
            ensure!(same, "volume {name:?} is there already, with other labels");
            let same = new.nfs.is_none() || new.nfs == volume.record.nfs;
            ensure!(same, "volume {name:?} is there already, with another driver or options");
            if let Some(size) = new.size {
                volume.grow(size)?;
            }
            return Ok(volume);
        }
        let uuid = Uuid::from_bytes(random::bytes().context("cannot make a UUID")?);
        let record = Record {
            name,
            uuid,
            created: crate::monitor::now(),
            labels: new.labels,
            nfs: new.nfs,
            anonymous,
        };
        let pending = self.dir.join(format!("{PENDING}{}", record.name));
        let dir = self.dir.join(&record.name);
        // What someone has left who did not come to its end.
        let cleared = fs::remove_dir_all(&pending);
        cleared.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        private_dir(&pending, false)?;
        let made = fill(&pending, &record, new.size.unwrap_or(DEFAULT)).and_then(|()| {
            fs::rename(&pending, &dir).and_then(|()| File::open(&self.dir)?.sync_all())?;
            Ok(())
        });
        made.inspect_err(|_| drop(fs::remove_dir_all(&pending)))
            .with_context(|| format!("cannot make volume {:?} in {}", record.name, self.dir.display()))?;
        Ok(Volume { dir, record })
    }

    /// The names of the containers, running and ended, that `volume` belongs to.
    ///
    /// # Errors
    /// The containers cannot be read.
    pub fn users(&self, volume: &Volume) -> Result<Vec<String>> {
        let mut all = Containers::of(&self.store).list()?;
        all.retain(|container| container.record.volumes.contains(&volume.record.name));
        Ok(all.into_iter().map(|container| container.record.name).collect())
    }

    /// Removes a volume and all that is on it.
    ///
    /// # Errors
    /// A container has it, running or ended.
    pub fn remove(&self, volume: &Volume, _lock: &Lock) -> Result<()> {
        let name = &volume.record.name;
        let users = self.users(volume)?;
        ensure!(users.is_empty(), "volume {name} is in use by container {}", users.join(", "));
        let Some(_used) = volume.claim(true)? else { bail!("volume {name} is in use") };
        // Without its record it is no volume, even if not all of it can be removed.
        fs::remove_file(volume.dir.join(RECORD))
            .and_then(|()| fs::remove_dir_all(&volume.dir))
            .with_context(|| format!("cannot remove {}", volume.dir.display()))
    }

    /// Removes those of `names` that are anonymous, and that no container has any more.
    ///
    /// # Errors
    /// One cannot be removed: the last such.
    pub fn remove_anonymous(&self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let lock = self.lock()?;
        let mut outcome = Ok(());
        for name in names {
            let Some(volume) = self.get(name)?.filter(|volume| volume.record.anonymous) else { continue };
            if self.users(&volume)?.is_empty() {
                outcome = self.remove(&volume, &lock).and(outcome);
            }
        }
        outcome
    }
}

impl Volume {
    /// Its disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.join(DISK)
    }

    /// The disk's size, and what it takes on the host's, in bytes. What is of NFS takes nothing here.
    ///
    /// # Errors
    /// The disk is not there.
    pub fn sizes(&self) -> Result<(u64, u64)> {
        if self.record.nfs.is_some() {
            return Ok((0, 0));
        }
        let metadata =
            fs::metadata(self.disk()).with_context(|| format!("cannot look at {}", self.disk().display()))?;
        Ok((metadata.len(), metadata.blocks() * 512))
    }

    /// Makes its disk as large as that. Its filesystem follows when the volume is next mounted to be written to.
    ///
    /// # Errors
    /// It is larger already.
    pub fn grow(&self, size: u64) -> Result<()> {
        let (now, _) = self.sizes()?;
        let name = &self.record.name;
        ensure!(
            self.record.nfs.is_none(),
            "volume {name:?} is of an NFS server: its size is not ours to say"
        );
        ensure!(size >= now, "volume {name:?} has {now} bytes: it can grow, but not shrink to {size}");
        if size > now {
            let grown = OpenOptions::new().write(true).open(self.disk()).and_then(|disk| {
                disk.set_len(size)?;
                disk.sync_all()
            });
            grown.with_context(|| format!("cannot make volume {name:?} {size} bytes large"))?;
        }
        Ok(())
    }

    /// Locks it for one VM: for itself alone if it is to be `writable`. None if that cannot be, for others have it.
    ///
    /// # Errors
    /// The lock's file cannot be opened.
    pub fn claim(&self, writable: bool) -> Result<Option<File>> {
        let path = self.dir.join(USE_LOCK);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(lock(&file, writable)?.then_some(file))
    }
}

/// Locks a whole file, for the open file description (fcntl(2)), which children inherit; or changes the lock that it has. Says
/// whether it did.
fn lock(file: &File, exclusive: bool) -> Result<bool> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    #[expect(clippy::cast_possible_truncation, reason = "all are 0 or 1")]
    let whole = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error).context("cannot lock a volume"),
    }
}

fn fill(dir: &Path, record: &Record, size: u64) -> Result<()> {
    let mut open = OpenOptions::new();
    open.create_new(true).read(true).write(true).mode(0o600);
    if record.nfs.is_none() {
        let disk = open.open(dir.join(DISK))?;
        disk.set_len(size)?;
        mke2fs::format(&disk, record.uuid, mke2fs::For::Volume)?;
        disk.sync_all()?;
    }
    open.open(dir.join(USE_LOCK))?;
    let mut file = open.open(dir.join(RECORD))?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests;

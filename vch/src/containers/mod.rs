//! The containers of a store, running and ended: a folder each.
//!
//! ```text
//! STORE/containers/lock               held while a name is given away
//! STORE/containers/ID/container.json  what it is (Record)
//! STORE/containers/ID/state.json      how it is (State)
//! STORE/containers/ID/machine.json    what its guest is told to run (MachineSpec)
//! STORE/containers/ID/health.json     how well it is, if that is checked
//! STORE/containers/ID/run.json        how often it was restarted, if it was
//! STORE/containers/ID/vm.lock         locked by QEMU, which inherits it, as long as the VM lives
//! STORE/containers/ID/monitor.lock    locked by the process that monitors it
//! STORE/containers/ID/output.log*     its output (the format: `log`)
//! STORE/containers/ID/control         the monitor's socket, for clients
//! STORE/containers/ID/channel, console, qmp    QEMU's sockets, for a monitor
//! ```
//!
//! Promises: a folder that has its name is whole; a file is replaced as a whole; whether a VM lives is asked of the kernel
//! (by the lock), never of a process number, which another process may have by now. Only the user can look into it.

mod record;
pub mod sockets;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use protocol::MachineSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::health::Report;

pub use record::{Exit, Record, Run, State};

use crate::volumes::Volumes;

/// What folders and files are called until they are whole.
const PENDING: &str = ".pending-";
const RECORD: &str = "container.json";
const STATE: &str = "state.json";
const MACHINE: &str = "machine.json";
const HEALTH: &str = "health.json";
const RUN: &str = "run.json";
const VM_LOCK: &str = "vm.lock";
/// The most that is read of a file of ours: what is larger is not.
const LARGEST: u64 = 64 << 20;

/// A lock of a whole file, of the open file description (fcntl(2)): children inherit it, and asking for it takes nothing.
#[expect(clippy::cast_possible_truncation, reason = "both are 0 or 1")]
pub(crate) const WHOLE: libc::flock = libc::flock {
    l_type: libc::F_WRLCK as libc::c_short,
    l_whence: libc::SEEK_SET as libc::c_short,
    l_start: 0,
    l_len: 0,
    l_pid: 0,
};

/// All containers of a store.
#[derive(Clone, Debug)]
pub struct Containers {
    dir: PathBuf,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its folder.
    pub dir: PathBuf,
    /// What it is.
    pub record: Record,
}

impl Containers {
    /// Those of the store in `store`; the folder is made when the first one is.
    pub fn of(store: &Path) -> Self {
        Self { dir: store.join("containers") }
    }

    /// Makes the folder of a new one, in [`State::Created`].
    ///
    /// # Errors
    /// Another one has the name or the ID; the folder cannot be written.
    pub fn create(&self, record: Record) -> Result<Container> {
        private_dir(&self.dir, true)?;
        let _lock = self.lock()?;
        self.is_free(&record.name)?;
        let pending = self.dir.join(format!("{PENDING}{}", record.id));
        private_dir(&pending, false)?;
        let container = Container { dir: pending.clone(), record };
        let made = container.fill().and_then(|()| {
            let dir = self.dir.join(&container.record.id);
            fs::rename(&pending, &dir).with_context(|| format!("cannot make {}", dir.display()))?;
            Ok(Container { dir, ..container })
        });
        made.inspect_err(|_| drop(fs::remove_dir_all(&pending)))
    }

    /// Whether no container has this name; another may take it at any time.
    ///
    /// # Errors
    /// One has it; those of [`Containers::list`].
    pub fn is_free(&self, name: &str) -> Result<()> {
        if let Some(other) = self.list()?.into_iter().find(|other| other.record.name == name) {
            let id = other.short_id();
            bail!("the name {name:?} is taken by container {id}: `vch rm {id}` frees it");
        }
        Ok(())
    }

    /// All, the newest first.
    ///
    /// # Errors
    /// A folder or a record cannot be read.
    pub fn list(&self) -> Result<Vec<Container>> {
        let mut all = vec![];
        for name in names(&self.dir)?.into_iter().filter(|name| is_id(name)) {
            let dir = self.dir.join(name);
            // One that another process has just removed is none.
            all.extend(read(&dir.join(RECORD))?.map(|record| Container { dir, record }));
        }
        all.sort_by(|a, b| (b.record.created, &b.record.id).cmp(&(a.record.created, &a.record.id)));
        Ok(all)
    }

    /// The one that `text` means: its name, its ID, or the first digits of that.
    ///
    /// # Errors
    /// There is none; the digits begin several IDs; those of [`Containers::list`].
    pub fn find(&self, text: &str) -> Result<Container> {
        let mut all = self.list()?;
        if let Some(named) = all.iter().position(|container| container.record.name == text) {
            return Ok(all.swap_remove(named));
        }
        all.retain(|container| !text.is_empty() && container.record.id.starts_with(text));
        ensure!(all.len() < 2, "{text:?} begins the IDs of several containers: give more digits");
        all.pop().with_context(|| format!("no such container: {text}"))
    }

    /// Held while names are given away.
    fn lock(&self) -> Result<File> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        file.and_then(|file| file.lock().map(|()| file))
            .with_context(|| format!("cannot lock {}", path.display()))
    }
}

impl Container {
    /// As docker shows IDs.
    pub fn short_id(&self) -> &str {
        self.record.id.get(..12).unwrap_or(&self.record.id)
    }

    /// How it is, as it was last written down.
    ///
    /// # Errors
    /// It is gone; its folder cannot be read.
    pub fn state(&self) -> Result<State> {
        let state = read(&self.dir.join(STATE))?;
        state.with_context(|| format!("container {} is gone", self.record.name))
    }

    /// Writes down how it is.
    ///
    /// # Errors
    /// It cannot be written: what was there stays.
    pub fn set_state(&self, state: &State) -> Result<()> {
        write(&self.dir.join(STATE), state)
    }

    /// What its guest is told to run.
    ///
    /// # Errors
    /// It was not written down; its folder cannot be read.
    pub fn machine(&self) -> Result<MachineSpec> {
        let machine = read(&self.dir.join(MACHINE))?;
        machine.with_context(|| format!("it is not known what container {} runs", self.record.name))
    }

    /// Writes down what its guest is to be told to run, before anything can be.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_machine(&self, machine: &MachineSpec) -> Result<()> {
        write(&self.dir.join(MACHINE), machine)
    }

    /// Its restarts.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn run(&self) -> Result<Run> {
        Ok(read(&self.dir.join(RUN))?.unwrap_or_default())
    }

    /// Writes down that it is started again.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_run(&self, run: &Run) -> Result<()> {
        write(&self.dir.join(RUN), run)
    }

    /// How well it is, if that is checked and was written down.
    pub fn health(&self) -> Option<Report> {
        read(&self.dir.join(HEALTH)).ok().flatten()
    }

    /// Writes down how well it is. Where that is not possible, it is less well known.
    pub fn keep_health(&self, report: &Report) {
        let _unknown = write(&self.dir.join(HEALTH), report);
    }

    /// The lock that tells others that the VM lives: for QEMU to inherit, and not to be kept here.
    ///
    /// # Errors
    /// Its VM lives already.
    pub fn lock_vm(&self) -> Result<File> {
        let file = self.open_vm_lock()?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&WHOLE)) {
            Ok(_) => Ok(file),
            Err(Errno::EAGAIN | Errno::EACCES) => bail!("container {} runs already", self.record.name),
            Err(error) => Err(error).context("cannot lock the VM's lock"),
        }
    }

    /// Whether its VM lives.
    ///
    /// # Errors
    /// Its folder cannot be read.
    pub fn has_vm(&self) -> Result<bool> {
        let mut found = WHOLE;
        fcntl(&self.open_vm_lock()?, FcntlArg::F_OFD_GETLK(&mut found))
            .context("cannot ask for the VM's lock")?;
        Ok(i32::from(found.l_type) != libc::F_UNLCK)
    }

    /// The store that it is in.
    pub fn store(&self) -> &Path {
        self.dir.parent().and_then(Path::parent).unwrap_or(&self.dir)
    }

    /// Where its output is.
    pub fn log(&self) -> PathBuf {
        self.dir.join("output.log")
    }

    /// The lock of its monitor, as long as it is kept; none if another has it.
    ///
    /// # Errors
    /// Its folder cannot be read, or is gone.
    pub fn lock_monitor(&self) -> Result<Option<File>> {
        let path = self.dir.join("monitor.lock");
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// Its VM lives; the folder cannot be removed.
    pub fn remove(&self) -> Result<()> {
        // Kept until the folder is gone: nobody may start it meanwhile.
        let _lock = self.lock_vm()?;
        // Without its record it is no container, even if not all of it can be removed.
        fs::remove_file(self.dir.join(RECORD))
            .and_then(|()| fs::remove_dir_all(&self.dir))
            .with_context(|| format!("cannot remove {}", self.dir.display()))
    }

    /// Removes the folder, and those of its volumes that have no name.
    ///
    /// # Errors
    /// As [`Self::remove`]; a volume cannot be removed.
    pub fn remove_with_volumes(&self) -> Result<()> {
        self.remove()?;
        Volumes::of(self.store()).remove_anonymous(&self.record.volumes)
    }

    fn fill(&self) -> Result<()> {
        write(&self.dir.join(RECORD), &self.record)?;
        self.set_state(&State::Created)?;
        let lock = self.dir.join(VM_LOCK);
        let made = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&lock);
        made.map(drop).with_context(|| format!("cannot make {}", lock.display()))
    }

    fn open_vm_lock(&self) -> Result<File> {
        let path = self.dir.join(VM_LOCK);
        OpenOptions::new().write(true).open(&path).with_context(|| format!("cannot open {}", path.display()))
    }
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

pub(crate) fn private_dir(dir: &Path, parents: bool) -> Result<()> {
    let made = DirBuilder::new().recursive(parents).mode(0o700).create(dir);
    made.with_context(|| format!("cannot make {}", dir.display()))
}

/// The names in a folder, which need not be there. (Ours are all UTF-8: others are nobody's.)
///
/// # Errors
/// It cannot be read.
pub fn names(dir: &Path) -> Result<Vec<String>> {
    let failed = || format!("cannot read {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.with_context(failed)?,
    };
    let mut names = vec![];
    for entry in entries {
        names.extend(entry.with_context(failed)?.file_name().into_string().ok());
    }
    Ok(names)
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let read = || {
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let length = file.metadata()?.len();
        ensure!(length <= LARGEST, "it has {length} bytes");
        Ok(Some(serde_json::from_reader(std::io::BufReader::new(file))?))
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

/// In the place of what is there, at once: a reader finds the one or the other.
fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let write = || {
        let mut pending = path.as_os_str().to_owned();
        pending.push(PENDING);
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&pending)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        fs::rename(&pending, path)?;
        anyhow::Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests;

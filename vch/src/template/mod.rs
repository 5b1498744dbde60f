//! Templates: machines that were booted, and frozen where tether waits for what to run. A container's VM goes on from there,
//! in place of booting: its memory is the template's until it writes to it.
//!
//! ```text
//! STORE/templates/.lock              held while one is made or removed
//! STORE/templates/.digests.json      what large files were when they were last read (Digests)
//! STORE/templates/KEY/template.json  what it is (Record)
//! STORE/templates/KEY/memory         its memory, sparse
//! STORE/templates/KEY/state          its devices, as QEMU writes them
//! ```
//!
//! Promises: a folder that has its name is whole, and on the host's disk; a template is only used for a machine that would have
//! booted exactly so (the [key](machine::Key)), and only while its files are as they were written; a VM that has begun needs
//! nothing of it any more. Only the user can look into it: it has all that the guest's kernel knew.
//!
//! [`machine`]: what a template and its copies have in common; [`create`]: boots and freezes; [`thaw`]: what a copy is started with;
//! [`folder`]: one template, on the host's disk; [`digests`]: of files

pub mod create;
pub mod digests;
pub mod folder;
pub mod machine;
pub mod thaw;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use protocol::MachineSpec;

pub use folder::{Record, Remains, Template};
pub use thaw::Thaw;

use crate::accel::Accel;
use crate::boot::Boot;
use crate::containers::{names, private_dir, read};
use crate::name;
use crate::options::RunOptions;
use crate::options::template::Choice;
use digests::Digests;
use folder::{RECORD, clear, free, keep, with_room};
use machine::{Key, Machine};

/// How the kernel's command line tells tether that its machine will be frozen.
pub const PARAMETER: &str = "containervm.template";
/// Digits of a key that its folder is called by.
const DIGITS: usize = 24;

const PENDING: &str = ".pending-";
const LOCK: &str = ".lock";

/// All templates of a store.
#[derive(Clone, Debug)]
pub struct Templates {
    dir: PathBuf,
}

/// Held while templates come and go.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // A child that another thread is just starting has the file, too, up to its execve: it would keep the lock.
        drop(self.0.unlock());
    }
}

impl Templates {
    /// Those of the store in `store`; the folder is made when the first one is.
    pub fn of(store: &Path) -> Self {
        Self { dir: store.join("templates") }
    }

    /// What is known of files.
    pub fn digests(&self) -> Digests {
        Digests::of(&self.dir)
    }

    /// Keeps all others from making and removing templates; none while another does.
    ///
    /// # Errors
    /// The store cannot be written to.
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        private_dir(&self.dir, true)?;
        let path = self.dir.join(LOCK);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// All that can be read, the oldest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<Template>> {
        let ids = names(&self.dir)?.into_iter().filter(|name| is_id(name));
        // One that cannot be read keeps nobody from the others.
        let mut all: Vec<_> = ids.filter_map(|id| self.get(&id).ok()?).collect();
        all.sort_by(|a, b| (a.record.created, &a.record.id).cmp(&(b.record.created, &b.record.id)));
        Ok(all)
    }

    /// What is there beside them. One that is being made is among it, unless the lock is held.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn remains(&self) -> Result<Vec<Remains>> {
        let mut all = vec![];
        for name in names(&self.dir)? {
            let trouble = match self.get(&name) {
                _ if name.starts_with(PENDING) => "it was not made to its end".to_owned(),
                Ok(Some(_)) => continue,
                _ if !is_id(&name) => continue,
                Ok(None) => format!("it has no {RECORD}"),
                Err(error) => format!("{error:#}"),
            };
            all.push(Remains { dir: self.dir.join(&name), name, trouble });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The one in the folder of that name, if there is one.
    fn get(&self, id: &str) -> Result<Option<Template>> {
        let dir = self.dir.join(id);
        let Some(record) = read::<Record>(&dir.join(RECORD))? else { return Ok(None) };
        ensure!(record.id == id, "{} is the record of another template", dir.join(RECORD).display());
        Ok(Some(Template { dir, record }))
    }

    /// The one that `text` means: its name, its ID, or the first digits of that.
    ///
    /// # Errors
    /// There is none; the digits begin several IDs.
    pub fn find(&self, text: &str) -> Result<Template> {
        let mut all = self.list()?;
        if let Some(named) = all.iter().position(|template| template.record.name.as_deref() == Some(text)) {
            return Ok(all.swap_remove(named));
        }
        all.retain(|template| !text.is_empty() && template.record.id.starts_with(text));
        ensure!(all.len() < 2, "{text:?} begins the IDs of several templates: give more digits");
        all.pop().with_context(|| format!("no such template: {text}; `vch template create` makes one"))
    }

    /// Calls a template by a name that no other has.
    ///
    /// # Errors
    /// It has another one; another one has it.
    pub fn call(&self, template: &mut Template, name: &str, _lock: &Lock) -> Result<()> {
        check_name(name)?;
        match &template.record.name {
            Some(old) if old == name => return Ok(()),
            Some(old) => bail!("the template for this machine is there already, and is called {old:?}"),
            None => {}
        }
        for other in self.list()? {
            ensure!(
                other.record.name.as_deref() != Some(name),
                "template {name:?} is there already, for another machine: `vch template rm {name}` removes it"
            );
        }
        template.record.name = Some(name.to_owned());
        keep(&template.dir, &template.record)
    }

    /// Removes a template. VMs that were copied from it go on.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn remove(&self, template: &Template, _lock: &Lock) -> Result<()> {
        // Without its record it is no template, even if not all of it can be removed.
        fs::remove_file(template.dir.join(RECORD))
            .and_then(|()| fs::remove_dir_all(&template.dir))
            .with_context(|| format!("cannot remove {}", template.dir.display()))
    }

    /// Removes what is left of a template.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn sweep(&self, remains: &Remains, _lock: &Lock) -> Result<()> {
        clear(&remains.dir)
    }

    /// The one that `choice` means, for `machine`, opened: with [`Choice::Auto`] it is made if there is none, or none that is whole.
    /// `look` is asked now and then whether to give up.
    ///
    /// # Errors
    /// There is no such template; it is for another machine; it is not whole, or cannot be made.
    pub fn open(&self, choice: &Choice, machine: &Machine, look: &mut create::Look) -> Result<Thaw> {
        match choice {
            Choice::Auto => {
                let key = machine.rounded().key(&mut self.digests())?;
                match self.whole(&key) {
                    Some(thaw) => Ok(thaw),
                    None => self.make_and_open(&key, &machine.rounded(), look),
                }
            }
            Choice::Named(text) => {
                let template = self.find(text)?;
                let key = machine.with_disks(template.record.key.disks()).key(&mut self.digests())?;
                if let Some(difference) = template.record.key.difference(&key) {
                    bail!("template {text} is for another machine: {difference}");
                }
                template.open().with_context(|| {
                    format!(
                        "template {text} is not whole: remove it (`vch template rm {text}`) and make another"
                    )
                })
            }
        }
    }

    /// The one with this key, if it is there and whole.
    pub fn whole(&self, key: &Key) -> Option<Thaw> {
        let template = self.get(&key.id()).ok()??;
        (template.record.key == *key).then(|| template.open().ok())?
    }

    /// Makes the one with this key, unless someone else has just done so.
    fn make_and_open(&self, key: &Key, machine: &Machine, look: &mut create::Look) -> Result<Thaw> {
        let lock = create::wait_for_lock(self, look)?;
        if let Some(thaw) = self.whole(key) {
            return Ok(thaw);
        }
        self.make(key, machine, None, &lock, look)?.open()
    }

    /// Makes a template, in the place of one with the same key if there is one.
    ///
    /// # Errors
    /// A VM cannot be frozen; the store cannot be written to.
    pub fn make(
        &self,
        key: &Key,
        machine: &Machine,
        name: Option<&str>,
        _lock: &Lock,
        look: &mut create::Look,
    ) -> Result<Template> {
        let id = key.id();
        // One that cannot be used any more leaves its name to the one in its place.
        let name = match name {
            Some(name) => Some(name.to_owned()),
            None => self.get(&id).ok().flatten().and_then(|old| old.record.name),
        };
        let (pending, dir) = (self.dir.join(format!("{PENDING}{id}")), self.dir.join(&id));
        clear(&pending)?;
        private_dir(&pending, false)?;
        let made = create::freeze(&pending, machine, look).and_then(|frozen| {
            let record = Record {
                id: id.clone(),
                name,
                created: crate::monitor::now(),
                qemu: frozen.qemu,
                key: key.clone(),
                files: machine.files()?,
                memory: frozen.memory,
                state: frozen.state,
            };
            keep(&pending, &record)?;
            clear(&dir)?;
            fs::rename(&pending, &dir).and_then(|()| File::open(&self.dir)?.sync_all())?;
            Ok(Template { dir, record })
        });
        // What is free is looked at before that what is there is removed.
        made.map_err(|error| with_room(error, free(&pending).unwrap_or(u64::MAX), &pending))
            .inspect_err(|_| drop(fs::remove_dir_all(&pending)))
            .context("cannot make a template")
    }
}

/// What the VM of a container goes on from, if it is not to boot; `machine` is what it is to run.
///
/// # Errors
/// [`Templates::open`]'s.
pub fn for_run(
    options: &RunOptions,
    accel: Accel,
    boot: &Boot,
    machine: &MachineSpec,
    store: &Path,
    look: &mut create::Look,
) -> Result<Option<Thaw>> {
    let Some(choice) = &options.template.from_template else { return Ok(None) };
    if let (Boot::Direct { initrd, .. }, false) = (boot, machine.nfs.is_empty()) {
        let mut modules = initrd.clone().into_os_string();
        modules.push(".nfs");
        ensure!(
            !Path::new(&modules).exists(),
            "NFS volumes and --from-template exclude each other with this kernel: its modules for NFS are no part of a \
             template; --kernel own has all built in"
        );
    }
    let (layers, volumes) = (machine.disks.layers.len(), machine.volumes.len());
    machine::check_room(options, accel, boot, layers, volumes, machine.network.nics.len())?;
    let disks = layers + volumes + 1;
    let wanted = Machine::new(options, accel, boot, disks, machine.network.nics.len())?;
    Templates::of(store).open(choice, &wanted, look).map(Some)
}

/// A name that the user has given.
///
/// # Errors
/// It is not one, or could be taken for something else.
pub fn check_name(text: &str) -> Result<()> {
    ensure!(text != "auto", "a template cannot be called auto: --from-template=auto means any that fits");
    ensure!(!is_id(text), "a template cannot be called as if that was its ID");
    name::check(text)
}

fn is_id(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests;

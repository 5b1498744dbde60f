//! The volumes that a VM gets: those that the user asks for, and those that the image declares (`VOLUME`).

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use image_builder::disk::{Disk, Kind};
use oci_spec::image::Config;
use protocol::{MachineSpec, oci};

use super::parse::place;
use super::{Mount, New, Source, Volume, Volumes, lock, share};
use crate::containers::Containers;

/// The most volumes: together with the layers the guest has room for some 100 disks.
const MOST: usize = 64;

/// The most folders of the host's: each has a process.
const MOST_SHARES: usize = 16;

/// A volume's disk, open, and locked as long as it is.
#[derive(Debug)]
pub struct OpenVolume {
    /// What the guest is told.
    pub spec: protocol::Volume,
    /// The disk: open for writing unless it is shared.
    pub disk: File,
    /// The lock on it, for QEMU to inherit.
    pub held: File,
}

/// What a VM gets.
#[derive(Debug)]
pub struct Attached {
    store: PathBuf,
    /// Volumes.
    pub volumes: Vec<OpenVolume>,
    /// Folders and files of the host's.
    pub shares: Vec<share::Wanted>,
    /// Volumes of NFS servers, and what keeps each from being removed.
    nfs: Vec<(protocol::Nfs, File)>,
    /// Memory to be mounted.
    tmpfs: Vec<oci::Mount>,
    /// Volumes without a name that were made, and that are removed again when it comes to nothing.
    fresh: Vec<String>,
}

/// Opens and locks the volumes for a container that is made of an image with that `config`; those that are not there are made.
/// `tmpfs` is what the user says of memory elsewhere: its places are taken.
///
/// # Errors
/// Two want the same place; a volume is in use; what is asked for cannot be done; the store's.
pub fn attach(store: &Path, wanted: &[Mount], tmpfs: &[String], config: &Config) -> Result<Attached> {
    let mut wanted = wanted.to_vec();
    let taken = tmpfs.iter().map(|text| text.split(':').next().unwrap_or_default());
    let mut places = taken.map(place).collect::<Result<BTreeSet<_>>>()?;
    for mount in &wanted {
        ensure!(places.insert(mount.target.clone()), "two things are to be mounted on {}", mount.target);
    }
    for path in config.volumes().iter().flatten() {
        let target = place(path).with_context(|| format!("the image's VOLUME {path:?}"))?;
        if places.insert(target.clone()) {
            wanted.push(Mount { source: Source::anonymous(), target, readonly: false });
        }
    }
    // Of memory, what is above comes before what is below; of the others, the guest sees to it.
    wanted.sort_by_key(|mount| mount.target.matches('/').count());
    let mut attached = Attached {
        store: store.to_owned(),
        volumes: vec![],
        shares: vec![],
        nfs: vec![],
        tmpfs: vec![],
        fresh: vec![],
    };
    if wanted.is_empty() {
        return Ok(attached);
    }
    ensure!(wanted.len() <= MOST, "{} volumes: a containerVM has {MOST} at most", wanted.len());
    wanted.into_iter().try_for_each(|mount| attached.add(mount))?;
    Ok(attached)
}

impl Source {
    fn anonymous() -> Self {
        Self::Volume {
            name: None,
            nocopy: false,
            size: None,
            nfs: None,
            subpath: None,
            labels: Default::default(),
        }
    }
}

impl Attached {
    fn add(&mut self, mount: Mount) -> Result<()> {
        let Mount { source, target, readonly } = mount;
        match source {
            Source::Volume { name, nocopy, size, nfs, subpath, labels } => {
                let volumes = Volumes::of(&self.store);
                // Until it is claimed: nobody shall remove it meanwhile.
                let lock = volumes.lock()?;
                let volume = volumes.create(New { name, size, nfs, labels }, &lock)?;
                if volume.record.anonymous {
                    self.fresh.push(volume.record.name.clone());
                }
                if let Some(export) = &volume.record.nfs {
                    let name = volume.record.name.clone();
                    let held =
                        volume.claim(false)?.with_context(|| format!("volume {name} is being removed"))?;
                    let nfs = export.tell(name, target, readonly)?;
                    self.nfs.push((protocol::Nfs { subpath, ..nfs }, held));
                } else {
                    let mut open = self.open(&volume, target, readonly, nocopy)?;
                    open.spec.subpath = subpath;
                    self.volumes.push(open);
                }
            }
            Source::Tmpfs { size, mode } => self.tmpfs.push(tmpfs(target, readonly, size, mode)),
            Source::Bind(path) => {
                ensure!(
                    self.shares.len() < MOST_SHARES,
                    "a containerVM has {MOST_SHARES} folders of the host's at most"
                );
                self.shares.push(share::Wanted::new(path, self.shares.len(), target, readonly)?);
            }
        }
        Ok(())
    }

    fn open(&self, volume: &Volume, target: String, readonly: bool, nocopy: bool) -> Result<OpenVolume> {
        let name = &volume.record.name;
        if self.volumes.iter().any(|open| open.spec.uuid == volume.record.uuid) {
            bail!("volume {name} is to be mounted twice: one place is possible");
        }
        let Some(held) = volume.claim(!readonly)? else { return Err(self.in_use(volume, readonly)?) };
        let path = volume.disk();
        let open = |writable| {
            let file = OpenOptions::new().read(true).write(writable).open(&path);
            file.with_context(|| format!("cannot open {}", path.display()))
        };
        let mut disk = open(!readonly)?;
        let shared = readonly && is_settled(&disk);
        if readonly && !shared {
            // Its journal has to be replayed, or it was never filled: this once it is for one alone.
            if !lock(&held, true)? {
                return Err(self.in_use(volume, false)?);
            }
            disk = open(true)?;
        }
        let (name, uuid) = (name.clone(), volume.record.uuid);
        let spec =
            protocol::Volume { name, uuid, destination: target, readonly, shared, nocopy, subpath: None };
        Ok(OpenVolume { spec, disk, held })
    }

    /// Who has it, in words.
    fn in_use(&self, volume: &Volume, readonly: bool) -> Result<anyhow::Error> {
        let name = &volume.record.name;
        let mut users = Containers::of(&self.store).list()?;
        users.retain(|user| user.record.volumes.contains(name) && user.has_vm().unwrap_or(false));
        let users: Vec<_> = users.iter().map(|user| user.record.name.as_str()).collect();
        let by = if users.is_empty() { String::new() } else { format!(" by container {}", users.join(", ")) };
        let hint = if readonly {
            "which may write to it"
        } else {
            "and can be shared only where all have it read-only"
        };
        Ok(anyhow::anyhow!("volume {name} is in use{by}, {hint}"))
    }

    /// Adds them to what the guest is told.
    ///
    /// # Errors
    /// Not all can be had in a user namespace.
    pub fn tell(&mut self, machine: &mut MachineSpec) -> Result<()> {
        if machine.idmapped {
            // Neither filesystem knows idmapped mounts (Linux 6.1): all would be nobody's.
            ensure!(
                self.shares.is_empty(),
                "folders of the host cannot be had with --userns auto, --uidmap or --gidmap"
            );
            ensure!(
                self.nfs.is_empty(),
                "volumes of NFS cannot be had with --userns auto, --uidmap or --gidmap"
            );
        }
        let mounts = &mut machine.config.mounts;
        let places = self.volumes.iter().map(|volume| &volume.spec.destination);
        let places = places.chain(self.shares.iter().map(|share| &share.spec.destination));
        let places = places.chain(self.nfs.iter().map(|(nfs, _)| &nfs.destination));
        let places: Vec<_> = places.chain(self.tmpfs.iter().map(|mount| &mount.destination)).collect();
        mounts.retain(|mount| !places.contains(&&mount.destination));
        mounts.extend(self.tmpfs.iter().cloned());
        machine.shares = self.shares.iter().map(|share| share.spec.clone()).collect();
        machine.nfs = self.nfs.iter().map(|(nfs, _)| nfs.clone()).collect();
        machine.volumes = self.volumes.iter().map(|volume| volume.spec.clone()).collect();
        Ok(())
    }

    /// The volumes' names, as the container's record has them.
    pub fn names(&self) -> Vec<String> {
        let disks = self.volumes.iter().map(|volume| volume.spec.name.clone());
        disks.chain(self.nfs.iter().map(|(nfs, _)| nfs.name.clone())).collect()
    }

    /// The container is there, with their names in its record: they are its own now.
    pub fn keep(&mut self) {
        self.fresh.clear();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        // And their locks.
        self.volumes.clear();
        self.nfs.clear();
        // What cannot be removed now `vch volume prune` will.
        let _ = Volumes::of(&self.store).remove_anonymous(&fresh);
    }
}

/// Whether a disk can be mounted without being written to, and has something to be seen.
fn is_settled(disk: &File) -> bool {
    let look = || {
        let disk = Disk::new(Arc::new(disk.try_clone()?))?;
        anyhow::Ok(disk.find(b"/data", false)?.kind == Kind::Directory)
    };
    look().unwrap_or(false)
}

fn tmpfs(target: String, readonly: bool, size: Option<u64>, mode: Option<u32>) -> oci::Mount {
    // As docker has them.
    let mut options: Vec<_> = ["noexec", "nosuid", "nodev"].map(str::to_owned).into();
    options.extend(readonly.then(|| "ro".to_owned()));
    options.extend(size.map(|size| format!("size={size}")));
    options.extend(mode.map(|mode| format!("mode={mode:o}")));
    oci::Mount { destination: target, kind: "tmpfs".into(), source: Some("tmpfs".into()), options }
}

//! Volumes: disks that outlive the machine; and folders of the host's.
//!
//! A volume is an ext4, mounted at `/volumes/N`. The container sees its folder `data`, so neither `lost+found` nor what is half
//! done: `data` is made elsewhere, written to disk, and gets its name then ([`fill`]). What is on a volume is whatever the last
//! container made of it: no symbolic link on it is followed here. Folders of the host's are mounted at `/shares/N` ([`share`]),
//! those of NFS servers at `/nfs/N` ([`nfs`]).

pub mod fill;
mod grow;
pub mod nfs;
mod share;

use crate::disks::Disk;
use crate::failure::{Context, Failure};
use crate::mounts;
use crate::user_namespace::UserNamespace;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protocol::Stage::{Root, Run};
use protocol::{MachineSpec, Nfs, Share, Volume};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// What is mounted, in that order: what it is called, and where it is in tether's own root.
pub struct Volumes(Vec<(String, String)>);

/// Where volume number `index` is mounted.
fn place(index: usize) -> String {
    format!("/volumes/{index}")
}

impl Volumes {
    /// Mounts the volumes, which are on these `disks`, and the shares. The volumes' files are whose they are in the user namespace,
    /// if one is given.
    pub fn mount(
        machine: &MachineSpec,
        disks: &[Disk],
        user: Option<&UserNamespace>,
    ) -> Result<Self, Failure> {
        let mut mounted = Self(vec![]);
        match mounted.mount_all(machine, disks, user) {
            Ok(()) => Ok(mounted),
            Err(failure) => {
                let _why_is_known = mounted.unmount();
                Err(failure)
            }
        }
    }

    fn mount_all(
        &mut self,
        machine: &MachineSpec,
        disks: &[Disk],
        user: Option<&UserNamespace>,
    ) -> Result<(), Failure> {
        for (index, (volume, disk)) in machine.volumes.iter().zip(disks).enumerate() {
            self.volume(place(index), volume, disk)?;
            user.map_or(Ok(()), |user| user.map_files(&place(index)))?;
        }
        for (index, share) in machine.shares.iter().enumerate() {
            let target = share::place(index);
            share::mount(share, &target)?;
            self.0.push((format!("share {:?}", share.tag), target));
        }
        Ok(())
    }

    fn volume(&mut self, target: String, volume: &Volume, disk: &Disk) -> Result<(), Failure> {
        let (name, device) = (&volume.name, &disk.device);
        if disk.filesystem != "ext4" {
            let why = format!("volume {name:?} holds {}: a volume is an ext4", disk.filesystem);
            return Err(Failure::new(Root, why));
        }
        fs::create_dir(&target).at(Root, || format!("making {target}"))?;
        let (flags, options) = match volume.shared {
            true => (MsFlags::MS_RDONLY, "errors=continue"),
            // What is deleted shall not stay in the host's file.
            false => (MsFlags::empty(), "errors=remount-ro,discard"),
        };
        mount(Some(device), target.as_str(), Some("ext4"), flags, Some(options)).at(Root, || {
            format!("mounting volume {name:?} ({}): damaged, if the kernel refuses it", device.display())
        })?;
        self.0.push((format!("volume {name:?}"), target.clone()));
        if !volume.shared {
            grow::to_the_disks_size(device, &target).at(Root, || format!("growing volume {name:?}"))?;
        }
        Ok(())
    }

    /// Unmounts them, last mounted first. What was written is on the disks then.
    pub fn unmount(self) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for (name, target) in self.0.iter().rev() {
            let remount = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            // A namespace that is about to go may have it mounted still: this makes it clean all the same.
            let clean = mount(None::<&str>, target.as_str(), None::<&str>, remount, None::<&str>);
            let gone = umount2(target.as_str(), MntFlags::UMOUNT_NOFOLLOW);
            outcome = outcome.and(clean.and(gone).at(Run, || format!("unmounting {name}")));
        }
        outcome
    }
}

/// What is on its way into the container: mounts without a place, the next one last.
pub struct Detached<'a>(Vec<Mount<'a>>);

struct Mount<'a> {
    tree: OwnedFd,
    name: &'a str,
    destination: &'a str,
    readonly: bool,
    /// Whether it is a file, to be mounted on one.
    file: bool,
}

impl<'a> Detached<'a> {
    /// Fills those volumes that are empty, and takes hold of all. To be called in tether's own namespaces.
    pub fn prepare(machine: &'a MachineSpec) -> Result<Self, Failure> {
        let mut mounts = vec![];
        for (index, volume) in machine.volumes.iter().enumerate() {
            let Volume { name, destination, readonly, subpath, .. } = volume;
            is_absolute("volumes", index, destination)?;
            if !volume.shared {
                fill::once(volume, &place(index))?;
            }
            let tree = part(name, &format!("{}/{}", place(index), fill::DATA), subpath.as_deref())?;
            mounts.push(Mount { tree, name, destination, readonly: *readonly, file: false });
        }
        for (index, share) in machine.shares.iter().enumerate() {
            let Share { tag: name, destination, readonly, file } = share;
            is_absolute("shares", index, destination)?;
            let tree = detach(&share::shown(share, index), !file);
            let tree = tree.at(Root, || format!("opening share {name:?}"))?;
            mounts.push(Mount { tree, name, destination, readonly: *readonly, file: *file });
        }
        for (index, export) in machine.nfs.iter().enumerate() {
            let Nfs { name, destination, readonly, subpath, .. } = export;
            is_absolute("nfs", index, destination)?;
            let tree = part(name, &nfs::place(index), subpath.as_deref())?;
            mounts.push(Mount { tree, name, destination, readonly: *readonly, file: false });
        }
        // What is above comes before what is below.
        mounts.sort_by_key(|mount| std::cmp::Reverse(parts(mount.destination).count()));
        Ok(Self(mounts))
    }

    /// Mounts those that are to be above `destination`; the root is the container's by now.
    pub fn attach_above(&mut self, destination: &str) -> Result<(), Failure> {
        let above = self.0.iter().position(|mount| is_above(mount.destination, destination));
        above.map_or(Ok(()), |at| self.attach_from(at))
    }

    /// Mounts the others.
    pub fn attach_rest(&mut self) -> Result<(), Failure> {
        self.attach_from(0)
    }

    fn attach_from(&mut self, at: usize) -> Result<(), Failure> {
        while self.0.len() > at
            && let Some(mount) = self.0.pop()
        {
            mount.attach().at(Root, || format!("mounting {:?} on {}", mount.name, mount.destination))?;
        }
        Ok(())
    }
}

impl Mount<'_> {
    fn attach(&self) -> io::Result<()> {
        let destination = Path::new(self.destination);
        let folder = if self.file { destination.parent().unwrap_or(destination) } else { destination };
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        if self.file {
            fs::OpenOptions::new().append(true).create(true).mode(0o644).open(destination)?;
        }
        // As mount(2): a symbolic link is followed, in the container's own root.
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
        move_mount(&self.tree, "", CWD, destination, flags)?;
        if self.readonly {
            mounts::remount_read_only(self.destination)?;
        }
        Ok(())
    }
}

fn is_absolute(field: &str, index: usize, destination: &str) -> Result<(), Failure> {
    if destination.starts_with('/') {
        return Ok(());
    }
    Err(Failure::new(Root, format!("{field}[{index}].destination {destination:?} is not absolute")))
}

/// A mount of its own of what is at `path`, without a place. It is what it is to be, not a link to it.
fn detach(path: &str, folder: bool) -> io::Result<OwnedFd> {
    let kind = if folder { OFlags::DIRECTORY } else { OFlags::empty() };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | kind;
    let found = rustix::fs::open(path, flags, Mode::empty())?;
    if !folder && !File::from(found.try_clone()?).metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    clone(found)
}

/// The same of the folder `subpath` of a volume's folder. Whoever could write to the volume may have put symbolic links on it: they
/// lead to where they lead on it, and not out.
fn part(name: &str, path: &str, subpath: Option<&str>) -> Result<OwnedFd, Failure> {
    let Some(subpath) = subpath else {
        return detach(path, true).at(Root, || format!("opening the folder \"data\" of volume {name:?}"));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let whole = rustix::fs::open(path, flags | OFlags::NOFOLLOW, Mode::empty());
    let found = whole.and_then(|whole| openat2(&whole, subpath, flags, Mode::empty(), within));
    let tree = found.map_err(io::Error::from).and_then(clone);
    tree.at(Root, || format!("opening the folder {subpath:?} of volume {name:?}"))
}

fn clone(found: OwnedFd) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(found, "", flags)?)
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

/// Whether `path` is in the folder `folder`, or the folder itself.
fn is_above(folder: &str, path: &str) -> bool {
    let mut path = parts(path);
    parts(folder).all(|part| path.next() == Some(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above() {
        for (folder, path) in [("/a", "/a/b"), ("/a/", "/a"), ("/", "/a"), ("/a/b", "//a//b/c")] {
            assert!(is_above(folder, path), "{folder} {path}");
        }
        for (folder, path) in [("/a", "/ab"), ("/a/b", "/a"), ("/b", "/a/b")] {
            assert!(!is_above(folder, path), "{folder} {path}");
        }
    }
}

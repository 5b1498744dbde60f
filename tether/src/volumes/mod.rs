//! Volumes: disks that outlive the machine.
//!
//! Each is an ext4, mounted at `/volumes/N`. The container sees its folder `data`, so neither `lost+found` nor what is half
//! done: `data` is made elsewhere, written to disk, and gets its name then ([`fill`]). What is on a volume is whatever the last
//! container made of it: no symbolic link on it is followed here.

pub mod fill;
mod grow;

use crate::disks::Disk;
use crate::failure::{Context, Failure};
use crate::mounts;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use protocol::Stage::Root;
use protocol::Volume;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::fs::{self, DirBuilder};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;

/// Volumes that are mounted.
pub struct Volumes<'a>(Vec<(&'a Volume, String)>);

/// Where volume number `index` is mounted, in tether's own root.
fn place(index: usize) -> String {
    format!("/volumes/{index}")
}

impl<'a> Volumes<'a> {
    /// Mounts the volumes, which are on these `disks`.
    pub fn mount(volumes: &'a [Volume], disks: &[Disk]) -> Result<Self, Failure> {
        let mut mounted = Self(vec![]);
        for (index, (volume, disk)) in volumes.iter().zip(disks).enumerate() {
            if let Err(failure) = mounted.add(index, volume, disk) {
                let _why_is_known = mounted.unmount();
                return Err(failure);
            }
        }
        Ok(mounted)
    }

    fn add(&mut self, index: usize, volume: &'a Volume, disk: &Disk) -> Result<(), Failure> {
        let (name, device) = (&volume.name, &disk.device);
        if disk.filesystem != "ext4" {
            let why = format!("volume {name:?} holds {}: a volume is an ext4", disk.filesystem);
            return Err(Failure::new(Root, why));
        }
        let target = place(index);
        fs::create_dir(&target).at(Root, || format!("making {target}"))?;
        let (flags, options) = match volume.shared {
            true => (MsFlags::MS_RDONLY, "errors=continue"),
            // What is deleted shall not stay in the host's file.
            false => (MsFlags::empty(), "errors=remount-ro,discard"),
        };
        mount(Some(device), target.as_str(), Some("ext4"), flags, Some(options)).at(Root, || {
            format!("mounting volume {name:?} ({}): damaged, if the kernel refuses it", device.display())
        })?;
        self.0.push((volume, target.clone()));
        if !volume.shared {
            grow::to_the_disks_size(device, &target).at(Root, || format!("growing volume {name:?}"))?;
        }
        Ok(())
    }

    /// Unmounts them, last mounted first. What was written is on the disks then.
    pub fn unmount(self) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for (volume, target) in self.0.iter().rev() {
            let remount = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            // A namespace that is about to go may have it mounted still: this makes it clean all the same.
            let clean = mount(None::<&str>, target.as_str(), None::<&str>, remount, None::<&str>);
            let gone = umount2(target.as_str(), MntFlags::UMOUNT_NOFOLLOW);
            let result =
                clean.and(gone).at(protocol::Stage::Run, || format!("unmounting volume {:?}", volume.name));
            outcome = outcome.and(result);
        }
        outcome
    }
}

/// Volumes on their way into the container: mounts without a place.
pub struct Detached<'a>(Vec<(&'a Volume, OwnedFd)>);

impl<'a> Detached<'a> {
    /// Fills those volumes that are empty, and takes hold of all. To be called in tether's own namespaces.
    pub fn prepare(volumes: &'a [Volume]) -> Result<Self, Failure> {
        let mut detached = vec![];
        for (index, volume) in volumes.iter().enumerate() {
            if !volume.destination.starts_with('/') {
                let why = format!("volumes[{index}].destination {:?} is not absolute", volume.destination);
                return Err(Failure::new(Root, why));
            }
            if !volume.shared {
                fill::once(volume, &place(index))?;
            }
            let tree = detach(&place(index));
            let tree =
                tree.at(Root, || format!("opening the folder \"data\" of volume {:?}", volume.name))?;
            detached.push((volume, tree));
        }
        detached.reverse();
        Ok(Self(detached))
    }

    /// Mounts those that are to be above `destination`; the root is the container's by now.
    pub fn attach_above(&mut self, destination: &str) -> Result<(), Failure> {
        let above = self.0.iter().position(|(volume, _)| is_above(&volume.destination, destination));
        // They stand in the order in which they are to be mounted, the next one last.
        above.map_or(Ok(()), |at| self.attach_from(at))
    }

    /// Mounts the others.
    pub fn attach_rest(&mut self) -> Result<(), Failure> {
        self.attach_from(0)
    }

    fn attach_from(&mut self, at: usize) -> Result<(), Failure> {
        while self.0.len() > at
            && let Some((volume, tree)) = self.0.pop()
        {
            attach(volume, &tree)?;
        }
        Ok(())
    }
}

/// A mount of its own of the folder `data` at `target`, without a place.
fn detach(target: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let data = open(format!("{target}/{}", fill::DATA).as_str(), flags, Mode::empty())?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(data, "", flags).map_err(|error| Errno::from_raw(error.raw_os_error()))
}

fn attach(volume: &Volume, tree: &OwnedFd) -> Result<(), Failure> {
    let Volume { name, destination, readonly, .. } = volume;
    let what = || format!("mounting volume {name:?} on {destination}");
    DirBuilder::new().recursive(true).mode(0o755).create(destination).at(Root, what)?;
    // As mount(2): a symbolic link is followed, in the container's own root.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(tree, "", CWD, destination.as_str(), flags)
        .map_err(|error| Errno::from_raw(error.raw_os_error()))
        .at(Root, what)?;
    if *readonly {
        mounts::remount_read_only(destination).at(Root, what)?;
    }
    Ok(())
}

/// Whether `path` is in the folder `folder`, or the folder itself.
fn is_above(folder: &str, path: &str) -> bool {
    let mut path = path.split('/').filter(|part| !part.is_empty());
    folder.split('/').filter(|part| !part.is_empty()).all(|part| path.next() == Some(part))
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

//! The container's user namespace, user_namespaces(7), and the namespaces that belong to it.
//!
//! Namespaces belong to the user namespace of who makes them, and the ID maps are written from outside. So a process is born for
//! each step, makes them, and goes when tether has taken hold of them. The container's process enters them one after the other:
//! the user namespace last, for up to then it is mighty in the machine, and does all that is to be done there; its files belong to
//! the container's root already ([`UserNamespace::own_files`]). Only the PID namespace belongs to the machine: it is
//! tether's children's.

use crate::cgroup::Cgroup;
use crate::failure::{Context, Failure};
use crate::namespaces::{self, TIME, wants};
use crate::power;
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, write};
use protocol::Stage::Config;
use protocol::oci::{Device, IdMapping, Linux, NamespaceKind, Spec};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The most lines of a map (user_namespaces(7)).
const MOST: usize = 340;

/// A user namespace with its maps.
pub struct UserNamespace {
    namespace: OwnedFd,
    uid: u32,
    gid: u32,
}

impl UserNamespace {
    /// Makes the one that the config asks for.
    pub fn create(config: &Spec) -> Result<Option<Self>, Failure> {
        let linux = &config.linux;
        if !wants(config, NamespaceKind::User) {
            return Ok(None);
        }
        let make = || unshare(CloneFlags::CLONE_NEWUSER);
        let namespace = made_by(make, "a user namespace", |pid| {
            for (file, field, maps) in [
                ("gid_map", "gidMappings", &linux.gid_mappings),
                ("uid_map", "uidMappings", &linux.uid_mappings),
            ] {
                fs::write(format!("/proc/{pid}/{file}"), lines(maps))
                    .at(Config, || format!("setting linux.{field}"))?;
            }
            open(pid, "user")
        })?;
        let root = |maps: &[IdMapping]| outside(maps, 0).or_else(|| Some(maps.first()?.host_id));
        let (uid, gid) = root(&linux.uid_mappings).zip(root(&linux.gid_mappings)).unwrap_or_default();
        Ok(Some(Self { namespace, uid, gid }))
    }

    /// Makes the container's other namespaces, as its own.
    pub fn namespaces(&self, config: &Spec, cgroup: &Cgroup) -> Result<Vec<(OwnedFd, CloneFlags)>, Failure> {
        let wanted = namespaces::of(config);
        let make = || {
            // What it is in is its cgroup namespace's root.
            cgroup.enter().map_err(|failure| Errno::from_raw(failure.0.errno.unwrap_or(libc::EIO)))?;
            setns(&self.namespace, CloneFlags::CLONE_NEWUSER)?;
            unshare(wanted)
        };
        made_by(make, &format!("linux.namespaces ({wanted:?})"), |pid| {
            if wanted.contains(TIME) {
                namespaces::set_time_offsets(config, &pid.to_string())?;
            }
            let files = [
                (CloneFlags::CLONE_NEWNS, "mnt"),
                (CloneFlags::CLONE_NEWIPC, "ipc"),
                (CloneFlags::CLONE_NEWUTS, "uts"),
                (CloneFlags::CLONE_NEWCGROUP, "cgroup"),
                (CloneFlags::CLONE_NEWNET, "net"),
                (TIME, "time_for_children"),
            ];
            let mine = files.into_iter().filter(|(flag, _)| wanted.contains(*flag));
            mine.map(|(flag, file)| Ok((open(pid, file)?, flag))).collect()
        })
    }

    /// Makes the calling process's new files the container's root's, while it may do to all files what it may.
    pub fn own_files(&self) -> Result<(), Failure> {
        const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2; // linux/securebits.h
        let zero: libc::c_ulong = 0;
        // SAFETY: PR_SET_SECUREBITS takes an integer.
        let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP, zero, zero, zero) };
        Errno::result(result).at(Config, || "keeping capabilities")?;
        set_file_ids(self.uid, self.gid)
    }

    /// Does something so that new files are the container's root's.
    pub fn as_root<T>(&self, what: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        self.own_files()?;
        let outcome = what();
        set_file_ids(0, 0)?;
        let zero: libc::c_ulong = 0;
        // SAFETY: PR_SET_SECUREBITS takes an integer.
        let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, zero, zero, zero, zero) };
        Errno::result(result).at(Config, || "being as before")?;
        outcome
    }

    /// Mounts anew what is mounted at `target`, so that its files are whose they are inside (mount_setattr(2), "ID-mapped mounts").
    pub fn map_files(&self, target: &str) -> Result<(), Failure> {
        const IDMAP: u64 = 0x10_0000; // MOUNT_ATTR_IDMAP
        let what = || format!("mounting {target} with linux.uidMappings and gidMappings");
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, target, flags).map_err(io::Error::from).at(Config, what)?;
        let namespace = u64::try_from(self.namespace.as_raw_fd()).unwrap_or(u64::MAX);
        // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
        let attributes = [IDMAP, 0, 0, namespace];
        // SAFETY: mount_setattr(2) reads the path and the attributes, of the size told; both outlive the call.
        let result = unsafe {
            let (fd, path, size) = (tree.as_raw_fd(), c"".as_ptr(), size_of::<[u64; 4]>());
            libc::syscall(libc::SYS_mount_setattr, fd, path, libc::AT_EMPTY_PATH, attributes.as_ptr(), size)
        };
        Errno::result(result).at(Config, what)?;
        umount2(target, MntFlags::UMOUNT_NOFOLLOW).at(Config, what)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", CWD, target, flags).map_err(io::Error::from).at(Config, what)
    }

    /// Gives a file to the container's root.
    pub fn give(&self, file: impl AsFd) -> Result<(), Failure> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(self.uid), rustix::fs::Gid::from_raw(self.gid));
        let given = rustix::fs::chownat(file, "", Some(uid), Some(gid), rustix::fs::AtFlags::EMPTY_PATH);
        given.map_err(io::Error::from).at(Config, || "giving a file to the container's root")
    }

    /// Where it can be entered.
    pub fn fd(&self) -> &OwnedFd {
        &self.namespace
    }
}

fn set_file_ids(uid: u32, gid: u32) -> Result<(), Failure> {
    // SAFETY: both take an integer, and cannot fail for who has CAP_SETUID and CAP_SETGID.
    unsafe { libc::setfsgid(gid) };
    // SAFETY: as before.
    unsafe { libc::setfsuid(uid) };
    // SAFETY: as before; it gives what is set.
    let set = unsafe { libc::setfsuid(u32::MAX) };
    if u32::try_from(set) == Ok(uid) {
        return Ok(());
    }
    Err(Failure::new(Config, format!("making new files those of user {uid}: the kernel does not")))
}

/// Enters the user namespace that a descriptor is of, or the one that a process is in. All capabilities are those in it, then.
pub fn enter(namespace: impl AsFd) -> Result<(), Failure> {
    setns(namespace, CloneFlags::CLONE_NEWUSER).at(Config, || "entering the user namespace")
}

/// Takes hold of what a process that is born for it makes.
fn made_by<T>(
    make: impl FnOnce() -> nix::Result<()>,
    what: &str,
    take: impl FnOnce(Pid) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let what = || format!("making {what}");
    let (ours, theirs) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).at(Config, what)?;
    // SAFETY: tether has one thread, so the child may do whatever the parent may.
    match unsafe { fork() }.at(Config, what)? {
        ForkResult::Child => {
            power::this_is_a_child();
            // All errno values fit.
            let errno = make().err().map_or(0, |errno| (errno as i32).to_le_bytes()[0]);
            let _told = write(&theirs, &[errno]);
            loop {
                nix::unistd::pause();
            }
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let mut errno = [0];
            let made = match read(&ours, &mut errno) {
                Ok(1) if errno == [0] => take(child),
                Ok(1) => Err(Failure::system(Config, what(), Errno::from_raw(errno[0].into()))),
                _ => Err(Failure::new(Config, format!("{}: the process for it has died", what()))),
            };
            let _gone = kill(child, Signal::SIGKILL).and_then(|()| waitpid(child, None));
            made
        }
    }
}

fn open(pid: Pid, file: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/{pid}/ns/{file}");
    File::open(&path).map(OwnedFd::from).at(Config, || format!("opening {path}"))
}

fn lines(maps: &[IdMapping]) -> String {
    maps.iter().map(|map| format!("{} {} {}\n", map.container_id, map.host_id, map.size)).collect()
}

/// What an ID of the container's is outside.
fn outside(maps: &[IdMapping], id: u32) -> Option<u32> {
    maps.iter().find_map(|map| {
        let at = id.checked_sub(map.container_id).filter(|at| *at < map.size)?;
        map.host_id.checked_add(at)
    })
}

/// What a user of the container's is outside.
pub fn uid(config: &Spec, uid: u32) -> Result<u32, Failure> {
    id(config, &config.linux.uid_mappings, "linux.uidMappings", uid)
}

/// What a group of the container's is outside.
pub fn gid(config: &Spec, gid: u32) -> Result<u32, Failure> {
    id(config, &config.linux.gid_mappings, "linux.gidMappings", gid)
}

fn id(config: &Spec, maps: &[IdMapping], field: &str, id: u32) -> Result<u32, Failure> {
    if !wants(config, NamespaceKind::User) {
        return Ok(id);
    }
    outside(maps, id).ok_or_else(|| Failure::new(Config, format!("{field} have no ID {id}, which is needed")))
}

/// The config with the IDs in it as they are outside: those in options of mounts, and of devices.
pub fn from_outside(config: &Spec) -> Result<Spec, Failure> {
    let mut outer = config.clone();
    if !wants(config, NamespaceKind::User) {
        return Ok(outer);
    }
    for option in outer.mounts.iter_mut().flat_map(|mount| &mut mount.options) {
        let Some((name, Ok(number))) = option.split_once('=').map(|(name, value)| (name, value.parse()))
        else {
            continue;
        };
        match name {
            "uid" => *option = format!("uid={}", uid(config, number)?),
            "gid" => *option = format!("gid={}", gid(config, number)?),
            _ => {}
        }
    }
    for Device { uid: user, gid: group, .. } in &mut outer.linux.devices {
        *user = Some(uid(config, user.unwrap_or(0))?);
        *group = Some(gid(config, group.unwrap_or(0))?);
    }
    Ok(outer)
}

/// Refuses maps that mean nothing.
pub fn check(linux: &Linux) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(Config, message));
    let wanted = linux.namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::User);
    for (field, maps) in [("uidMappings", &linux.uid_mappings), ("gidMappings", &linux.gid_mappings)] {
        if wanted && maps.is_empty() {
            return refuse(format!("linux.{field}: \"user\" in linux.namespaces needs some"));
        }
        if !wanted && !maps.is_empty() {
            return refuse(format!("linux.{field} need \"user\" in linux.namespaces"));
        }
        if maps.len() > MOST {
            return refuse(format!("linux.{field}: {} of them, and {MOST} can be had", maps.len()));
        }
        for (index, map) in maps.iter().enumerate() {
            if map.size == 0 {
                return refuse(format!("linux.{field}[{index}].size is 0"));
            }
            for (name, first) in [("containerID", map.container_id), ("hostID", map.host_id)] {
                // The last ID of all means none.
                if u64::from(first) + u64::from(map.size) > u64::from(u32::MAX) {
                    return refuse(format!(
                        "linux.{field}[{index}].{name}: {first} and {} more are too many",
                        map.size
                    ));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside() {
        let map = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        let maps = [map(0, 100_000, 10), map(1000, 5, 1)];
        for (inside, wanted) in [
            (0, Some(100_000)),
            (9, Some(100_009)),
            (10, None),
            (999, None),
            (1000, Some(5)),
            (u32::MAX, None),
        ] {
            assert_eq!(outside(&maps, inside), wanted, "{inside}");
        }
        assert_eq!(lines(&maps), "0 100000 10\n1000 5 1\n");
    }
}

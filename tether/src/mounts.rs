//! The OCI config's mounts, masked and read-only paths.
//!
//! All of it happens after the process's root has become `/`: a symbolic link in the image leads nowhere but
//! into the image.

use crate::failure::{Context, Failure};
use crate::mount_options::{self, Attributes, Options};
use crate::volumes::fill;
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use protocol::Stage::Config;
use protocol::oci::Mount;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Filesystem types that a config may ask for, and what the kernel calls them.
const TYPES: [(&str, &str); 7] = [
    ("proc", "proc"),
    ("sysfs", "sysfs"),
    ("tmpfs", "tmpfs"),
    ("devpts", "devpts"),
    ("mqueue", "mqueue"),
    ("cgroup", "cgroup2"),
    ("cgroup2", "cgroup2"),
];

/// `MOUNT_ATTR_RDONLY`.
const READ_ONLY: u64 = 1;

/// Of what `mounts[index]` wants, the filesystem, not mounted anywhere yet: of proc and sysfs, which a mount namespace that belongs to a
/// user namespace gets only while others of them are to be seen in it.
pub fn prepare(index: usize, wanted: &Mount) -> Result<Option<OwnedFd>, Failure> {
    let Mount { destination, kind, source, options } = wanted;
    // What cannot be understood will be refused when it is its turn.
    let Ok(Options { flags, cleared, data, .. }) = mount_options::parse(options) else { return Ok(None) };
    if !["proc", "sysfs"].contains(&kind.as_str()) || flags.intersects(MsFlags::MS_REMOUNT | MsFlags::MS_BIND)
    {
        return Ok(None);
    }
    let Some(attributes) = Attributes::of(flags, cleared) else {
        let why =
            format!("mounts[{index}].options {options:?}: not all of them can be had in a user namespace");
        return Err(Failure::new(Config, why));
    };
    let open = || {
        let filesystem = fsopen(kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
        let fd = filesystem.as_fd();
        fsconfig_set_string(fd, "source", source.as_deref().unwrap_or(kind))?;
        for option in data.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some((name, value)) => fsconfig_set_string(fd, name, value)?,
                None => fsconfig_set_flag(fd, option)?,
            }
        }
        fsconfig_create(fd)?;
        let set = MountAttrFlags::from_bits_retain(u32::try_from(attributes.set).unwrap_or(0));
        fsmount(fd, FsMountFlags::FSMOUNT_CLOEXEC, set)
    };
    let what = || format!("mounts[{index}]: making {kind} for {destination} with options {options:?}");
    open().map(Some).map_err(std::io::Error::from).at(Config, what)
}

/// Makes `mounts[index]` of the config, by what was [prepared](prepare) for it.
pub fn make(index: usize, wanted: &Mount, prepared: Option<OwnedFd>) -> Result<(), Failure> {
    let Mount { destination, kind, source, options } = wanted;
    let refused =
        |field: &str, why: String| Err(Failure::new(Config, format!("mounts[{index}].{field} {why}")));
    if !destination.starts_with('/') {
        return refused("destination", format!("{destination:?} is not absolute"));
    }
    let parsed = match mount_options::parse(options) {
        Ok(parsed) => parsed,
        Err(option) => return refused("options", format!("{option:?} is not supported")),
    };
    let Options { flags, data, .. } = &parsed;
    let what = || format!("mounts[{index}]: mounting {kind} on {destination} with options {options:?}");
    let is_bind = kind == "bind" || flags.contains(MsFlags::MS_BIND);
    if is_bind && !flags.contains(MsFlags::MS_REMOUNT) {
        let Some(source) = source.as_deref().filter(|source| source.starts_with('/')) else {
            return refused(
                "source",
                format!("{source:?} is no absolute path in the container, which a bind mount needs"),
            );
        };
        if !data.is_empty() {
            return refused(
                "options",
                format!("{data:?} are not supported: a bind mount has no filesystem of its own"),
            );
        }
        let Some(attributes) = own_attributes(&parsed) else {
            return refused("options", format!("{options:?}: not all of them can be had by a bind mount"));
        };
        bind(source, destination, flags.contains(MsFlags::MS_REC)).at(Config, what)?;
        set_attributes(destination, attributes, false).at(Config, what)?;
    } else {
        let known = TYPES.iter().find(|(name, _)| name == kind);
        let Some((_, filesystem)) = known.or_else(|| is_bind.then_some(&("", ""))) else {
            let known = TYPES.map(|(name, _)| name).join(", ");
            return refused(
                "type",
                format!(
                    "{kind:?} is not supported: a containerVM shares no files with its host; it knows {known}, bind"
                ),
            );
        };
        let is_tmpfs = *filesystem == "tmpfs" && !flags.contains(MsFlags::MS_REMOUNT);
        if parsed.copy_up && !is_tmpfs {
            return refused("options", "\"tmpcopyup\" is a tmpfs's".into());
        }
        let source = source.as_deref().unwrap_or(kind);
        if is_tmpfs {
            tmpfs(destination, source, &parsed).at(Config, what)?;
        } else {
            make_folder(destination).at(Config, what)?;
            let (target, data) = (destination.as_str(), Some(data.as_str()));
            match prepared {
                Some(tree) => {
                    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
                    move_mount(tree, "", CWD, target, how).map_err(std::io::Error::from).at(Config, what)?;
                }
                None => mount(Some(source), target, Some(*filesystem), *flags, data).at(Config, what)?,
            }
        }
    }
    set_attributes(destination, parsed.recursive, true).at(Config, what)?;
    parsed.propagation.into_iter().try_for_each(|flags| {
        mount(None::<&str>, destination.as_str(), None::<&str>, flags, None::<&str>).at(Config, what)
    })
}

/// Mounts a tmpfs. As runc has it: like the folder that was there, if nothing else is said, and with a copy of what was in
/// it, if that is wanted; for which `/proc` must be there.
fn tmpfs(destination: &str, source: &str, options: &Options) -> std::io::Result<()> {
    let before = folder(destination)?;
    let mut data = options.data.clone();
    match &before {
        Some(before) => {
            let mode = before.metadata()?.mode() & 0o7777;
            data = format!("mode={mode:04o}{}{data}", if data.is_empty() { "" } else { "," });
        }
        None => make_folder(destination)?,
    }
    let before = before.filter(|_| options.copy_up);
    let late = if before.is_some() { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let flags = options.flags.difference(late);
    mount(Some(source), destination, Some("tmpfs"), flags, Some(data.as_str()))?;
    let Some(before) = before else { return Ok(()) };
    fill::copy(format!("/proc/self/fd/{}/.", before.as_raw_fd()).into(), destination.into())?;
    if options.flags.contains(late) {
        remount_read_only(destination)?;
    }
    Ok(())
}

/// The folder that is at `path`, if there is one.
fn folder(path: &str) -> std::io::Result<Option<fs::File>> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        folder => folder.map(Some),
    }
}

/// Makes a folder for something to be mounted in, with those above it: as runc makes them, whatever the umask is.
pub fn make_folder(path: impl AsRef<Path>) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// The attributes that a bind mount is to have of its own: what is not said stays as it is.
fn own_attributes(options: &Options) -> Option<Attributes> {
    let how = MsFlags::MS_BIND.union(MsFlags::MS_REC);
    Attributes::of(options.flags.difference(how), options.cleared)
}

/// Binds `source`, a file or a folder, to `destination`, which is made if missing.
fn bind(source: &str, destination: &str, recursive: bool) -> std::io::Result<()> {
    if fs::metadata(source)?.is_dir() {
        make_folder(destination)?;
    } else if !Path::new(destination).exists() {
        if let Some(folder) = Path::new(destination).parent() {
            make_folder(folder)?;
        }
        fs::File::create(destination)?;
    }
    let flags = if recursive { MsFlags::MS_BIND | MsFlags::MS_REC } else { MsFlags::MS_BIND };
    Ok(mount(Some(source), destination, None::<&str>, flags, None::<&str>)?)
}

/// mount_setattr(2), on the mount at `path`, and on all below it if `recursive`.
fn set_attributes(path: &str, Attributes { set, clear }: Attributes, recursive: bool) -> nix::Result<()> {
    if (set, clear) == (0, 0) {
        return Ok(());
    }
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
    let attributes = [set, clear, 0, 0];
    // SAFETY: mount_setattr(2) reads the path and the attributes, of the size told; both outlive the call.
    let result = unsafe {
        let (path, attributes) = (path.as_ptr(), attributes.as_ptr());
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, path, flags, attributes, size_of::<[u64; 4]>())
    };
    Errno::result(result).map(drop)
}

/// Sets how mounts in the root spread to other namespaces: `linux.rootfsPropagation`.
pub fn propagate_root(propagation: &str) -> Result<(), Failure> {
    let Some(flags) = mount_options::propagation(propagation) else {
        let why =
            format!("linux.rootfsPropagation {propagation:?} is none of shared, slave, private, unbindable");
        return Err(Failure::new(Config, why));
    };
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .at(Config, || format!("setting linux.rootfsPropagation to {propagation}"))
}

/// Makes paths unreadable: a folder becomes empty, a file like `/dev/null`. A path that is not there needs
/// no masking.
pub fn mask(paths: &[String]) -> Result<(), Failure> {
    let bind =
        |source: &str, path: &str| mount(Some(source), path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    // A filesystem costs more than a mount of one: all folders become the same empty one, which is read-only. The last of them
    // is where it is surely seen: one before may lie below it.
    let mut empty: Option<&str> = None;
    paths.iter().try_for_each(|path| {
        match (bind("/dev/null", path), empty) {
            (Err(Errno::ENOTDIR), before) => {
                empty = Some(path);
                let options = Some("size=0k,nr_inodes=1");
                match before {
                    Some(before) => bind(before, path),
                    None => mount(Some("tmpfs"), path.as_str(), Some("tmpfs"), MsFlags::MS_RDONLY, options),
                }
            }
            (Err(Errno::ENOENT), _) => Ok(()),
            (result, _) => result,
        }
        .at(Config, || format!("linux.maskedPaths: masking {path}"))
    })
}

/// Makes a path, and all that is mounted below it, read-only. A path that is not there needs none of it.
pub fn make_read_only(path: &str) -> Result<(), Failure> {
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    match mount(Some(path), path, None::<&str>, bind, None::<&str>) {
        Err(Errno::ENOENT) => Ok(()),
        result => result.and_then(|()| remount_read_only(path)),
    }
    .at(Config, || format!("linux.readonlyPaths: making {path} read-only"))
}

/// Makes a mount read-only, keeping its other flags.
pub fn remount_read_only(path: &str) -> nix::Result<()> {
    set_attributes(path, Attributes { set: READ_ONLY, clear: 0 }, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of them are refused before anything is mounted.
    #[test]
    fn bad_mounts_are_named() {
        let options = |options: &[&str]| options.iter().map(ToString::to_string).collect();
        let bind = Mount {
            destination: "/no/such/x".into(),
            kind: "bind".into(),
            source: Some("/no/such/y".into()),
            options: vec![],
        };
        for (named, bad) in [
            ("type \"ext4\" is not supported", Mount { kind: "ext4".into(), ..bind.clone() }),
            ("type \"\" is not supported", Mount { kind: String::new(), ..bind.clone() }),
            ("destination \"x\" is not absolute", Mount { destination: "x".into(), ..bind.clone() }),
            ("source None is no absolute path", Mount { source: None, ..bind.clone() }),
            ("source Some(\"y\") is no absolute path", Mount { source: Some("y".into()), ..bind.clone() }),
            ("options \"idmap\" is not supported", Mount { options: options(&["idmap"]), ..bind.clone() }),
            ("options \"size=1\" are not supported", Mount { options: options(&["size=1"]), ..bind.clone() }),
            ("options [\"sync\"]: not all", Mount { options: options(&["sync"]), ..bind.clone() }),
        ] {
            let why = make(3, &bad, None).unwrap_err().0.message;
            assert!(why.starts_with(&format!("mounts[3].{named}")), "{why}");
        }
        let why = propagate_root("everywhere").unwrap_err().0.message;
        assert!(why.starts_with("linux.rootfsPropagation \"everywhere\""), "{why}");
    }
}

//! The OCI config's mounts, devices, masked and read-only paths.
//!
//! All of it happens after the process's root has become `/`: a symbolic link in the image leads nowhere but
//! into the image.

use crate::failure::{Context, Failure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::unlink;
use protocol::Stage::Config;
use protocol::oci::Mount;
use std::fs;
use std::os::unix::fs::symlink;

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

/// Options that are flags of mount(2): what they set, and what they clear.
const FLAGS: [(&str, MsFlags, MsFlags); 19] = {
    const NONE: MsFlags = MsFlags::empty();
    const ATIME: MsFlags = MsFlags::MS_NOATIME.union(MsFlags::MS_RELATIME).union(MsFlags::MS_STRICTATIME);
    [
        ("defaults", NONE, NONE),
        ("ro", MsFlags::MS_RDONLY, NONE),
        ("rw", NONE, MsFlags::MS_RDONLY),
        ("nosuid", MsFlags::MS_NOSUID, NONE),
        ("suid", NONE, MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV, NONE),
        ("dev", NONE, MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC, NONE),
        ("exec", NONE, MsFlags::MS_NOEXEC),
        ("sync", MsFlags::MS_SYNCHRONOUS, NONE),
        ("async", NONE, MsFlags::MS_SYNCHRONOUS),
        ("dirsync", MsFlags::MS_DIRSYNC, NONE),
        ("noatime", MsFlags::MS_NOATIME, ATIME),
        ("atime", NONE, MsFlags::MS_NOATIME),
        ("relatime", MsFlags::MS_RELATIME, ATIME),
        ("strictatime", MsFlags::MS_STRICTATIME, ATIME),
        ("nodiratime", MsFlags::MS_NODIRATIME, NONE),
        ("diratime", NONE, MsFlags::MS_NODIRATIME),
        ("lazytime", MsFlags::MS_LAZYTIME, NONE),
    ]
};

/// Options about the propagation of mounts between namespaces, mount_namespaces(7).
const PROPAGATION: [(&str, MsFlags); 8] = [
    ("private", MsFlags::MS_PRIVATE),
    ("rprivate", MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
    ("shared", MsFlags::MS_SHARED),
    ("rshared", MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
    ("slave", MsFlags::MS_SLAVE),
    ("rslave", MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
    ("unbindable", MsFlags::MS_UNBINDABLE),
    ("runbindable", MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
];

/// Mount options, sorted into what mount(2) takes.
#[derive(Debug, PartialEq)]
struct Options {
    flags: MsFlags,
    propagation: Vec<MsFlags>,
    data: String,
}

fn parse(options: &[String]) -> Options {
    let mut parsed = Options { flags: MsFlags::empty(), propagation: vec![], data: String::new() };
    let mut data: Vec<&str> = vec![];
    for option in options {
        if let Some((_, set, clear)) = FLAGS.iter().find(|(name, ..)| name == option) {
            parsed.flags = parsed.flags.difference(*clear).union(*set);
        } else if let Some((_, flags)) = PROPAGATION.iter().find(|(name, _)| name == option) {
            parsed.propagation.push(*flags);
        } else {
            data.push(option); // the filesystem's own: the kernel refuses what it does not know
        }
    }
    parsed.data = data.join(",");
    parsed
}

/// Makes `mounts[index]` of the config.
pub fn make(index: usize, wanted: &Mount) -> Result<(), Failure> {
    let Mount { destination, kind, source, options } = wanted;
    let Some((_, filesystem)) = TYPES.iter().find(|(name, _)| name == kind) else {
        let known = TYPES.map(|(name, _)| name).join(", ");
        let message = format!(
            "mounts[{index}].type {kind:?} is not supported: a containerVM shares no files with its host; it knows {known}"
        );
        return Err(Failure::new(Config, message));
    };
    let what = || format!("mounts[{index}]: mounting {kind} on {destination} with options {options:?}");
    if !destination.starts_with('/') {
        return Err(Failure::new(
            Config,
            format!("mounts[{index}].destination {destination:?} is not absolute"),
        ));
    }
    fs::create_dir_all(destination).at(Config, what)?;
    let Options { flags, propagation, data } = parse(options);
    let source = source.as_deref().unwrap_or(kind);
    mount(Some(source), destination.as_str(), Some(*filesystem), flags, Some(data.as_str()))
        .at(Config, what)?;
    propagation.into_iter().try_for_each(|flags| {
        mount(None::<&str>, destination.as_str(), None::<&str>, flags, None::<&str>).at(Config, what)
    })
}

/// The devices and links that every container has (runtime-spec, config-linux.md, "Default Devices" and "/dev
/// symbolic links").
pub fn default_devices() -> Result<(), Failure> {
    fs::create_dir_all("/dev").at(Config, || "making /dev")?;
    let devices = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];
    let devices = devices.map(|(name, minor)| (name, makedev(1, minor)));
    for (name, device) in devices.into_iter().chain([("tty", makedev(5, 0))]) {
        replace(&format!("/dev/{name}"), |path| {
            mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), device)
        })?;
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    links.into_iter().try_for_each(|(name, target)| {
        replace(&format!("/dev/{name}"), |path| {
            symlink(target, path).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
        })
    })
}

/// An image may bring files of these names; ours are the ones that work.
fn replace(path: &str, make: impl Fn(&str) -> nix::Result<()>) -> Result<(), Failure> {
    match make(path) {
        Err(Errno::EEXIST) => unlink(path).and_then(|()| make(path)),
        result => result,
    }
    .at(Config, || format!("making {path}"))
}

/// Makes a path unreadable: a folder becomes empty, a file like `/dev/null`. A path that is not there needs
/// no masking.
pub fn mask(path: &str) -> Result<(), Failure> {
    let null = Some("/dev/null");
    match mount(null, path, None::<&str>, MsFlags::MS_BIND, None::<&str>) {
        Err(Errno::ENOTDIR) => {
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=0k,nr_inodes=1"))
        }
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
    .at(Config, || format!("linux.maskedPaths: masking {path}"))
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

/// Makes a mount read-only, keeping its other flags: the kernel would clear those that are not named again.
pub fn remount_read_only(path: &str) -> nix::Result<()> {
    let kept = statvfs(path)?.flags();
    let flags = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
    ];
    let kept = flags.into_iter().filter(|(flag, _)| kept.contains(*flag)).map(|(_, flag)| flag);
    let flags = kept.fold(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, MsFlags::union);
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> Options {
        parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_sorted() {
        let options = parsed(&["nosuid", "strictatime", "mode=755", "rprivate", "size=64k", "ro", "rw"]);
        assert_eq!(options.flags, MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME);
        assert_eq!(options.propagation, [MsFlags::MS_PRIVATE | MsFlags::MS_REC]);
        assert_eq!(options.data, "mode=755,size=64k");
    }

    #[test]
    fn foreign_types_are_refused_by_name() {
        let bind = Mount {
            destination: "/x".into(),
            kind: "bind".into(),
            source: Some("/y".into()),
            options: vec![],
        };
        let message = make(3, &bind).err().map(|failure| failure.0.message).unwrap_or_default();
        assert!(message.starts_with("mounts[3].type \"bind\" is not supported"), "{message}");
    }
}

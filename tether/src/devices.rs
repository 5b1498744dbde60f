//! Device files: those that every container has, those that the config asks for, and those of the machine's own that
//! it is given.

use crate::failure::{Context, Failure};
use crate::mounts;
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, lstat, major, makedev, minor, mknod};
use nix::unistd::{Gid, Uid, chown, unlink};
use protocol::Stage::Config;
use protocol::oci::{Device, DeviceRule, Spec};
use protocol::{GuestDevice, MachineSpec};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The most of the machine's devices that a container gets.
const MOST: usize = 4096;

/// Looks the machine's devices up that the container shall have, and adds them to its config. In tether's own `/dev`.
pub fn add_the_machines(machine: &mut MachineSpec) -> Result<(), Failure> {
    for device in &machine.devices {
        let GuestDevice { source, destination, .. } = device;
        let what = || format!("the machine has no device {source}");
        if !source.starts_with("/dev/") && source != "/dev" || source.contains("..") {
            return Err(Failure::new(Config, format!("{source:?} is no path of a device of the machine's")));
        }
        let is_folder = fs::metadata(source).at(Config, what)?.is_dir();
        if is_folder {
            add_folder(&mut machine.config, device, source, destination)?;
        } else {
            add(&mut machine.config, device, source, destination)?;
        }
    }
    Ok(())
}

/// Adds all devices below a folder, as docker does; but none of those that a container has its own of.
fn add_folder(config: &mut Spec, device: &GuestDevice, from: &str, to: &str) -> Result<(), Failure> {
    const OWN: [&str; 12] =
        ["console", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"];
    for entry in fs::read_dir(from).at(Config, || format!("listing {from}"))? {
        let entry = entry.at(Config, || format!("listing {from}"))?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| from != "/dev" || !OWN.contains(name)) else { continue };
        let (from, to) = (format!("{from}/{name}"), format!("{to}/{name}"));
        let kind = entry.file_type().at(Config, || format!("looking at {from}"))?;
        if kind.is_dir() {
            add_folder(config, device, &from, &to)?;
        } else if !kind.is_file() && !kind.is_symlink() {
            add(config, device, &from, &to)?;
        }
    }
    Ok(())
}

fn add(config: &mut Spec, device: &GuestDevice, from: &str, to: &str) -> Result<(), Failure> {
    let stat = nix::sys::stat::stat(from).at(Config, || format!("looking at {from}"))?;
    let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFCHR => "c",
        SFlag::S_IFBLK => "b",
        _ => return Err(Failure::new(Config, format!("{from} is no device"))),
    };
    if config.linux.devices.len() >= MOST {
        return Err(Failure::new(Config, "the machine has too many devices"));
    }
    let numbers = (major(stat.st_rdev), minor(stat.st_rdev));
    let part = |number: u64| u32::try_from(number).ok();
    config.linux.devices.push(Device {
        kind: kind.into(),
        path: to.into(),
        major: part(numbers.0),
        minor: part(numbers.1),
        file_mode: Some(stat.st_mode & 0o7777),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
    });
    // No rules: nothing is denied.
    if !config.linux.resources.devices.is_empty() {
        config.linux.resources.devices.push(DeviceRule {
            allow: true,
            kind: Some(kind.into()),
            major: i64::try_from(numbers.0).ok(),
            minor: i64::try_from(numbers.1).ok(),
            access: Some(device.access.clone()),
        });
    }
    Ok(())
}

/// Makes all devices of the container, in its root. The umask is 0.
pub fn make(config: &Spec) -> Result<(), Failure> {
    // As in runc: who brings a whole /dev brings the devices in it.
    let is_bound = config.mounts.iter().any(|mount| {
        let bind =
            mount.kind == "bind" || mount.options.iter().any(|option| option == "bind" || option == "rbind");
        bind && mount.destination.trim_end_matches('/') == "/dev"
    });
    if !is_bound {
        make_defaults()?;
    }
    config.linux.devices.iter().enumerate().try_for_each(|(index, device)| make_one(index, device))
}

/// The devices and links that every container has (runtime-spec, config-linux.md, "Default Devices" and "/dev
/// symbolic links").
fn make_defaults() -> Result<(), Failure> {
    mounts::make_folder("/dev").at(Config, || "making /dev")?;
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

/// Makes `linux.devices[index]`. One that is there already must be the same.
fn make_one(index: usize, device: &Device) -> Result<(), Failure> {
    let path = device.path.as_str();
    let (kind, number) = check(index, device)?;
    let what = || format!("linux.devices[{index}]: making {path}");
    if let Some(folder) = Path::new(path).parent() {
        mounts::make_folder(folder).at(Config, what)?;
    }
    match mknod(path, kind, Mode::from_bits_truncate(device.file_mode.unwrap_or(0o666)), number) {
        Err(Errno::EEXIST) => {
            let there = lstat(path).at(Config, what)?;
            if there.st_mode & SFlag::S_IFMT.bits() != kind.bits() || there.st_rdev != number {
                let why = format!("linux.devices[{index}]: {path} is there, and is another file");
                return Err(Failure::new(Config, why));
            }
        }
        result => result.at(Config, what)?,
    }
    chown(path, device.uid.map(Uid::from_raw), device.gid.map(Gid::from_raw)).at(Config, what)
}

/// The kind of file that a device is, and its number.
fn check(index: usize, device: &Device) -> Result<(SFlag, u64), Failure> {
    let refused = |field: &str, why: String| {
        Err(Failure::new(Config, format!("linux.devices[{index}].{field}: {why}")))
    };
    let kind = match device.kind.as_str() {
        "c" | "u" => SFlag::S_IFCHR,
        "b" => SFlag::S_IFBLK,
        "p" => SFlag::S_IFIFO,
        other => return refused("type", format!("{other:?} is none of c, u, b, p")),
    };
    if !device.path.starts_with('/') {
        return refused("path", format!("{:?} is not absolute", device.path));
    }
    if device.file_mode.is_some_and(|mode| mode & !0o7777 != 0) {
        return refused("fileMode", format!("{:o} is more than permissions", device.file_mode.unwrap_or(0)));
    }
    match (kind, device.major, device.minor) {
        (SFlag::S_IFIFO, ..) => Ok((kind, 0)),
        (_, Some(major), Some(minor)) => Ok((kind, makedev(major.into(), minor.into()))),
        (_, None, _) => refused("major", "it is missing".into()),
        (_, _, None) => refused("minor", "it is missing".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named() {
        let good = Device {
            kind: "c".into(),
            path: "/dev/x".into(),
            major: Some(1),
            minor: Some(3),
            ..Device::default()
        };
        assert_eq!(check(0, &good).unwrap(), (SFlag::S_IFCHR, makedev(1, 3)));
        for (field, bad) in [
            ("type", Device { kind: "a".into(), ..good.clone() }),
            ("path", Device { path: "dev/x".into(), ..good.clone() }),
            ("major", Device { major: None, ..good.clone() }),
            ("minor", Device { minor: None, ..good.clone() }),
            ("fileMode", Device { file_mode: Some(0o100_644), ..good }),
        ] {
            let why = check(2, &bad).unwrap_err().0.message;
            assert!(why.starts_with(&format!("linux.devices[2].{field}: ")), "{why}");
        }
    }

    #[test]
    fn only_what_is_below_dev_is_given() {
        for source in ["/etc/passwd", "/dev/../etc", "/devices", "dev/null", "/dev/no-such-device"] {
            let device =
                GuestDevice { source: source.into(), destination: "/dev/x".into(), access: "rwm".into() };
            let disks = protocol::Disks { layers: vec![], scratch: protocol::Uuid::nil(), ephemeral: false };
            let mut machine = MachineSpec::new(Spec::default(), disks);
            machine.devices.push(device);
            assert!(add_the_machines(&mut machine).is_err(), "{source}");
        }
    }
}

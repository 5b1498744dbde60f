//! The root filesystem: layer disks below, the scratch disk on top, overlayfs over both.

use crate::disks::{Disk, Disks};
use crate::failure::{Context, Failure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fchmodat, stat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, chown};
use protocol::Stage;
use rustix::fs::{XattrFlags, getxattr, listxattr, setxattr};
use std::fs;

/// Where the root filesystem is, in tether's own root.
pub const PATH: &str = "/root";

/// Most that Linux gives of an xattr, and of the list of their names.
const XATTR_MAX: usize = 64 << 10;

/// Mounted filesystems, in the order in which they were mounted.
pub struct Root(Vec<String>);

impl Root {
    /// Mounts the disks and stacks them at [`PATH`].
    pub fn assemble(disks: &Disks) -> Result<Self, Failure> {
        let mut mounted = vec![];
        for (number, layer) in disks.layers.iter().enumerate() {
            let target = format!("/layers/{number}");
            fs::create_dir(&target).at(Stage::Root, || format!("making {target}"))?;
            let name = format!("layer {}", number + 1);
            mount_disk(&name, layer, &target, MsFlags::MS_RDONLY, None)?;
            mounted.push(target);
        }
        // No thread shall fill in the inode tables of a disk that is thrown away soon.
        mount_disk("the scratch disk", &disks.scratch, "/scratch", MsFlags::empty(), Some("noinit_itable"))?;
        mounted.push("/scratch".into());
        prepare_scratch(mounted.len() - 2)?;
        mount_overlay(disks.layers.len())?;
        mounted.push(PATH.into());
        Ok(Self(mounted))
    }

    /// Unmounts everything, last mounted first.
    pub fn disassemble(self) -> Result<(), Failure> {
        self.0.iter().rev().try_for_each(|target| {
            umount2(target.as_str(), MntFlags::UMOUNT_NOFOLLOW)
                .at(Stage::Run, || format!("unmounting {target}"))
        })
    }
}

fn mount_disk(
    name: &str,
    disk: &Disk,
    target: &str,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), Failure> {
    let Disk { device, filesystem } = disk;
    mount(Some(device), target, Some(*filesystem), flags, data)
        .at(Stage::Root, || format!("mounting {name}, {} ({filesystem}) on {target}", device.display()))
}

/// The overlay's root folder shows the upper folder's attributes: take them from the top layer.
fn prepare_scratch(top_layer: usize) -> Result<(), Failure> {
    for folder in ["/scratch/upper", "/scratch/work"] {
        fs::create_dir(folder).at(Stage::Root, || format!("making {folder}"))?;
    }
    let top = format!("/layers/{top_layer}");
    let status = stat(top.as_str()).at(Stage::Root, || format!("reading {top}"))?;
    let (owner, group) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    chown("/scratch/upper", Some(owner), Some(group))
        .at(Stage::Root, || "setting the root folder's owner")?;
    fchmodat(
        nix::fcntl::AT_FDCWD,
        "/scratch/upper",
        Mode::from_bits_truncate(status.st_mode),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
    .at(Stage::Root, || "setting the root folder's mode")?;
    copy_xattrs(&top, "/scratch/upper")?;
    let [accessed, modified] = [
        TimeSpec::new(status.st_atime, status.st_atime_nsec),
        TimeSpec::new(status.st_mtime, status.st_mtime_nsec),
    ];
    // Last, for what comes before is a change.
    utimensat(
        nix::fcntl::AT_FDCWD,
        "/scratch/upper",
        &accessed,
        &modified,
        nix::sys::stat::UtimensatFlags::FollowSymlink,
    )
    .at(Stage::Root, || "setting the root folder's time")
}

/// All but overlayfs's own, which speak of the layer's place in the stack. ACLs are among them.
fn copy_xattrs(from: &str, to: &str) -> Result<(), Failure> {
    let errno = |error: rustix::io::Errno| Errno::from_raw(error.raw_os_error());
    let mut names = vec![0; XATTR_MAX];
    let length = listxattr(from, &mut names[..]).map_err(errno);
    names.truncate(length.at(Stage::Root, || format!("listing the xattrs of {from}"))?);
    let mut value = vec![0; XATTR_MAX];
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let length = getxattr(from, name, &mut value[..]).map_err(errno);
        let length = length.at(Stage::Root, || format!("reading xattr {} of {from}", name.escape_ascii()))?;
        setxattr(to, name, value.get(..length).unwrap_or_default(), XattrFlags::empty())
            .map_err(errno)
            .at(Stage::Root, || format!("setting the root folder's xattr {}", name.escape_ascii()))?;
    }
    Ok(())
}

/// mount(2) cuts options at one page without a word, so the paths are short: relative to `/layers`.
fn mount_overlay(layers: usize) -> Result<(), Failure> {
    let lower: Vec<String> = (0..layers).rev().map(|number| number.to_string()).collect();
    let options = format!("lowerdir={},upperdir=/scratch/upper,workdir=/scratch/work", lower.join(":"));
    if options.len() >= 4096 {
        return Err(Failure::new(Stage::Root, format!("{layers} layers are more than overlayfs takes")));
    }
    nix::unistd::chdir("/layers").at(Stage::Root, || "entering /layers")?;
    mount(Some("overlay"), PATH, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .at(Stage::Root, || format!("stacking {layers} layers"))?;
    nix::unistd::chdir("/").at(Stage::Root, || "entering /")
}

//! The first steps: the kernel's filesystems, and a root that is not the initramfs.

use crate::failure::{Context, Failure};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{chdir, chroot};
use protocol::Stage::Boot;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;

/// Where the initramfs can be reached after [`leave_the_initramfs`].
pub const INITRAMFS: &str = "/initramfs";

/// Moves to a tmpfs with the kernel's filesystems mounted.
///
/// The kernel refuses to `pivot_root` away from the initramfs (Documentation/filesystems/ramfs-rootfs-initramfs.rst),
/// which the container's process must do later to leave tether's files behind. From a tmpfs moved over it, it can.
pub fn leave_the_initramfs() -> Result<(), Failure> {
    make_mount("tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))?;
    for folder in
        ["dev", "proc", "sys", "initramfs", "layers", "scratch", "root", "empty", "volumes", "shares", "nfs"]
    {
        let path = format!("/run/{folder}");
        fs::create_dir(&path).at(Boot, || format!("making {path}"))?;
    }
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    make_mount("devtmpfs", "/run/dev", MsFlags::MS_NOSUID, Some("mode=755"))?;
    make_mount("proc", "/run/proc", plain | MsFlags::MS_NODEV, None)?;
    make_mount("sysfs", "/run/sys", plain | MsFlags::MS_NODEV, None)?;
    mount(Some("/"), "/run/initramfs", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .at(Boot, || "keeping the initramfs at /initramfs")?;
    chdir("/run").at(Boot, || "entering /run")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).at(Boot, || "moving /run to /")?;
    chroot(".").at(Boot, || "changing the root to /run")?;
    chdir("/").at(Boot, || "entering /")?;
    make_mount("cgroup2", "/sys/fs/cgroup", plain | MsFlags::MS_NODEV, None)?;
    symlink("/proc/self/fd", "/dev/fd").at(Boot, || "linking /dev/fd")
}

/// Gives the initramfs's memory back: what is in it has been loaded or never will be. What cannot be removed only stays in
/// memory.
pub fn empty_the_initramfs() {
    for name in ["modules", "init"] {
        let path = format!("{INITRAMFS}/{name}");
        let _gone = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
    let _detached = nix::mount::umount2(INITRAMFS, nix::mount::MntFlags::MNT_DETACH);
}

fn make_mount(kind: &str, target: &str, flags: MsFlags, data: Option<&str>) -> Result<(), Failure> {
    mount(Some(kind), target, Some(kind), flags, data).at(Boot, || format!("mounting {kind} on {target}"))
}

/// `lo` up, as every process expects it.
pub fn bring_loopback_up() -> Result<(), Failure> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .at(Boot, || "opening a socket to configure lo")?;
    // SAFETY: an ifreq of zeros is valid: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    // SAFETY: SIOCSIFFLAGS reads an ifreq (netdevice(7)), which `request` is and outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(result).map(drop).at(Boot, || "bringing lo up")
}

//! Tap interfaces of the host: one that someone has made, or a new one in a bridge. QEMU gets it as an open file, so it needs
//! no rights of its own.

use std::fs::OpenOptions;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socket};

use crate::child;
use crate::text::harmless;

const TUN: &str = "/dev/net/tun";
/// In Debian's qemu-system-common, where root may make it set-uid.
const HELPER: &str = "/usr/lib/qemu/qemu-bridge-helper";
/// The kernel fills in the number.
const PATTERN: &str = "vch%d";
/// linux/if_tun.h: `_IOW('T', 202, int)`; linux/sockios.h. On x86-64.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const SIOCGIFFLAGS: libc::c_ulong = 0x8913;
const SIOCSIFFLAGS: libc::c_ulong = 0x8914;
const SIOCBRADDIF: libc::c_ulong = 0x89a2;
/// A tap, without a header before each packet, but with virtio's.
const FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Opens the tap of this name.
///
/// # Errors
/// There is none; it is not ours to have.
pub fn open(name: &str) -> Result<OwnedFd> {
    // Else the kernel would make one, which nothing is connected to.
    ensure!(
        Path::new(&format!("/sys/class/net/{name}/tun_flags")).exists(),
        "the host has no tap interface of that name; root makes one with: ip tuntap add {name} mode tap user USER"
    );
    Ok(attach(name)?.0)
}

/// Makes a tap, which is gone when the last who has it open is, and puts it into the bridge.
///
/// # Errors
/// There is no such bridge; we are not root.
pub fn in_bridge(bridge: &str) -> Result<OwnedFd> {
    ensure!(
        Path::new(&format!("/sys/class/net/{bridge}/bridge")).exists(),
        "the host has no bridge of that name; root makes one with: ip link add {bridge} type bridge"
    );
    if !nix::unistd::geteuid().is_root() {
        return by_helper(bridge);
    }
    let (tap, name) = attach(PATTERN)?;
    let index = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let index: i32 = index.with_context(|| format!("the new tap {name} has no index"))?;
    let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut request = request(bridge)?;
    request.ifr_ifru.ifru_ifindex = index;
    ioctl(&control, SIOCBRADDIF, &mut request).with_context(|| format!("cannot put {name} into {bridge}"))?;
    bring_up(&control, &name).with_context(|| format!("cannot bring {name} up"))?;
    Ok(tap)
}

/// What root lets others do: QEMU's helper, which is set-uid root, makes the tap if its list has the bridge.
fn by_helper(bridge: &str) -> Result<OwnedFd> {
    ensure!(Path::new(HELPER).exists(), "only root may, or {HELPER} for others, which is not installed");
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(HELPER);
    command.args(["--use-vnet", &format!("--fd={}", theirs.as_raw_fd()), &format!("--br={bridge}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    child::bind(&mut command, vec![theirs.as_raw_fd()], false);
    let output = command.output().with_context(|| format!("cannot start {HELPER}"))?;
    drop(theirs);
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "only root may, or {HELPER} for bridges that /etc/qemu/bridge.conf allows; it says: {}",
        harmless(said.trim().as_bytes(), 200)
    );
    let mut byte = [0];
    let mut space = nix::cmsg_space!(RawFd);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(ours.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let tap = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let tap = tap.with_context(|| format!("{HELPER} has made no tap"))?;
    // SAFETY: the kernel has just made this descriptor for us; nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(tap) })
}

fn bring_up(control: &OwnedFd, name: &str) -> Result<()> {
    let mut request = request(name)?;
    ioctl(control, SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has filled in this field.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::c_short::try_from(libc::IFF_UP)?;
    Ok(ioctl(control, SIOCSIFFLAGS, &mut request)?)
}

/// Opens a tap, or a new one by a pattern; and its name.
fn attach(name: &str) -> Result<(OwnedFd, String)> {
    let tun = OpenOptions::new().read(true).write(true).open(TUN);
    let tun = OwnedFd::from(tun.with_context(|| format!("cannot open {TUN}"))?);
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(FLAGS)?;
    match ioctl(&tun, TUNSETIFF, &mut request) {
        Err(Errno::EPERM) => {
            bail!("only root may, and for a tap its owner (ip tuntap add NAME mode tap user USER)")
        }
        Err(Errno::EBUSY) => bail!("another VM has it"),
        result => result.context("cannot attach to the tap")?,
    }
    let bytes =
        request.ifr_name.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0).collect();
    Ok((tun, String::from_utf8(bytes).context("the kernel gave the tap a name that is no text")?))
}

/// About the interface of this name.
fn request(name: &str) -> Result<libc::ifreq> {
    // SAFETY: an ifreq of zeros is valid: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(name.len() < request.ifr_name.len(), "{name:?} is too long for an interface's name");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

fn ioctl(file: &OwnedFd, number: libc::c_ulong, request: &mut libc::ifreq) -> nix::Result<()> {
    // SAFETY: each of these requests reads and writes an ifreq at most (netdevice(7)), which outlives the call.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), number, std::ptr::from_mut(request)) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let error = open("no-such-tap").unwrap_err().to_string();
        assert!(error.contains("no tap interface") && error.contains("ip tuntap add no-such-tap"), "{error}");
        assert!(open("lo").unwrap_err().to_string().contains("no tap interface"));
        let error = in_bridge("lo").unwrap_err().to_string();
        assert!(error.contains("no bridge") && error.contains("ip link add lo"), "{error}");
    }
}

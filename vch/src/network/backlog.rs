//! How many connections to a published port may wait to be taken.
//!
//! QEMU asks for one (libslirp's `tcp_listen`). Of clients that come at the same instant the others' packets are dropped, to be sent again a
//! second later, or answered with SYN cookies and then reset. listen(2) on the same socket, which may be said
//! again, lets in as many as the host's net.core.somaxconn says.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{Backlog, SockaddrIn, getsockname, getsockopt, listen, sockopt};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::publish::{Port, Transport};

/// Lets more connections wait at `ports`, which the child process `qemu` listens on.
///
/// # Errors
/// Its sockets cannot be had: the system lets nobody trace processes (a container without `CAP_SYS_PTRACE`), or is
/// older than Linux 5.6.
pub fn deepen(qemu: u32, ports: &[Port]) -> Result<()> {
    let mut left: Vec<_> = ports.iter().filter(|port| port.transport == Transport::Tcp).collect();
    if left.is_empty() {
        return Ok(());
    }
    for socket in sockets(qemu).context("cannot share QEMU's sockets")? {
        let socket = socket.context("cannot share QEMU's sockets")?;
        // Those of other families have no such address.
        let Ok(address) = getsockname::<SockaddrIn>(socket.as_raw_fd()) else { continue };
        let ours = |port: &&Port| (port.ip, port.host) == (address.ip(), address.port());
        if left.iter().any(ours) && getsockopt(&socket, sockopt::AcceptConn)? {
            listen(&socket, Backlog::MAXALLOWABLE)?;
            left.retain(|port| !ours(port));
        }
    }
    ensure!(left.is_empty(), "QEMU does not listen on {}", left[0]);
    Ok(())
}

/// The sockets of the process `id`, each shared with it as long as it is looked at.
fn sockets(id: u32) -> Result<impl Iterator<Item = Result<OwnedFd>>> {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("no process has this ID")?;
    let process = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let is_socket = |to: PathBuf| to.as_os_str().as_encoded_bytes().starts_with(b"socket:");
    let numbers = fs::read_dir(format!("/proc/{id}/fd"))?.flatten().filter_map(move |entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        fs::read_link(entry.path()).is_ok_and(is_socket).then_some(number)
    });
    Ok(numbers.filter_map(move |number| match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
        // Closed meanwhile: it was none that listens.
        Err(Errno::BADF) => None,
        socket => Some(socket.context("pidfd_getfd")),
    }))
}

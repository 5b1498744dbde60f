//! How many connections to a published port may wait to be taken.
//!
//! QEMU asks for one (libslirp's `tcp_listen`). Of clients that come at the same instant the others' packets are dropped, to be sent again a
//! second later, or answered with SYN cookies and then reset. listen(2) on the same socket, which may be said
//! again, lets in as many as the host's net.core.somaxconn says.

use std::fs;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{Backlog, SockaddrIn, getsockname, getsockopt, listen, sockopt};
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
    let pid = i32::try_from(qemu).ok().and_then(Pid::from_raw).context("QEMU has no process ID")?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    for entry in fs::read_dir(format!("/proc/{qemu}/fd"))? {
        let entry = entry?;
        // One that is closed meanwhile is none of them.
        if !fs::read_link(entry.path())
            .is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
        {
            continue;
        }
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let socket = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
        let Ok(address) = getsockname::<SockaddrIn>(socket.as_raw_fd()) else { continue };
        let ours = |port: &&Port| (port.ip, port.host) == (address.ip(), address.port());
        if getsockopt(&socket, sockopt::AcceptConn)? && left.iter().any(ours) {
            listen(&socket, Backlog::MAXALLOWABLE)?;
            left.retain(|port| !ours(port));
        }
    }
    ensure!(left.is_empty(), "QEMU does not listen on {}", left[0]);
    Ok(())
}

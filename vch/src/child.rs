//! Child processes: what they inherit, and whether they outlive us.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::Signal;

/// Makes `command`'s process inherit `descriptors` under their numbers, and die when the thread that starts it does, unless it
/// `outlives` that.
///
/// The descriptors stay close-on-exec in this process: other children, which other threads may start at any moment, must
/// not hold a line of the VM open. They must be open until `command` was spawned.
pub fn bind(command: &mut Command, descriptors: Vec<RawFd>, outlives: bool) {
    let parent = nix::unistd::getpid();
    let prepare = move || {
        if !outlives {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // Too late: the parent has died since the fork, and nobody will tell us.
            if nix::unistd::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        for descriptor in &descriptors {
            // SAFETY: fcntl(2) with F_SETFD takes numbers and touches no memory.
            Errno::result(unsafe { libc::fcntl(*descriptor, libc::F_SETFD, 0) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec `prepare` only makes system calls; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

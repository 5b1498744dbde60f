//! Child processes: what they inherit, and whether they outlive us.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::Signal;

/// Marks every descriptor but the standard ones to be closed by the exec, those too that whoever has started us has left open. For
/// a child, before its exec.
///
/// # Errors
/// The system's.
pub fn inherit_nothing() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: close_range(2) takes three numbers; with this flag it closes nothing.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(Errno::result(done).map(drop)?)
}

/// Makes `command`'s process inherit `descriptors` under their numbers, and no others; and die when the thread that starts it does, unless it
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
        inherit_nothing()?;
        for descriptor in &descriptors {
            // SAFETY: fcntl(2) with F_SETFD takes numbers and touches no memory.
            Errno::result(unsafe { libc::fcntl(*descriptor, libc::F_SETFD, 0) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec `prepare` only makes system calls; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

//! Calls that may never come back, for another machine has to answer: a child makes them.

use crate::power;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// A call under way. To be waited for while nothing else reaps children.
pub struct Call {
    pid: Pid,
    /// Readable when it is over.
    over: OwnedFd,
}

impl Call {
    /// Begins one.
    pub fn begin(call: impl FnOnce() -> nix::Result<()>) -> nix::Result<Self> {
        // Children are born in the container's PID namespace, which takes none any more when it has ended.
        let own = File::open("/proc/self/ns/pid").map_err(|_| Errno::ENOENT)?;
        setns(own, CloneFlags::CLONE_NEWPID)?;
        // SAFETY: tether has one thread, so the child may do whatever the parent may.
        match unsafe { fork() }? {
            ForkResult::Child => {
                power::this_is_a_child();
                // All errno values fit.
                std::process::exit(call().err().map_or(0, |errno| errno as i32))
            }
            ForkResult::Parent { child } => Ok(Self { pid: child, over: pidfd(child)? }),
        }
    }

    /// What came of it; none if it is not over by then.
    pub fn wait(&self, patience: Duration) -> Option<nix::Result<()>> {
        let mut wanted = [PollFd::new(self.over.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let _interrupted_or_over = poll(&mut wanted, timeout);
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => None,
            Ok(WaitStatus::Exited(_, 0)) => Some(Ok(())),
            Ok(WaitStatus::Exited(_, errno)) => Some(Err(Errno::from_raw(errno))),
            Ok(_) => Some(Err(Errno::EINTR)),
            Err(errno) => Some(Err(errno)),
        }
    }

    /// Gives it up. A child that the kernel does not let die stays.
    pub fn give_up(self) {
        let _gone = kill(self.pid, Signal::SIGKILL);
        let _stays = self.wait(Duration::from_secs(1));
    }
}

fn pidfd(pid: Pid) -> nix::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(Errno::ESRCH)?;
    let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    fd.map_err(|errno| Errno::from_raw(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_of_a_call() {
        // Where it may not be tried, which needs root.
        let Ok(call) = Call::begin(|| Ok(())) else { return };
        assert_eq!(call.wait(Duration::from_secs(180)), Some(Ok(())));
        let call = Call::begin(|| Err(Errno::ECONNREFUSED)).unwrap();
        assert_eq!(call.wait(Duration::from_secs(180)), Some(Err(Errno::ECONNREFUSED)));
        let call = Call::begin(|| {
            loop {
                nix::unistd::pause();
            }
        })
        .unwrap();
        assert_eq!(call.wait(Duration::from_millis(1)), None);
        call.give_up();
    }
}

//! Starting processes: the container's own, and what runs beside it.

use crate::cgroup::Cgroup;
use crate::failure::{Context, Failure};
use crate::user_namespace::UserNamespace;
use crate::volumes::nfs::{Exports, Silence};
use crate::{check, namespaces, power, sandbox, stdio};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use nix::unistd::{ForkResult, Pid, chroot, fork};
use protocol::oci::{NamespaceKind, Spec};
use protocol::{Exec, ExitStatus, MachineSpec, Seccomp, Stage, oci};
use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The longest report, in bytes: JSON makes at most six of a character, of which a message has 2000, and there is more in
/// a report than the message.
const MAX_REPORT: usize = 32 << 10;

/// A process, and what tether holds of it.
pub struct Process {
    /// Its PID in tether's namespace.
    pub pid: Pid,
    /// Tether's ends of its stdio.
    pub stdio: stdio::Ours,
    /// Whether it has a terminal (which then comes with the first report).
    pub terminal: bool,
    /// Where it reports what happens up to the exec.
    pub reports: Reports,
}

/// Readable when a child has died.
pub type Deaths = SignalFd;

/// What processes beside the container's join.
pub struct Container<'a> {
    /// Its process, not reaped yet.
    pub pid: Pid,
    /// What it was made by.
    pub config: &'a Spec,
    /// Groups that all its processes are in, see [`MachineSpec::groups`].
    pub groups: &'a [String],
    /// Where it is.
    pub cgroup: &'a Cgroup,
    /// What it may call.
    pub seccomp: Option<&'a Seccomp>,
}

/// Forks the container's process. Whether the exec succeeds comes out later, by [`Process::reports`].
pub fn start(
    machine: &MachineSpec,
    stdin: bool,
    cgroup: &Cgroup,
    user: Option<&UserNamespace>,
) -> Result<Process, Failure> {
    let config = &machine.config;
    // While children are in tether's own PID namespace, by whose /proc they are found.
    let made = user.map(|user| user.namespaces(config, cgroup)).transpose()?;
    let owner = user.zip(made.as_deref());
    user.map_or(Ok(()), |user| user.give_cgroup(config, cgroup))?;
    if namespaces::wants(config, NamespaceKind::Pid) {
        unshare(CloneFlags::CLONE_NEWPID).at(Stage::Config, || "making a PID namespace")?;
        if machine.init {
            start_init(cgroup)?;
        }
    }
    spawn(&config.process, stdin, |stdio, reporter| sandbox::enter(machine, cgroup, owner, stdio, reporter))
}

/// Forks a process beside the container's; the same then. It is in the container's PID namespace by that: all of tether's
/// children are, since the namespace was made.
pub fn exec(exec: &Exec, container: &Container<'_>) -> Result<Process, Failure> {
    check::process(&exec.process)?;
    if container.cgroup.is_frozen() {
        let why = "the container is frozen: nothing begins in it until it is thawed";
        return Err(Failure::new(Stage::Run, why));
    }
    let pid = rustix::process::Pid::from_raw(container.pid.as_raw())
        .ok_or_else(|| Failure::new(Stage::Run, "the container has ended"))?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(std::io::Error::from)
        .at(Stage::Config, || "looking for the container's process")?;
    spawn(&exec.process, exec.stdin, |stdio, reporter| sandbox::join(exec, container, pidfd, stdio, reporter))
}

/// Forks a process that becomes what `become_it` makes of it.
fn spawn(
    process: &oci::Process,
    stdin: bool,
    become_it: impl FnOnce(Option<stdio::Theirs>, &Reporter) -> Result<(), Failure>,
) -> Result<Process, Failure> {
    let (ours, theirs) = if process.terminal {
        Default::default() // all comes by the terminal, which the child makes
    } else {
        let (ours, theirs) = stdio::pipes(stdin)?;
        (ours, Some(theirs))
    };
    let (reports, reporter) = reports()?;
    // SAFETY: tether has one thread, so the child may do whatever the parent may.
    match unsafe { fork() }.at(Stage::Config, || "forking a process")? {
        ForkResult::Child => {
            power::this_is_a_child();
            drop((ours, reports));
            if let Err(failure) = become_it(theirs, &reporter) {
                reporter.failed(failure);
            }
            end_child()
        }
        ForkResult::Parent { child } => {
            Ok(Process { pid: child, stdio: ours, terminal: process.terminal, reports })
        }
    }
}

/// Ends a child, whatever its seccomp filter says to that: where the filter refuses exit_group(2), libc's own would try it for ever.
fn end_child() -> ! {
    const FAILURE: libc::c_int = 1;
    // SAFETY: exit_group(2) takes an integer.
    let _refused = unsafe { libc::syscall(libc::SYS_exit_group, FAILURE) };
    // The last that it tries is an instruction that no process may run.
    std::process::abort()
}

/// Lets the deaths of children be polled. To be called before there are any.
pub fn watch_for_deaths() -> Result<Deaths, Failure> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).at(Stage::Config, || "blocking SIGCHLD")?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .at(Stage::Config, || "watching for children's deaths")
}

/// PID 1 of the container's PID namespace, when it is not the process itself: it holds nothing, does
/// nothing, and since it ignores SIGCHLD the kernel reaps orphans at once.
fn start_init(cgroup: &Cgroup) -> Result<(), Failure> {
    // SAFETY: as in `spawn`.
    match unsafe { fork() }.at(Stage::Config, || "forking the container's init")? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => {
            power::this_is_a_child();
            if become_init(cgroup).is_ok() {
                loop {
                    nix::unistd::pause();
                }
            }
            std::process::exit(1)
        }
    }
}

fn become_init(cgroup: &Cgroup) -> Result<(), Failure> {
    cgroup.enter()?;
    // The kernel shall not take it when memory runs out: that would end the container without a word of why.
    std::fs::write("/proc/self/oom_score_adj", "-1000")
        .at(Stage::Config, || "sparing the container's init")?;
    // SAFETY: ignoring a signal installs no handler.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn) }
        .at(Stage::Config, || "ignoring SIGCHLD")?;
    // It shows in the container's /proc/1: nothing of tether's shall be reachable from there.
    chroot("/empty").and_then(|()| nix::unistd::chdir("/")).at(Stage::Config, || "leaving tether's root")?;
    sandbox::close_all_from(0)
}

/// Tether's end of the line on which the child reports until its exec.
pub struct Reports {
    line: OwnedFd,
    /// The child was about to exec.
    at_exec: Cell<bool>,
}

/// What the child says just before its exec, so that the line's end then means success, and otherwise its death.
const AT_EXEC: &[u8] = b"exec";

/// The child's end. It is closed by the exec.
pub struct Reporter(OwnedFd);

/// What a child reports.
pub enum Report {
    /// Nothing yet.
    None,
    /// The terminal's master end.
    Terminal(OwnedFd),
    /// It could not come to the exec, or not through it.
    Failed(Failure),
    /// The exec has succeeded.
    Executed,
    /// It has died on the way there.
    Died,
}

fn reports() -> Result<(Reports, Reporter), Failure> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
        .at(Stage::Config, || "making a socket pair")?;
    Ok((Reports { line: ours, at_exec: Cell::new(false) }, Reporter(theirs)))
}

impl Reporter {
    /// Hands over the terminal's master end.
    pub fn terminal(&self, master: RawFd) -> Result<(), Failure> {
        let fds = [master];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(b"terminal")], &rights, MsgFlags::empty(), None)
            .map(drop)
            .at(Stage::Config, || "handing the terminal over")
    }

    /// Says that the exec comes next.
    pub fn at_exec(&self) -> Result<(), Failure> {
        nix::unistd::write(&self.0, AT_EXEC).map(drop).at(Stage::Config, || "announcing the exec")
    }

    /// To be kept until the exec.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn failed(&self, failure: Failure) {
        // A report is one packet.
        let json = serde_json::to_vec(&failure.brief()).unwrap_or_default();
        let _best_effort = nix::unistd::write(&self.0, &json);
    }
}

impl Reports {
    /// To be polled.
    pub fn fd(&self) -> &OwnedFd {
        &self.line
    }

    /// The next report, without waiting.
    pub fn next(&self) -> Result<Report, Failure> {
        let mut bytes = [0; MAX_REPORT];
        let mut space = nix::cmsg_space!(RawFd);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(self.line.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Err(Errno::EAGAIN) => return Ok(Report::None),
            message => message.at(Stage::Config, || "reading the child's report")?,
        };
        let length = message.bytes;
        let rights =
            message.cmsgs().at(Stage::Config, || "reading the child's report")?.find_map(|control| {
                let ControlMessageOwned::ScmRights(fds) = control else { return None };
                fds.first().copied()
            });
        if let Some(fd) = rights {
            // SAFETY: the kernel has just made this descriptor for us; nothing else knows of it.
            return Ok(Report::Terminal(unsafe { OwnedFd::from_raw_fd(fd) }));
        }
        let report = bytes.get(..length).unwrap_or_default();
        if report.is_empty() {
            return Ok(if self.at_exec.get() { Report::Executed } else { Report::Died });
        }
        if report == AT_EXEC {
            self.at_exec.set(true);
            return self.next();
        }
        let failure = serde_json::from_slice(report);
        Ok(Report::Failed(failure.map_or_else(
            |error| Failure::new(Stage::Config, format!("unreadable report of the child: {error}")),
            Failure,
        )))
    }
}

/// The signals that a process is born with: none blocked, none ignored. (Rust's runtime ignores SIGPIPE, which
/// would be inherited through the exec.)
pub fn reset_signals() -> nix::Result<()> {
    // SAFETY: restoring a default action installs no handler.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) }?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// What [`reap`] found.
pub enum Reaped {
    /// This child was dead, and how it ended.
    Child(Pid, ExitStatus),
    /// Children are left, but none is dead.
    NoneYet,
    /// No child is left.
    NoneLeft,
}

/// Reaps one dead child.
///
/// (nix's own `waitpid` loses the status of a child that a realtime signal has killed.)
pub fn reap() -> nix::Result<Reaped> {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one int to `status`, which outlives the call.
    let pid = match Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) }) {
        Ok(0) => return Ok(Reaped::NoneYet),
        Err(Errno::ECHILD) => return Ok(Reaped::NoneLeft),
        pid => Pid::from_raw(pid?),
    };
    let ended = if libc::WIFSIGNALED(status) {
        ExitStatus::Signal { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
    } else {
        ExitStatus::Code(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
    };
    Ok(Reaped::Child(pid, ended))
}

/// Kills whatever is left in the cgroup, and waits until it is gone; it may wait for servers of `exports`.
pub fn end_all(cgroup: &Cgroup, exports: &Exports) -> Result<(), Failure> {
    cgroup.kill()?;
    if !exports.are_any() {
        // SAFETY: waitpid(2) with no place for the status writes nothing.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0 || Errno::last() == Errno::EINTR {}
    }
    let mut silence = Silence::begins();
    loop {
        match reap() {
            Ok(Reaped::Child(..)) | Err(Errno::EINTR) => {}
            Ok(Reaped::NoneYet) => {
                silence.look(exports)?;
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(Reaped::NoneLeft) | Err(_) => break,
        }
    }
    Ok(())
}

/// Sends a signal, by number: realtime signals have no name.
pub fn signal(pid: Pid, number: i32) -> nix::Result<()> {
    // SAFETY: kill(2) takes two integers.
    Errno::result(unsafe { libc::kill(pid.as_raw(), number) }).map(drop)
}

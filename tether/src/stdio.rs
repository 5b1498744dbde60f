//! The process's stdin, stdout and stderr: three pipes, or one terminal.

use crate::failure::{Context, Failure};
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::pty::{PtyMaster, Winsize, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown, pipe2};
use protocol::Stage::Config;
use protocol::oci::ConsoleSize;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

/// Tether's ends, which never block.
#[derive(Default)]
pub struct Ours {
    /// What the process reads; none if it reads `/dev/null`, or has closed it.
    pub stdin: Option<OwnedFd>,
    /// What it writes; none after its end.
    pub stdout: Option<OwnedFd>,
    /// What it writes to stderr; none after its end, or with a terminal.
    pub stderr: Option<OwnedFd>,
}

/// The process's ends.
pub struct Theirs([OwnedFd; 3]);

/// Makes the pipes. Without `stdin` the process reads `/dev/null`.
pub fn pipes(stdin: bool) -> Result<(Ours, Theirs), Failure> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).at(Config, || "making a pipe");
    let (stdout_read, stdout_write) = pipe()?;
    let (stderr_read, stderr_write) = pipe()?;
    let (stdin_read, stdin_write) = if stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        let null = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        (null.at(Config, || "opening /dev/null")?, None)
    };
    let ours = Ours { stdin: stdin_write, stdout: Some(stdout_read), stderr: Some(stderr_read) };
    for fd in [&ours.stdin, &ours.stdout, &ours.stderr].into_iter().flatten() {
        never_block(fd)?;
    }
    Ok((ours, Theirs([stdin_read, stdout_write, stderr_write])))
}

/// Makes reads and writes of this end return instead of waiting. The other end is not touched.
pub fn never_block(fd: &OwnedFd) -> Result<(), Failure> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop).at(Config, || "making a pipe non-blocking")
}

impl Theirs {
    /// To be kept until they are installed.
    pub fn fds(&self) -> [RawFd; 3] {
        self.0.each_ref().map(AsRawFd::as_raw_fd)
    }

    /// Puts the pipes to 0, 1 and 2, owned by `user`, so that it may open `/dev/stdout` and the like.
    pub fn install(self, user: Uid) -> Result<(), Failure> {
        let Self([stdin, stdout, stderr]) = self;
        for end in [&stdin, &stdout, &stderr] {
            let kind = fstat(end).at(Config, || "looking at a pipe")?.st_mode & SFlag::S_IFMT.bits();
            if kind == SFlag::S_IFIFO.bits() {
                fchown(end, Some(user), None).at(Config, || "giving the pipes to the user")?;
            }
        }
        install(&stdin, &stdout, &stderr)
    }
}

fn install(stdin: impl AsFd, stdout: impl AsFd, stderr: impl AsFd) -> Result<(), Failure> {
    dup2_stdin(stdin).at(Config, || "installing stdin")?;
    dup2_stdout(stdout).at(Config, || "installing stdout")?;
    dup2_stderr(stderr).at(Config, || "installing stderr")
}

/// Makes a terminal from the container's own `/dev/pts`, makes it the controlling one and puts it to 0, 1
/// and 2, and to `/dev/console` if it is the container's. Returns the master end. The caller leads a session without a
/// terminal.
pub fn install_terminal(size: Option<ConsoleSize>, user: Uid, console: bool) -> Result<PtyMaster, Failure> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .at(Config, || "opening /dev/ptmx for process.terminal")?;
    grantpt(&master).at(Config, || "granting the terminal")?;
    unlockpt(&master).at(Config, || "unlocking the terminal")?;
    if let Some(size) = size {
        resize(&master, size).at(Config, || "setting process.consoleSize")?;
    }
    let name = ptsname_r(&master).at(Config, || "naming the terminal")?;
    let slave = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NOCTTY.bits())
        .open(&name)
        .at(Config, || format!("opening {name}"))?;
    fchown(&slave, Some(user), None).at(Config, || format!("giving {name} to the user"))?;
    // SAFETY: TIOCSCTTY takes an open terminal and an integer (ioctl_tty(2)).
    let result = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) };
    nix::errno::Errno::result(result).at(Config, || format!("making {name} the controlling terminal"))?;
    if console {
        // The runtime-spec: /dev/console is the terminal, if there is one (config-linux.md, default devices).
        std::fs::write("/dev/console", "").at(Config, || "making /dev/console")?;
        mount(Some(name.as_str()), "/dev/console", None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .at(Config, || format!("mounting {name} on /dev/console"))?;
    }
    install(&slave, &slave, &slave)?;
    Ok(master)
}

/// Tells a terminal, by either end, its size.
pub fn resize(terminal: &impl AsFd, size: ConsoleSize) -> nix::Result<()> {
    let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize (ioctl_tty(2)), which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &size) };
    nix::errno::Errno::result(result).map(drop)
}

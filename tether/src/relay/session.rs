//! A session: one process, and the streams between it and the channel.
//!
//! Bytes go from the process to the channel and back as far as the other side gives credit; a pipe that has
//! none is not looked at, so the process feels back-pressure.

use super::poller::{Part, Poller, Source};
use crate::channel::SESSION;
use crate::failure::{Context, Failure};
use crate::process::{self, Process, Report};
use crate::{kernel_log, stdio};
use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::EpollFlags;
use nix::unistd::{Pid, read, write};
use protocol::oci::ConsoleSize;
use protocol::{ExitStatus, GuestLink, Stage, Stream};

/// How far the process is.
#[derive(Clone, Copy, PartialEq)]
pub enum Phase {
    /// Forked; the exec has not happened yet.
    Starting,
    Running,
    /// Dead, which the host is to be told of.
    Dead(ExitStatus),
    /// The host was told how it ended, or why it could not start.
    Reported,
}

/// What a process has come to.
pub enum News {
    None,
    /// Its exec has succeeded.
    Executed,
    /// It could not come to it.
    Failed(Failure),
}

/// One process, and tether's ends of its streams.
pub struct Session {
    pub id: u32,
    pub phase: Phase,
    process: Process,
    /// Its PID was given back to the kernel, and may be another's now.
    reaped: bool,
}

impl Session {
    pub fn new(id: u32, process: Process, link: &mut GuestLink) -> Self {
        if process.terminal {
            link.end(id, Stream::Stderr);
        }
        Self { id, phase: Phase::Starting, process, reaped: false }
    }

    /// Whether this is its process, unless that was reaped.
    pub fn is(&self, pid: Pid) -> bool {
        self.process.pid == pid && !self.reaped
    }

    /// The process, unless it is dead and reaped.
    pub fn pid(&self) -> Option<Pid> {
        (!self.reaped).then_some(self.process.pid)
    }

    /// Tells epoll what to look for: only what could be used now.
    pub fn look(&self, link: &GuestLink, poller: &mut Poller) -> Result<(), Failure> {
        let (id, stdio) = (self.id, &self.process.stdio);
        let when = |condition, flags| if condition { flags } else { EpollFlags::empty() };
        let (input, output) = (EpollFlags::EPOLLIN, EpollFlags::EPOLLOUT);
        let starting = self.phase == Phase::Starting;
        poller.look(Source::Of(id, Part::Reports), self.process.reports.fd(), when(starting, input))?;
        for (stream, fd) in [(Stream::Stdout, &stdio.stdout), (Stream::Stderr, &stdio.stderr)] {
            if let Some(fd) = fd {
                poller.look(Source::Of(id, stream.into()), fd, when(link.room(id, stream) > 0, input))?;
            }
        }
        if let Some(fd) = &stdio.stdin {
            let waiting = !link.pending(id, Stream::Stdin).is_empty();
            poller.look(Source::Of(id, Part::Stdin), fd, when(waiting, output))?;
        }
        Ok(())
    }

    /// Does what can be done now on one of its lines, but for the reports.
    pub fn serve(&mut self, part: Part, link: &mut GuestLink, poller: &mut Poller) -> Result<(), Failure> {
        match part {
            Part::Reports => Ok(()),
            Part::Stdin => self.write_stdin(link),
            Part::Stdout => self.read_output(Stream::Stdout, false, link, poller),
            Part::Stderr => self.read_output(Stream::Stderr, false, link, poller),
        }
    }

    /// What the process has come to on its way to the exec.
    pub fn news(&mut self) -> Result<News, Failure> {
        while self.phase == Phase::Starting {
            match self.process.reports.next()? {
                Report::None => break,
                Report::Failed(failure) => return Ok(News::Failed(failure)),
                Report::Died => {
                    let why = if kernel_log::out_of_memory(self.process.pid.as_raw()) {
                        "memory ran out before the command could be executed; more can be given with -m"
                    } else {
                        "the process died before the command could be executed"
                    };
                    return Ok(News::Failed(Failure::new(Stage::Config, why)));
                }
                Report::Terminal(master) => {
                    stdio::never_block(&master)?;
                    let input = master.try_clone().at(Stage::Config, || "duplicating the terminal")?;
                    self.process.stdio.stdin = Some(input);
                    self.process.stdio.stdout = Some(master);
                }
                Report::Executed => {
                    self.phase = Phase::Running;
                    return Ok(News::Executed);
                }
            }
        }
        Ok(News::None)
    }

    /// The process is dead and reaped.
    pub fn died(&mut self, status: ExitStatus) {
        self.reaped = true;
        if self.phase != Phase::Reported {
            self.phase = Phase::Dead(status);
        }
    }

    /// How the dead process ended, if that is not the whole truth: the kernel may have killed it for want of memory.
    pub fn cause(&self, status: ExitStatus) -> ExitStatus {
        let by_sigkill = status == ExitStatus::Signal { signal: libc::SIGKILL, core: false };
        let out_of_memory = by_sigkill && kernel_log::out_of_memory(self.process.pid.as_raw());
        if out_of_memory { ExitStatus::Oom } else { status }
    }

    /// Whether all its output has been read.
    pub fn is_drained(&self) -> bool {
        self.process.stdio.stdout.is_none() && self.process.stdio.stderr.is_none()
    }

    /// How many bytes of an output have been written by now: those that were read, and those in the pipe. Of a terminal nobody
    /// can tell: what was written to it comes out a little later.
    pub fn written(&self, stream: Stream, link: &GuestLink) -> u64 {
        let fd =
            if stream == Stream::Stderr { &self.process.stdio.stderr } else { &self.process.stdio.stdout };
        match fd {
            Some(_) if self.process.terminal => u64::MAX,
            Some(fd) => link.position(self.id, stream) + rustix::io::ioctl_fionread(fd).unwrap_or(0),
            None => link.position(self.id, stream),
        }
    }

    pub fn signal(&self, number: i32) -> Result<(), Failure> {
        let Some(pid) = self.pid().filter(|_| matches!(self.phase, Phase::Starting | Phase::Running)) else {
            return Ok(());
        };
        match process::signal(pid, number) {
            Ok(()) | Err(Errno::ESRCH | Errno::EINVAL) => Ok(()),
            Err(errno) => Err(Failure::system(Stage::Run, format!("sending signal {number}"), errno)),
        }
    }

    pub fn resize(&self, size: ConsoleSize) -> Result<(), Failure> {
        match &self.process.stdio.stdout {
            Some(terminal) if self.process.terminal => {
                stdio::resize(terminal, size).at(Stage::Run, || "resizing the terminal")
            }
            _ => Ok(()),
        }
    }

    fn read_output(
        &mut self,
        stream: Stream,
        last: bool,
        link: &mut GuestLink,
        poller: &mut Poller,
    ) -> Result<(), Failure> {
        let fd = match stream {
            Stream::Stderr => &mut self.process.stdio.stderr,
            _ => &mut self.process.stdio.stdout,
        };
        let Some(open) = fd.as_ref() else { return Ok(()) };
        let ended = match link.fill(self.id, stream, |room| read(open, room)) {
            // A terminal whose other end is closed everywhere reads as EIO.
            Ok(Some(0)) | Err(Errno::EIO) => true,
            // Nobody is left to write, whatever still holds the other end (a message on its way in a socket may).
            Err(Errno::EAGAIN) => last,
            Ok(_) | Err(Errno::EINTR) => false,
            Err(errno) => return Err(Failure::system(Stage::Run, format!("reading {stream:?}"), errno)),
        };
        if ended {
            link.end(self.id, stream);
            poller.forget(Source::Of(self.id, stream.into()), fd)?;
        }
        Ok(())
    }

    /// Reads what there is still, when no process is left that could write.
    pub fn read_the_last(&mut self, link: &mut GuestLink, poller: &mut Poller) -> Result<(), Failure> {
        self.read_output(Stream::Stdout, true, link, poller)?;
        self.read_output(Stream::Stderr, true, link, poller)
    }

    fn write_stdin(&mut self, link: &mut GuestLink) -> Result<(), Failure> {
        let Some(fd) = &self.process.stdio.stdin else { return Ok(()) };
        match write(fd, link.pending(self.id, Stream::Stdin)) {
            Ok(count) => link.consume(self.id, Stream::Stdin, count),
            Err(Errno::EPIPE | Errno::EIO) => link.stop(self.id, Stream::Stdin),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(Failure::system(Stage::Run, "writing stdin", errno)),
        }
        Ok(())
    }

    /// Closes pipes that have come to their end, or that the host reads no more.
    pub fn close_what_is_done(&mut self, link: &mut GuestLink, poller: &mut Poller) -> Result<(), Failure> {
        let id = self.id;
        if id != SESSION && self.phase == Phase::Reported && self.is_drained() {
            link.stop(id, Stream::Stdin); // nobody is left to read it
        }
        let stdio = &mut self.process.stdio;
        if link.finished(id, Stream::Stdin)
            && let Some(fd) = &stdio.stdin
        {
            if self.process.terminal {
                const END_OF_FILE: &[u8] = &[4]; // ^D, the only way to end a terminal's input
                let _best_effort = write(fd, END_OF_FILE);
            }
            poller.forget(Source::Of(id, Part::Stdin), &mut stdio.stdin)?;
        }
        for (stream, fd) in [(Stream::Stdout, &mut stdio.stdout), (Stream::Stderr, &mut stdio.stderr)] {
            if link.unwanted(id, stream) && fd.is_some() {
                link.end(id, stream);
                poller.forget(Source::Of(id, stream.into()), fd)?;
            }
        }
        Ok(())
    }

    /// Lets go of all that it holds, and kills the process: nobody wants anything of it any more.
    pub fn abandon(&mut self, link: &mut GuestLink, poller: &mut Poller) -> Result<(), Failure> {
        if let Some(pid) = self.pid() {
            let _gone = process::signal(pid, libc::SIGKILL);
        }
        self.phase = Phase::Reported;
        hang_up(link, self.id);
        let (id, stdio) = (self.id, &mut self.process.stdio);
        poller.look(Source::Of(id, Part::Reports), self.process.reports.fd(), EpollFlags::empty())?;
        poller.forget(Source::Of(id, Part::Stdin), &mut stdio.stdin)?;
        poller.forget(Source::Of(id, Part::Stdout), &mut stdio.stdout)?;
        poller.forget(Source::Of(id, Part::Stderr), &mut stdio.stderr)
    }
}

/// Ends a session's streams.
pub fn hang_up(link: &mut GuestLink, session: u32) {
    link.stop(session, Stream::Stdin);
    link.end(session, Stream::Stdout);
    link.end(session, Stream::Stderr);
}

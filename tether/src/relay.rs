//! While the process runs: the one epoll loop.
//!
//! Bytes go from the process to the channel and back as far as the other side gives credit; a pipe that has
//! none is not looked at, so the process feels back-pressure. Dead children are reaped the moment they die. When the
//! process is gone, what is left in its cgroup is killed, its output is sent to the end, and then how it ended; the host's
//! acknowledgement of that ends the loop.

use crate::cgroup::Cgroup;
use crate::channel::{Channel, SESSION};
use crate::failure::{Context, Failure};
use crate::kernel_log;
use crate::process::{self, Process, Reaped, Report};
use crate::stdio;
use crate::timeline::Timeline;
use crate::verity::Verity;
use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{read, write};
use protocol::oci::ConsoleSize;
use protocol::{ExitStatus, Stage, Stream, ToGuest, ToHost};
use std::os::fd::{AsFd, OwnedFd};

/// Runs until the host has acknowledged the process's end.
pub fn run(
    channel: &mut Channel,
    process: Process,
    cgroup: &Cgroup,
    verity: &mut Option<Verity>,
    timeline: &mut Timeline,
) -> Result<(), Failure> {
    let poller = Poller::new()?;
    let mut relay = Relay {
        channel,
        process,
        cgroup,
        verity,
        timeline,
        poller,
        phase: Phase::Starting,
        childless: false,
    };
    if relay.process.terminal {
        // Everything comes by the terminal, which the child makes; these pipes are not used.
        relay.process.stdio = stdio::Ours { stdin: None, stdout: None, stderr: None };
        relay.channel.link.end(SESSION, Stream::Stderr);
    }
    while relay.phase != Phase::Acknowledged {
        relay.turn()?;
    }
    Ok(())
}

/// How far the process is.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Forked; the exec has not happened yet.
    Starting,
    Running,
    /// Dead, but its output may not be sent yet.
    Dead(ExitStatus),
    /// The exit report is sent.
    Reported,
    /// The host has it.
    Acknowledged,
}

struct Relay<'a> {
    channel: &'a mut Channel,
    process: Process,
    cgroup: &'a Cgroup,
    verity: &'a mut Option<Verity>,
    timeline: &'a mut Timeline,
    poller: Poller,
    phase: Phase,
    /// No process is left but tether.
    childless: bool,
}

impl Relay<'_> {
    fn turn(&mut self) -> Result<(), Failure> {
        self.channel.flush()?;
        self.look_for_events()?;
        for source in self.poller.wait()? {
            match source {
                Source::Channel => self.channel.receive()?,
                Source::Reports => self.take_report()?,
                Source::Deaths => self.reap()?,
                Source::Stdout => self.read_output(Stream::Stdout)?,
                Source::Stderr => self.read_output(Stream::Stderr)?,
                Source::Stdin => self.write_stdin()?,
                Source::Damage => self.tell_damage()?,
            }
        }
        while let Some(message) = self.channel.message()? {
            self.obey(message)?;
        }
        self.close_what_is_done()?;
        if self.childless {
            self.read_output(Stream::Stdout)?;
            self.read_output(Stream::Stderr)?;
        }
        self.report_exit()
    }

    /// Tells epoll what to look for: only what could be used now.
    fn look_for_events(&mut self) -> Result<(), Failure> {
        let link = &self.channel.link;
        let stdio = &self.process.stdio;
        let when = |condition, flags| if condition { flags } else { EpollFlags::empty() };
        let (input, output) = (EpollFlags::EPOLLIN, EpollFlags::EPOLLOUT);
        let poller = &mut self.poller;
        // A port that nobody has the other end of is told of again and again; we want to know when somebody has.
        let away = when(self.channel.deserted, EpollFlags::EPOLLET);
        let writing = when(!link.output().is_empty(), output);
        poller.look(Source::Channel, &self.channel.fd(), input | writing | away)?;
        poller.look(Source::Deaths, &self.process.deaths, input)?;
        poller.look(
            Source::Reports,
            self.process.reports.fd(),
            when(self.phase == Phase::Starting, input),
        )?;
        if let Some(verity) = &*self.verity {
            poller.look(Source::Damage, &verity.fd(), input)?;
        }
        for (source, stream, fd) in
            [(Source::Stdout, Stream::Stdout, &stdio.stdout), (Source::Stderr, Stream::Stderr, &stdio.stderr)]
        {
            if let Some(fd) = fd {
                poller.look(source, fd, when(link.room(SESSION, stream) > 0, input))?;
            }
        }
        if let Some(fd) = &stdio.stdin {
            poller.look(Source::Stdin, fd, when(!link.pending(SESSION, Stream::Stdin).is_empty(), output))?;
        }
        Ok(())
    }

    fn obey(&mut self, message: ToGuest) -> Result<(), Failure> {
        let running = matches!(self.phase, Phase::Starting | Phase::Running);
        match message {
            ToGuest::Signal(number) if running => match process::signal(self.process.pid, number) {
                Ok(()) | Err(Errno::ESRCH | Errno::EINVAL) => Ok(()),
                Err(errno) => Err(Failure::system(Stage::Run, format!("sending signal {number}"), errno)),
            },
            ToGuest::Resize { height, width } if self.process.terminal => {
                if let Some(terminal) = &self.process.stdio.stdout {
                    stdio::resize(terminal, ConsoleSize { height, width })
                        .at(Stage::Run, || "resizing the terminal")?;
                }
                Ok(())
            }
            ToGuest::Signal(_) | ToGuest::Resize { .. } => Ok(()),
            ToGuest::Acknowledged if self.phase == Phase::Reported => {
                self.phase = Phase::Acknowledged;
                Ok(())
            }
            ToGuest::Acknowledged | ToGuest::Start(_) => Err(Failure::new(
                Stage::Run,
                format!("the host's message came at the wrong time: {message:?}"),
            )),
        }
    }

    fn take_report(&mut self) -> Result<(), Failure> {
        while self.phase == Phase::Starting {
            match self.process.reports.next()? {
                Report::None => break,
                Report::Failed(failure) => return Err(failure),
                Report::Died => {
                    let why = if kernel_log::out_of_memory(self.process.pid.as_raw()) {
                        "memory ran out before the command could be executed; more can be given with -m"
                    } else {
                        "the process died before the command could be executed"
                    };
                    return Err(Failure::new(Stage::Config, why));
                }
                Report::Terminal(master) => {
                    stdio::never_block(&master)?;
                    let input = master.try_clone().at(Stage::Config, || "duplicating the terminal")?;
                    self.process.stdio.stdin = Some(input);
                    self.process.stdio.stdout = Some(master);
                }
                Report::Executed => {
                    self.phase = Phase::Running;
                    let timeline = self.timeline.take("exec");
                    self.channel.send(&ToHost::Started { timeline })?;
                }
            }
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<(), Failure> {
        let _drained = self.process.deaths.read_signal();
        loop {
            match process::reap().at(Stage::Run, || "waiting for children")? {
                Reaped::Child(pid, status) if pid == self.process.pid => self.process_died(status)?,
                Reaped::Child(..) => {}
                Reaped::NoneYet => return Ok(()),
                Reaped::NoneLeft => {
                    self.childless = true;
                    return Ok(());
                }
            }
        }
    }

    fn process_died(&mut self, status: ExitStatus) -> Result<(), Failure> {
        self.take_report()?;
        self.timeline.step("exit");
        self.phase = Phase::Dead(status);
        self.cgroup.kill()
    }

    fn read_output(&mut self, stream: Stream) -> Result<(), Failure> {
        let fd = match stream {
            Stream::Stderr => &mut self.process.stdio.stderr,
            _ => &mut self.process.stdio.stdout,
        };
        let Some(open) = fd.as_ref() else { return Ok(()) };
        match self.channel.link.fill(SESSION, stream, |room| read(open, room)) {
            // A terminal whose other end is closed everywhere reads as EIO.
            Ok(Some(0)) | Err(Errno::EIO) => {
                self.channel.link.end(SESSION, stream);
                self.poller.forget(Source::of(stream), fd)
            }
            // Nobody is left to write, whatever still holds the other end (a message on its way in a socket may).
            Err(Errno::EAGAIN) if self.childless => {
                self.channel.link.end(SESSION, stream);
                self.poller.forget(Source::of(stream), fd)
            }
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(errno) => Err(Failure::system(Stage::Run, format!("reading {stream:?}"), errno)),
        }
    }

    fn write_stdin(&mut self) -> Result<(), Failure> {
        let Some(fd) = &self.process.stdio.stdin else { return Ok(()) };
        match write(fd, self.channel.link.pending(SESSION, Stream::Stdin)) {
            Ok(count) => self.channel.link.consume(SESSION, Stream::Stdin, count),
            Err(Errno::EPIPE | Errno::EIO) => self.channel.link.stop(SESSION, Stream::Stdin),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(Failure::system(Stage::Run, "writing stdin", errno)),
        }
        Ok(())
    }

    /// Closes pipes that have come to their end, or that the host reads no more.
    fn close_what_is_done(&mut self) -> Result<(), Failure> {
        let (link, stdio) = (&mut self.channel.link, &mut self.process.stdio);
        if link.finished(SESSION, Stream::Stdin)
            && let Some(fd) = &stdio.stdin
        {
            if self.process.terminal {
                const END_OF_FILE: &[u8] = &[4]; // ^D, the only way to end a terminal's input
                let _best_effort = write(fd, END_OF_FILE);
            }
            self.poller.forget(Source::Stdin, &mut stdio.stdin)?;
        }
        for (stream, fd) in [(Stream::Stdout, &mut stdio.stdout), (Stream::Stderr, &mut stdio.stderr)] {
            if link.unwanted(SESSION, stream) && fd.is_some() {
                link.end(SESSION, stream);
                self.poller.forget(Source::of(stream), fd)?;
            }
        }
        Ok(())
    }

    fn tell_damage(&mut self) -> Result<(), Failure> {
        self.verity.as_mut().map_or(Ok(()), |verity| verity.tell(self.channel))
    }

    /// Once the process is dead and all its output has been sent, says how it ended.
    fn report_exit(&mut self) -> Result<(), Failure> {
        let Phase::Dead(status) = self.phase else { return Ok(()) };
        if self.process.stdio.stdout.is_some() || self.process.stdio.stderr.is_some() {
            return Ok(());
        }
        self.phase = Phase::Reported;
        self.tell_damage()?;
        let by_sigkill = status == ExitStatus::Signal { signal: libc::SIGKILL, core: false };
        let out_of_memory = by_sigkill && kernel_log::out_of_memory(self.process.pid.as_raw());
        let status = if out_of_memory { ExitStatus::Oom } else { status };
        let peak_rss = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().cast_unsigned());
        self.channel.send(&ToHost::Exited { status, timeline: self.timeline.take("drained"), peak_rss })
    }
}

/// What epoll looks at.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(usize)]
enum Source {
    Channel,
    Reports,
    Deaths,
    Stdin,
    Stdout,
    Stderr,
    Damage,
}

impl Source {
    const ALL: [Self; 7] =
        [Self::Channel, Self::Reports, Self::Deaths, Self::Stdin, Self::Stdout, Self::Stderr, Self::Damage];

    fn of(stream: Stream) -> Self {
        match stream {
            Stream::Stdin => Self::Stdin,
            Stream::Stdout => Self::Stdout,
            Stream::Stderr => Self::Stderr,
        }
    }
}

/// epoll, and what it was told last about each source.
struct Poller {
    epoll: Epoll,
    looking: [EpollFlags; Source::ALL.len()],
}

impl Poller {
    fn new() -> Result<Self, Failure> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).at(Stage::Run, || "making an epoll")?;
        Ok(Self { epoll, looking: [EpollFlags::empty(); Source::ALL.len()] })
    }

    /// Looks for these events of a source. With none it is left out altogether: epoll tells of a hang-up
    /// even when nobody asks, again and again.
    fn look(&mut self, source: Source, fd: &impl AsFd, wanted: EpollFlags) -> Result<(), Failure> {
        let Some(now) = self.looking.get_mut(source as usize) else { return Ok(()) };
        let mut event = EpollEvent::new(wanted, source as u64);
        let result = match (now.is_empty(), wanted.is_empty()) {
            _ if *now == wanted => return Ok(()),
            (true, _) => self.epoll.add(fd, event),
            (false, true) => self.epoll.delete(fd),
            (false, false) => self.epoll.modify(fd, &mut event),
        };
        *now = wanted;
        result.at(Stage::Run, || format!("polling {source:?}"))
    }

    /// Closes a source's descriptor. (Closing alone does not take it out of the epoll where it has a duplicate,
    /// as a terminal's has.)
    fn forget(&mut self, source: Source, fd: &mut Option<OwnedFd>) -> Result<(), Failure> {
        match fd.take() {
            Some(fd) => self.look(source, &fd, EpollFlags::empty()),
            None => Ok(()),
        }
    }

    fn wait(&self) -> Result<Vec<Source>, Failure> {
        let mut events = [EpollEvent::empty(); Source::ALL.len()];
        let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            count => count.at(Stage::Run, || "waiting for events")?,
        };
        let ready = events.iter().take(count).map(EpollEvent::data);
        Ok(ready.filter_map(|data| Source::ALL.into_iter().find(|source| *source as u64 == data)).collect())
    }
}

//! While the container runs: the one epoll loop.
//!
//! It serves the [sessions](session): the container's process, and what the host runs beside it. Dead children are reaped
//! the moment they die. How an exec's process ended is said at once. When the container's own is gone, what is left in its
//! cgroup and in the sessions is killed and reported, its output is sent to the end, and then how it ended; the host's
//! acknowledgement of that ends the loop.

mod poller;
mod session;

use crate::boot;
use crate::cgroup::Cgroup;
use crate::channel::{Channel, SESSION};
use crate::entropy;
use crate::failure::{Context, Failure};
use crate::kernel_log::{KernelLog, Victim};
use crate::network::Network;
use crate::process::{self, Container, Deaths, Process, Reaped};
use crate::statistics;
use crate::timeline::{self, Timeline};
use crate::verity::Verity;
use crate::volumes::nfs::{Exports, Silence};
use nix::libc;
use nix::sys::epoll::EpollFlags;
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::Pid;
use poller::{Part, Poller, Source};
use protocol::oci::ConsoleSize;
use protocol::{Exec, ExitStatus, MachineSpec, Report, Stage, Stream, ToGuest, ToHost};
use session::{News, Phase, Session};
use std::time::{Duration, Instant};

pub use session::hang_up;

/// While the host has not taken this many bytes of what it was told, it is not obeyed: answers would pile up.
const UNHEARD: usize = 64 << 10;
/// How long the container has run when the initramfs is emptied. It takes a quarter of what the start takes, which whoever
/// waits for a short run need not wait for.
const SETTLED: Duration = Duration::from_secs(1);
/// What comes of a process that was killed.
const KILLED: ExitStatus = ExitStatus::Signal { signal: libc::SIGKILL, core: false };

/// What the relay works with.
pub struct Relay<'a> {
    channel: &'a mut Channel,
    machine: &'a MachineSpec,
    cgroup: &'a Cgroup,
    verity: &'a mut Option<Verity>,
    network: Option<&'a mut Network>,
    exports: Option<&'a Exports>,
    /// Since the container was to die, where it may wait for servers.
    silence: Option<Silence>,
    timeline: &'a mut Timeline,
    deaths: Deaths,
    kernel_log: Option<KernelLog>,
    poller: Poller,
    /// When to empty the initramfs, if that is still to be done.
    tidy: Option<Instant>,
    /// The container's is the first.
    sessions: Vec<Session>,
    /// The container's process is dead.
    ended: bool,
    /// The host knows how.
    acknowledged: bool,
    /// No process is left but tether.
    childless: bool,
}

impl<'a> Relay<'a> {
    /// Will serve the container's process.
    pub fn new(
        channel: &'a mut Channel,
        machine: &'a MachineSpec,
        cgroup: &'a Cgroup,
        verity: &'a mut Option<Verity>,
        timeline: &'a mut Timeline,
        deaths: Deaths,
        process: Process,
    ) -> Result<Self, Failure> {
        let sessions = vec![Session::new(SESSION, process, &mut channel.link)];
        Ok(Self {
            channel,
            machine,
            cgroup,
            verity,
            network: None,
            exports: None,
            silence: None,
            timeline,
            deaths,
            kernel_log: KernelLog::from_now(),
            poller: Poller::new()?,
            tidy: None,
            sessions,
            ended: false,
            acknowledged: false,
            childless: false,
        })
    }

    /// And what the network is told: leases, and what routers say.
    pub fn with_network(self, network: &'a mut Network) -> Self {
        Self { network: Some(network), ..self }
    }

    /// And the folders of servers.
    pub fn with_exports(self, exports: &'a Exports) -> Self {
        Self { exports: Some(exports).filter(|exports| exports.are_any()), ..self }
    }

    /// Runs until the host has acknowledged the end of the container's process.
    pub fn run(mut self) -> Result<(), Failure> {
        while !self.acknowledged {
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), Failure> {
        self.channel.turn()?;
        self.look_for_events()?;
        let silence = self.silence.as_ref().map(Silence::due);
        let due = self.channel.due().into_iter().chain(self.tidy).chain(silence).min();
        for source in self.poller.wait(due)? {
            match source {
                Source::Channel => self.channel.receive()?,
                Source::Deaths => self.reap()?,
                Source::Damage => self.tell_damage()?,
                Source::Leases | Source::Routers => {
                    self.network.iter_mut().for_each(|network| network.serve(self.machine));
                }
                Source::KernelLog => self.tell_victims()?,
                Source::Of(id, part) => self.serve(id, part)?,
            }
        }
        if self.tidy.take_if(|tidy| *tidy <= Instant::now()).is_some() {
            boot::empty_the_initramfs();
        }
        self.end_silence()?;
        while !self.acknowledged
            && self.channel.link.unheard() < UNHEARD
            && let Some(message) = self.channel.message()?
        {
            self.obey(message)?;
        }
        self.forget_closed_sessions()?;
        for at in 0..self.sessions.len() {
            self.try_with(at, |session, channel, poller| {
                session.close_what_is_done(&mut channel.link, poller)
            })?;
            if self.childless {
                self.try_with(at, |session, channel, poller| {
                    session.read_the_last(&mut channel.link, poller)
                })?;
            }
        }
        self.report_exit()
    }

    fn look_for_events(&mut self) -> Result<(), Failure> {
        let when = |condition, flags| if condition { flags } else { EpollFlags::empty() };
        let (input, output) = (EpollFlags::EPOLLIN, EpollFlags::EPOLLOUT);
        let poller = &mut self.poller;
        // A port that nobody has the other end of is told of again and again; we want to know when somebody has.
        let away = when(self.channel.deserted, EpollFlags::EPOLLET);
        let writing = when(self.channel.is_sending(), output);
        if self.channel.is_renewed() {
            poller.lost(Source::Channel);
        }
        if let Some(fd) = self.channel.fd() {
            poller.look(Source::Channel, &fd, input | writing | away)?;
        }
        poller.look(Source::Deaths, &self.deaths, input)?;
        if let Some(verity) = &*self.verity {
            poller.look(Source::Damage, &verity.fd(), input)?;
        }
        if let Some(network) = &self.network {
            for (source, fd) in [(Source::Leases, network.leases()), (Source::Routers, network.routers())] {
                fd.map_or(Ok(()), |fd| poller.look(source, &fd, input))?;
            }
        }
        if let Some(log) = &self.kernel_log {
            poller.look(Source::KernelLog, log.fd(), input)?;
        }
        self.sessions.iter().try_for_each(|session| session.look(&self.channel.link, poller))
    }

    /// Does something with a session. What fails in an exec's is no more than that session's failure.
    fn try_with(
        &mut self,
        at: usize,
        what: impl FnOnce(&mut Session, &mut Channel, &mut Poller) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Some(session) = self.sessions.get_mut(at) else { return Ok(()) };
        match what(session, self.channel, &mut self.poller) {
            Err(failure) if session.id != SESSION => self.fail(at, failure),
            result => result,
        }
    }

    /// The place of a session.
    fn place(&self, id: u32) -> Option<usize> {
        self.sessions.iter().position(|session| session.id == id)
    }

    fn serve(&mut self, id: u32, part: Part) -> Result<(), Failure> {
        match self.place(id) {
            Some(at) if part == Part::Reports => self.take_news(at),
            Some(at) => {
                self.try_with(at, |session, channel, poller| session.serve(part, &mut channel.link, poller))
            }
            None => Ok(()), // it is gone since the event
        }
    }

    fn obey(&mut self, message: ToGuest) -> Result<(), Failure> {
        match message {
            ToGuest::Exec(exec) => self.exec(&exec),
            ToGuest::Signal { session, signal } => match self.place(session) {
                Some(at) => {
                    if (session, signal) == (SESSION, libc::SIGKILL) {
                        self.is_to_die();
                    }
                    self.try_with(at, |session, _, _| session.signal(signal))
                }
                None => Ok(()),
            },
            ToGuest::Resize { session, height, width } => match self.place(session) {
                Some(at) => self.try_with(at, |session, _, _| session.resize(ConsoleSize { height, width })),
                None => Ok(()),
            },
            ToGuest::Clock(nanos) => {
                let _impossible_time = timeline::set_clock(nanos);
                Ok(())
            }
            ToGuest::Stats => self.channel.send(&ToHost::Stats(statistics::read(self.cgroup))),
            ToGuest::Seed(seed) => {
                let _as_it_was = entropy::mix_in(&seed);
                Ok(())
            }
            ToGuest::Acknowledged if self.is_reported() => {
                self.acknowledged = true;
                Ok(())
            }
            ToGuest::Acknowledged | ToGuest::Start(_) => {
                Err(Failure::new(Stage::Run, "the host's start or acknowledgement came at the wrong time"))
            }
        }
    }

    /// Whether the host was told how the container ended.
    fn is_reported(&self) -> bool {
        self.sessions.first().is_some_and(|session| session.phase == Phase::Reported)
    }

    fn exec(&mut self, exec: &Exec) -> Result<(), Failure> {
        let id = exec.session;
        if !self.channel.link.is_open(id) || self.place(id).is_some() {
            let why = if id == SESSION || self.place(id).is_some() { "has a process" } else { "is not open" };
            let report = Report::Failed(Failure::new(Stage::Run, format!("session {id} {why}")).brief());
            return self.channel.send(&ToHost::Exec { session: id, report });
        }
        let container = self.sessions.first().filter(|_| !self.ended);
        let Some((phase, pid)) = container.and_then(|session| Some((session.phase, session.pid()?))) else {
            return self.channel.refuse(id, Failure::new(Stage::Run, "the container has ended"));
        };
        if phase == Phase::Starting {
            return self.channel.refuse(id, Failure::new(Stage::Run, "the container does not run yet"));
        }
        let MachineSpec { config, groups, seccomp, .. } = self.machine;
        let container = Container { pid, config, groups, cgroup: self.cgroup, seccomp: seccomp.as_ref() };
        match process::exec(exec, &container) {
            Ok(process) => {
                self.childless = false;
                self.sessions.push(Session::new(id, process, &mut self.channel.link));
                Ok(())
            }
            Err(failure) => self.channel.refuse(id, failure),
        }
    }

    /// Tells of what the process has come to on its way to the exec.
    fn take_news(&mut self, at: usize) -> Result<(), Failure> {
        let Some(session) = self.sessions.get_mut(at) else { return Ok(()) };
        let id = session.id;
        match session.news() {
            Ok(News::None) => Ok(()),
            Ok(News::Executed) if id == SESSION => {
                self.tidy = Some(Instant::now() + SETTLED);
                let timeline = self.timeline.take("exec");
                self.channel.send(&ToHost::Started { timeline })
            }
            Ok(News::Executed) => self.channel.send(&ToHost::Exec { session: id, report: Report::Started }),
            Ok(News::Failed(failure)) | Err(failure) => self.fail(at, failure),
        }
    }

    /// An exec has failed; or the container has, which is tether's own end.
    fn fail(&mut self, at: usize, failure: Failure) -> Result<(), Failure> {
        let Some(session) = self.sessions.get_mut(at).filter(|session| session.id != SESSION) else {
            return Err(failure);
        };
        let is_news = session.phase != Phase::Reported;
        session.abandon(&mut self.channel.link, &mut self.poller)?;
        if !is_news {
            return Ok(());
        }
        let report = Report::Failed(failure.brief());
        self.channel.send(&ToHost::Exec { session: session.id, report })
    }

    fn reap(&mut self) -> Result<(), Failure> {
        let _drained = self.deaths.read_signal();
        loop {
            match process::reap().at(Stage::Run, || "waiting for children")? {
                Reaped::Child(pid, status) => self.died(pid, status)?,
                Reaped::NoneYet => return Ok(()),
                Reaped::NoneLeft => {
                    self.childless = true;
                    return Ok(());
                }
            }
        }
    }

    fn died(&mut self, pid: Pid, status: ExitStatus) -> Result<(), Failure> {
        let Some(at) = self.sessions.iter().position(|session| session.is(pid)) else { return Ok(()) };
        self.take_news(at)?;
        let Some(session) = self.sessions.get_mut(at) else { return Ok(()) };
        session.died(status);
        if session.id == SESSION {
            self.timeline.step("exit");
            self.ended = true;
            return self.kill_all();
        }
        if session.phase != Phase::Dead(status) {
            return Ok(());
        }
        session.phase = Phase::Reported;
        let report = if self.ended && status == KILLED {
            Report::ContainerEnded // by us
        } else {
            let written = |stream| session.written(stream, &self.channel.link);
            let (stdout, stderr) = (written(Stream::Stdout), written(Stream::Stderr));
            Report::Exited { status: session.cause(status), stdout, stderr }
        };
        self.channel.send(&ToHost::Exec { session: session.id, report })
    }

    /// The container has ended, and so do all that run in it: those on their way into its cgroup, too.
    fn kill_all(&mut self) -> Result<(), Failure> {
        self.is_to_die();
        self.cgroup.kill()?;
        for pid in self.sessions.iter().filter_map(Session::pid) {
            let _gone = process::signal(pid, libc::SIGKILL);
        }
        Ok(())
    }

    /// Processes were killed. They die at once, unless they wait for a server.
    fn is_to_die(&mut self) {
        if self.exports.is_some() {
            self.silence.get_or_insert_with(Silence::begins);
        }
    }

    /// Lets no server keep them from it for ever.
    fn end_silence(&mut self) -> Result<(), Failure> {
        if self.childless {
            self.silence = None;
        }
        let both = self.silence.as_mut().zip(self.exports);
        both.map_or(Ok(()), |(silence, exports)| silence.look(exports))
    }

    /// The host wants nothing more of them; so their processes go, too.
    fn forget_closed_sessions(&mut self) -> Result<(), Failure> {
        let (link, poller) = (&mut self.channel.link, &mut self.poller);
        for session in &mut self.sessions {
            if !link.is_open(session.id) {
                session.abandon(link, poller)?;
            }
        }
        self.sessions.retain(|session| link.is_open(session.id));
        Ok(())
    }

    fn tell_damage(&mut self) -> Result<(), Failure> {
        self.verity.as_mut().map_or(Ok(()), |verity| verity.tell(self.channel))
    }

    fn tell_victims(&mut self) -> Result<(), Failure> {
        for Victim { pid, name } in self.kernel_log.iter_mut().flat_map(KernelLog::victims) {
            if self.channel.link.unheard() < UNHEARD {
                self.channel.send(&ToHost::OutOfMemory { pid, name })?;
            }
        }
        Ok(())
    }

    /// Once the container's process is dead, all its output has been sent, and all execs have been reported, says how it
    /// ended.
    fn report_exit(&mut self) -> Result<(), Failure> {
        let Some((container, execs)) = self.sessions.split_first_mut() else { return Ok(()) };
        let Phase::Dead(status) = container.phase else { return Ok(()) };
        if !container.is_drained() || execs.iter().any(|exec| exec.phase != Phase::Reported) {
            return Ok(());
        }
        container.phase = Phase::Reported;
        let status = container.cause(status);
        self.tell_damage()?;
        self.tell_victims()?;
        let peak_rss = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().cast_unsigned());
        self.channel.send(&ToHost::Exited { status, timeline: self.timeline.take("drained"), peak_rss })
    }
}

//! What is said to tether, and in which order: a state machine over the channel's [`HostLink`], without any I/O.
//!
//! ```text
//! Booting --Ready--> Starting --Started--> Running --Exited--> Draining --(all output written)--> Stopping
//!                        `-------Failed-------'------------------> Failed
//! ```

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use protocol::network::Nic;
use protocol::oci::{ConsoleSize, Process};
use protocol::{
    Event, ExitStatus, Failure, HostLink, Kept, MachineSpec, Seed, Start, Stats, Step, Stream, ToGuest,
    ToHost,
};

use crate::execs::{self, Execs};
use crate::transport::{Arrival, Line};

/// The container's process, as the channel knows it.
pub const SESSION: u32 = 0;

/// The most layers that may be found damaged in an adopted guest: more disks than a guest has room for.
const MOST_LAYERS: usize = 128;

/// The longest name of a process that is kept, in characters.
const NAME: usize = 64;

/// Bytes that wait for the guest, behind which it is told nothing that will be old by then.
const UNHEARD: usize = 4096;

const OUTPUTS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// How far it has got.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Tether has not said that it is ready.
    Booting,
    /// It was told what to run.
    Starting,
    /// The container's process runs.
    Running,
    /// The process has ended; its last output is being written.
    Draining(ExitStatus),
    /// All was written and acknowledged; the guest unmounts and powers off.
    Stopping(ExitStatus),
    /// Tether has said that it failed.
    Failed(Failure),
}

/// The conversation.
pub struct Conversation {
    /// The channel's state.
    pub link: HostLink,
    /// What runs beside the container's process.
    pub execs: Execs,
    phase: Phase,
    start: Option<Box<Start>>,
    /// What the container's start needs besides the guest itself, in words.
    awaits: String,
    connected: bool,
    /// Whether it may say again what another host has taken, and may not have confirmed.
    adopted: bool,
    /// Whether it is to be a copy of a template.
    restored: bool,
    unmounted: bool,
    /// Nothing waits to be written in the guest, which only has to power off.
    stopped: bool,
    /// For each layer, whether the guest may still say that it is damaged.
    checked: Vec<bool>,
    /// Layers that it has found damaged, by their place in the spec, and the damaged block. Taken by the owner.
    pub damaged: Vec<(usize, u64)>,
    /// Processes that memory ran out for: PID in the guest, and name. Taken by the owner.
    pub victims: Vec<(u32, String)>,
    /// Whether the guest was asked for statistics, and has not answered.
    asked: bool,
    /// Its last answer. Taken by the owner.
    pub stats: Option<Stats>,
    /// What went wrong in the guest after the container's end. Taken by the owner.
    pub afterwards: Option<Failure>,
    /// The guest's steps so far.
    pub timeline: Vec<Step>,
    /// The largest resident set that tether has had, in KiB.
    pub peak_rss: u64,
}

impl Conversation {
    /// Will run `machine`, and send stdin if `stdin`. The line may be `lossy`: then frames are checked.
    ///
    /// # Errors
    /// There are no random numbers; `linux.seccomp` means nothing.
    pub fn new(machine: MachineSpec, stdin: bool, lossy: bool) -> Result<Self> {
        let nonce = crate::random::bytes().context("cannot read random numbers")?;
        let checked = machine.disks.layers.iter().map(|layer| layer.verity.is_some()).collect();
        let awaits = awaits(&machine.network.nics);
        let start = Some(Self::start_of(machine, stdin)?);
        Ok(Self { checked, start, awaits, ..Self::over(HostLink::host(nonce, lossy), Phase::Booting) })
    }

    /// The same with a guest that is a copy of one that was frozen where it waits for this.
    ///
    /// # Errors
    /// As [`Conversation::new`].
    pub fn with_copy(machine: MachineSpec, stdin: bool, lossy: bool) -> Result<Self> {
        let nonce = crate::random::bytes().context("cannot read random numbers")?;
        Ok(Self {
            link: HostLink::greeting(nonce, lossy),
            restored: true,
            ..Self::new(machine, stdin, lossy)?
        })
    }

    /// Goes on with a guest that has `kept` so much of its output with us, in `phase`, which is not [`Phase::Booting`]; the
    /// line may be `lossy`.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn adopting(kept: Kept, phase: Phase, lossy: bool) -> Result<Self> {
        let nonce = crate::random::bytes().context("cannot read random numbers")?;
        Ok(Self { adopted: true, ..Self::over(HostLink::adopting(nonce, lossy, kept), phase) })
    }

    /// Goes on with a guest that may not have been told yet to run `machine`, with stdin if `stdin`; the line may be `lossy`.
    ///
    /// # Errors
    /// As [`Conversation::new`].
    pub fn adopting_early(machine: MachineSpec, stdin: bool, lossy: bool) -> Result<Self> {
        let awaits = awaits(&machine.network.nics);
        let start = Some(Self::start_of(machine, stdin)?);
        Ok(Self { start, awaits, ..Self::adopting(Kept::new(), Phase::Booting, lossy)? })
    }

    /// The guest gets to know by other means than the channel what it is to run.
    pub fn is_told_otherwise(&mut self) {
        self.start = None;
        // Another host may have heard that it is ready.
        if self.adopted && self.phase == Phase::Booting {
            self.phase = Phase::Starting;
        }
    }

    fn start_of(mut machine: MachineSpec, stdin: bool) -> Result<Box<Start>> {
        crate::seccomp::lower(&mut machine)?;
        let seed = Seed(crate::random::bytes().context("cannot read random numbers")?);
        Ok(Box::new(Start { machine, time: 0, seed, stdin }))
    }

    fn over(link: HostLink, phase: Phase) -> Self {
        Self {
            link,
            execs: Execs::default(),
            phase,
            start: None,
            awaits: String::new(),
            connected: false,
            adopted: false,
            restored: false,
            unmounted: false,
            stopped: false,
            // Of an adopted guest it is not known which layers have a hash tree.
            checked: vec![true; MOST_LAYERS],
            damaged: Vec::new(),
            victims: Vec::new(),
            asked: false,
            stats: None,
            afterwards: None,
            timeline: Vec::new(),
            peak_rss: 0,
        }
    }

    /// Whether the guest has been found.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether the guest has unmounted all, and only has to power off.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// How far it has got.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Takes what has come of the channel, bytes in `chunk` among it.
    ///
    /// # Errors
    /// The guest says what tether would not.
    pub fn receive(&mut self, arrival: Arrival, chunk: &[u8]) -> Result<()> {
        const BROKEN: &str = "the guest broke the channel's protocol";
        Line::tell(arrival, chunk, &mut self.link).context(BROKEN)?;
        while let Some(event) = self.link.event().context(BROKEN)? {
            match event {
                Event::Connected(_) => {
                    self.found()?;
                }
                Event::Message(message) => self.take(message).context(BROKEN)?,
            }
        }
        Ok(())
    }

    /// The guest has been found, for the first time or again.
    fn found(&mut self) -> Result<()> {
        if self.adopted && !self.connected {
            let others = self.link.sessions().filter(|session| *session != SESSION);
            others.for_each(|session| self.execs.adopt(session, execs::State::Unknown));
            // The start is the first that a guest is ever told.
            match self.start.take() {
                Some(start) if self.link.said() == 0 => self.tell_start(start)?,
                Some(_) => self.phase = Phase::Starting,
                None => {}
            }
        }
        // One that was only found again has not stood still meanwhile: of that we hear in other ways.
        if !std::mem::replace(&mut self.connected, true) {
            self.refresh()?;
        }
        Ok(())
    }

    /// Tells a guest that may have stood still, or been copied, what it cannot know: the time, and random numbers of its own. (Else
    /// it gets them with what it is to run.)
    ///
    /// # Errors
    /// None that can be caused from outside.
    pub fn refresh(&mut self) -> Result<()> {
        // One that does not listen will be told when it does; one that is to be started, with that.
        if self.start.is_some() || !self.connected || self.link.unheard() > UNHEARD {
            return Ok(());
        }
        self.link.send(&ToGuest::Clock(now()))?;
        if let Ok(seed) = crate::random::bytes() {
            self.link.send(&ToGuest::Seed(Seed(seed)))?;
        }
        Ok(())
    }

    fn take(&mut self, message: ToHost) -> Result<()> {
        match (&self.phase, message) {
            (Phase::Booting, ToHost::Ready { timeline, restored, .. }) => {
                ensure!(restored == self.restored, "it says that it was {}", words(restored));
                self.timeline.extend(if restored { copied(timeline) } else { timeline });
                self.phase = Phase::Starting;
                if let Some(start) = self.start.take() {
                    self.tell_start(start)?;
                }
            }
            (Phase::Starting, ToHost::Ready { timeline, .. }) if self.adopted => {
                self.timeline.extend(timeline);
            }
            (Phase::Starting, ToHost::Started { timeline }) => {
                self.timeline.extend(timeline);
                self.phase = Phase::Running;
            }
            (Phase::Running, ToHost::Exited { status, timeline, peak_rss }) => {
                self.timeline.extend(timeline);
                self.peak_rss = peak_rss;
                self.phase = Phase::Draining(status);
            }
            (phase, ToHost::Damaged { layer, block })
                if !matches!(phase, Phase::Booting | Phase::Failed(_)) =>
            {
                self.damage(usize::try_from(layer)?, block)?;
            }
            (phase, ToHost::OutOfMemory { pid, name })
                if !matches!(phase, Phase::Booting | Phase::Failed(_)) =>
            {
                self.victims.push((pid, crate::text::harmless(name.as_bytes(), NAME)));
            }
            (_, ToHost::Stats(stats)) if self.asked || self.adopted => {
                self.asked = false;
                self.stats = Some(stats);
            }
            (Phase::Booting | Phase::Starting | Phase::Running, ToHost::Failed(failure)) => {
                self.phase = Phase::Failed(failure);
            }
            // What goes wrong after the process has ended does not change how it ended.
            (Phase::Draining(_) | Phase::Stopping(_), ToHost::Failed(failure)) if !self.unmounted => {
                self.unmounted = true;
                self.afterwards = Some(failure);
                self.link.send(&ToGuest::Acknowledged)?;
            }
            (Phase::Stopping(_), ToHost::Stopped { timeline }) if !self.unmounted => {
                (self.unmounted, self.stopped) = (true, true);
                self.timeline.extend(timeline);
                self.link.send(&ToGuest::Acknowledged)?;
            }
            (Phase::Running, ToHost::Started { .. }) if self.adopted => {}
            (Phase::Draining(_), ToHost::Exited { status, .. }) if self.adopted => {
                self.phase = Phase::Draining(status);
            }
            (Phase::Draining(_), ToHost::Stopped { .. }) if self.adopted && !self.unmounted => {
                self.unmounted = true;
                self.link.send(&ToGuest::Acknowledged)?;
            }
            // Of one that the host before has closed.
            (_, ToHost::Exec { session, .. }) if self.adopted && self.execs.state(session).is_none() => {}
            (_, ToHost::Exec { session, report }) => self.execs.take(session, report)?,
            (phase, message) => bail!("it says {:?} while {phase}", Kind(&message)),
        }
        Ok(())
    }

    fn tell_start(&mut self, mut start: Box<Start>) -> Result<()> {
        start.time = now();
        self.link.send(&ToGuest::Start(start))?;
        self.phase = Phase::Starting;
        Ok(())
    }

    fn damage(&mut self, layer: usize, block: u64) -> Result<()> {
        match self.checked.get_mut(layer) {
            Some(checked) if *checked => *checked = false,
            _ => bail!("it says what it cannot know, or has said: that layer {layer} is damaged"),
        }
        self.damaged.push((layer, block));
        Ok(())
    }

    /// Whether all output that has come was written.
    pub fn drained(&self) -> bool {
        OUTPUTS.iter().all(|stream| self.link.pending(SESSION, *stream).is_empty())
    }

    /// Whether all output has come, too. (Messages overtake it.)
    pub fn finished(&self) -> bool {
        // A guest that was adopted is not known before it has said so.
        (self.link.is_open(SESSION)) && OUTPUTS.iter().all(|stream| self.link.finished(SESSION, *stream))
    }

    /// Acknowledges the exit, once all output was written, that of execs that are not closed, too. Says whether it did so just now.
    ///
    /// # Errors
    /// None that can be caused from outside.
    pub fn acknowledge(&mut self) -> Result<bool> {
        let Phase::Draining(status) = self.phase else { return Ok(false) };
        if !self.finished() || !self.execs.are_finished(&self.link) {
            return Ok(false);
        }
        self.link.send(&ToGuest::Acknowledged)?;
        self.phase = Phase::Stopping(status);
        Ok(true)
    }

    /// Runs a process beside the container's; gives its session.
    ///
    /// # Errors
    /// There are too many at once, or it is too long to say.
    pub fn exec(&mut self, process: Process, user: Option<String>, stdin: bool) -> Result<u32> {
        self.execs.start(&mut self.link, process, user, stdin)
    }

    /// Asks for statistics, if that was not done already.
    ///
    /// # Errors
    /// None that can be caused from outside.
    pub fn ask(&mut self) -> Result<()> {
        if !self.asked {
            self.asked = true;
            self.link.send(&ToGuest::Stats)?;
        }
        Ok(())
    }

    /// Tells the guest its terminal's new size.
    ///
    /// # Errors
    /// None that can be caused from outside.
    pub fn resize(&mut self, ConsoleSize { height, width }: ConsoleSize) -> Result<()> {
        Ok(self.link.send(&ToGuest::Resize { session: SESSION, height, width })?)
    }

    /// Sends a signal to the container's process.
    ///
    /// # Errors
    /// None that can be caused from outside.
    pub fn signal(&mut self, signal: i32) -> Result<()> {
        Ok(self.link.send(&ToGuest::Signal { session: SESSION, signal })?)
    }

    /// For people: what the guest was doing, as far as it has told.
    pub fn whereabouts(&self) -> String {
        let step = self.timeline.last().map_or_else(String::new, |step| {
            format!(" (its last step: {})", crate::text::harmless(step.name.as_bytes(), 60))
        });
        match self.phase {
            Phase::Booting if self.connected => "tether had opened the channel, and was not ready".to_owned(),
            Phase::Booting => "the guest had not got as far as opening the channel".to_owned(),
            Phase::Starting if !self.awaits.is_empty() => {
                format!("tether was starting the container, which needs {}", self.awaits)
            }
            Phase::Starting => format!("tether was starting the container{step}"),
            Phase::Running => "the container was running".to_owned(),
            Phase::Draining(_) | Phase::Stopping(_) | Phase::Failed(_) => {
                "the container had ended".to_owned()
            }
        }
    }
}

/// Who has to answer before the container starts, in words: the guest does not tell that it waits for that.
fn awaits(nics: &[Nic]) -> String {
    let server = |nic: &Nic| match nic {
        Nic { dhcp: true, name, .. } => Some(format!("the answer of a DHCP server on {name}")),
        Nic { slaac: true, addresses, name, .. } if addresses.is_empty() => {
            Some(format!("the answer of an IPv6 router on {name}"))
        }
        _ => None,
    };
    nics.iter().filter_map(server).collect::<Vec<_>>().join(" and ")
}

/// How it came up.
fn words(restored: bool) -> &'static str {
    if restored { "copied from a template" } else { "booted" }
}

/// What a copy has done of the steps up to where it was frozen: nothing. They have taken no time of its own.
fn copied(template: Vec<Step>) -> Vec<Step> {
    template
        .into_iter()
        .next_back()
        .map(|last| Step { name: "restored".to_owned(), ..last })
        .into_iter()
        .collect()
}

/// The clock, as the guest is told: nanoseconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Display for Phase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Booting => "booting",
            Self::Starting => "starting the container",
            Self::Running => "the container runs",
            Self::Draining(_) => "its output is being written",
            Self::Stopping(_) => "stopping",
            Self::Failed(_) => "failed",
        })
    }
}

/// A message's name, without what the guest put in it.
struct Kind<'a>(&'a ToHost);

impl fmt::Debug for Kind<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self.0 {
            ToHost::Ready { .. } => "Ready",
            ToHost::Started { .. } => "Started",
            ToHost::Exited { .. } => "Exited",
            ToHost::Damaged { .. } => "Damaged",
            ToHost::Exec { .. } => "Exec",
            ToHost::Stats(_) => "Stats",
            ToHost::OutOfMemory { .. } => "OutOfMemory",
            ToHost::Failed(_) => "Failed",
            ToHost::Stopped { .. } => "Stopped",
        })
    }
}

//! The event loop: one thread, one poll(2), from QEMU's start, or from another monitor's end, to the VM's.
//!
//! Promises: nothing is buffered without bound, whatever the guest or a client sends; no client's slowness stops another;
//! what the guest is told that we have is in the log or written down; every end of the VM ends the loop. Whoever calls it
//! kills the VM afterwards.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use protocol::oci::ConsoleSize;
use protocol::{MachineSpec, Stream};

use super::check::Checks;
use super::clients::{Caller, Clients};
use super::connection::logged;
use super::host_clock::HostClock;
use super::message::ToClient;
use super::power_button::Button;
use super::wait;
use crate::console::Console;
use crate::containers::Container;
use crate::conversation::{Conversation, Phase, SESSION};
use crate::exit::{End, Outcome};
use crate::guest_log::GuestLog;
use crate::layers::OpenLayer;
use crate::log::Writer;
use crate::qmp::{CAPABILITIES, Monitor};
use crate::template::thaw::Restore;
use crate::timeline::Clock;
use crate::vm::Wires;

/// How long the guest may take to unmount and power off. Nothing that it could still do would be kept.
pub(super) const POWER_OFF: Duration = Duration::from_secs(10);
/// The same, when it has volumes: what the container has written may be in its memory only.
pub(super) const WRITE_OUT: Duration = Duration::from_secs(600);
/// How long a kernel that has panicked may take to reset the machine.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);
/// The most that is kept of QEMU's stderr, in bytes.
pub(super) const ERRORS: usize = 2000;
/// Read at a time.
pub(super) const CHUNK: usize = 64 << 10;
/// How long to wait before a log or a state that could not be written is tried again.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
const OUTPUTS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// What to do with the VM.
pub struct Plan {
    /// What it is told to run.
    pub machine: MachineSpec,
    /// Its layers, as they stand in the machine spec.
    pub layers: Arc<[OpenLayer]>,
    /// What the host shares, by the tags that the guest knows.
    pub shared: Vec<(String, PathBuf)>,
    /// Whether stdin is sent.
    pub stdin: bool,
    /// Whether the console is shown to the clients.
    pub debug: bool,
    /// How long it may take until the container's process has started.
    pub boot_timeout: Duration,
    /// What QEMU is to be told before the VM goes on, if it is a copy of a template.
    pub restore: Option<Restore>,
    /// QEMU, if it is a child of this process.
    pub qemu: Option<u32>,
}

/// Something to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    Channel,
    Console,
    Monitor,
    Errors,
    HostClock,
    Client(Caller),
}

/// The loop, and all that it knows.
pub struct Relay<'a> {
    pub(super) talk: Conversation,
    pub(super) layers: Arc<[OpenLayer]>,
    /// What the host shares, by the tags that the guest knows.
    pub(super) shared: Vec<(String, PathBuf)>,
    pub(super) wires: Wires,
    pub(super) container: &'a Container,
    pub(super) clients: &'a mut Clients,
    pub(super) log: &'a mut Writer,
    pub(super) console: Console,
    pub(super) guest_log: GuestLog,
    pub(super) monitor: Monitor,
    /// None where it cannot be watched.
    host_clock: Option<HostClock>,
    pub(super) errors: Vec<u8>,
    /// The lines that have not ended.
    pub(super) open: Vec<Source>,
    /// QMP's reason for the machine's end.
    pub(super) shutdown: Option<String>,
    pub(super) forwarded: Option<Signal>,
    pub(super) deadline: Option<Instant>,
    /// The machine's power button.
    pub(super) button: Button,
    /// When the container's process is killed, if it was asked to end.
    pub(super) kill: Option<Instant>,
    /// Once the container runs, if its health is checked.
    pub(super) checks: Option<Checks>,
    /// There was nothing to do at the last look.
    pub(super) idle: bool,
    /// When something is tried again that the host had no room for.
    pub(super) again: Option<Instant>,
    pub(super) boot_timeout: Duration,
    /// QEMU, if it is a child of this process.
    pub(super) qemu: Option<u32>,
    pub(super) debug: bool,
    pub(super) size: Option<ConsoleSize>,
    /// Whether the VM is to end with the client that it was started for, until it has started.
    pub(super) bound: bool,
    /// Whether the guest is of no more use when it has stopped: nothing is on its way to others.
    pub(super) brief: bool,
    pub(super) clock: Clock,
}

impl<'a> Relay<'a> {
    /// Of a VM that was just started.
    ///
    /// # Errors
    /// The system's.
    pub fn new(
        plan: Plan,
        wires: Wires,
        container: &'a Container,
        clients: &'a mut Clients,
        log: &'a mut Writer,
        clock: Clock,
    ) -> Result<Self> {
        let size = plan.machine.config.process.console_size;
        let brief = !plan.debug && ends_at_once(&plan.machine);
        let lossy = wires.channel.is_lossy();
        let talk = match plan.restore {
            Some(_) => Conversation::with_copy(plan.machine, plan.stdin, lossy)?,
            None => Conversation::new(plan.machine, plan.stdin, lossy)?,
        };
        let mut relay = Self::over(talk, wires, container, clients, log, clock);
        if let Some(restore) = plan.restore {
            // As those before it.
            let _ = restore.tell(&relay.wires.monitor);
            relay.monitor.refusals = true;
        }
        relay.deadline = Some(Instant::now() + plan.boot_timeout);
        (relay.size, relay.layers, relay.shared) = (size, plan.layers, plan.shared);
        relay.brief = brief;
        (relay.debug, relay.boot_timeout, relay.qemu) = (plan.debug, plan.boot_timeout, plan.qemu);
        Ok(relay)
    }

    /// Of a VM that runs, with the conversation as far as it has got.
    pub fn over(
        mut talk: Conversation,
        wires: Wires,
        container: &'a Container,
        clients: &'a mut Clients,
        log: &'a mut Writer,
        clock: Clock,
    ) -> Self {
        // The socket is new and empty: it takes these few bytes, or QEMU is gone and the loop will notice.
        let _ = nix::unistd::write(&wires.monitor, CAPABILITIES);
        if container.record.transport.is_to_be_prompt() {
            talk.link.confirm_promptly();
        }
        let mut open = vec![Source::Console, Source::Monitor];
        // A line that the guest makes comes later.
        open.extend(wires.channel.is_up().then_some(Source::Channel));
        open.extend(wires.errors.as_ref().map(|_| Source::Errors));
        Self {
            talk,
            layers: Arc::default(),
            shared: vec![],
            wires,
            container,
            clients,
            log,
            console: Console::default(),
            guest_log: GuestLog::of(&container.dir),
            monitor: Monitor::default(),
            host_clock: HostClock::watch().ok(),
            errors: Vec::new(),
            open,
            shutdown: None,
            forwarded: None,
            deadline: None,
            button: Button::default(),
            kill: None,
            checks: None,
            idle: false,
            again: None,
            boot_timeout: Duration::ZERO,
            qemu: None,
            debug: false,
            size: None,
            bound: false,
            brief: false,
            clock,
        }
    }

    /// Relays until the VM is gone or of no more use.
    ///
    /// # Errors
    /// The VM ended without an exit report, did not come up in time, or lied: [`Gone`](super::stop::Gone) where the VM has
    /// ended by itself.
    pub fn run(mut self) -> Result<Outcome> {
        let end = self.turn_until_the_end();
        self.show_last_words(&end);
        let end = end?;
        self.clock.step("the VM has ended");
        Ok(Outcome {
            end,
            forwarded: self.forwarded,
            guest: self.talk.timeline,
            host: self.clock.steps,
            peak_rss: self.talk.peak_rss,
        })
    }

    fn turn_until_the_end(&mut self) -> Result<End> {
        loop {
            if let Some(end) = self.verdict()? {
                return Ok(end);
            }
            self.flush()?;
            self.wires.channel.turn(&mut self.talk.link)?;
            let due = self.wires.channel.due();
            let check = self.checks.as_ref().and_then(Checks::due);
            let due = due.into_iter().chain(self.kill).chain(check);
            let wake = self.deadline.into_iter().chain(self.again).chain(due).min();
            let ready = wait::ready(&self.interests(), wake)?;
            self.idle = ready.is_empty();
            if self.again.is_some_and(|again| again <= Instant::now()) {
                self.again = None;
            }
            for (source, flags) in ready {
                self.handle(source, flags)?;
            }
            if let Some(end) = self.obey()? {
                return Ok(end);
            }
            if let Some(end) = self.end_in_time()? {
                return Ok(end);
            }
            self.stdin()?;
            self.stats()?;
            self.check_health()?;
            self.clients.execs.turn(&self.container.record.name, &mut self.talk)?;
            for stream in OUTPUTS {
                self.output(stream);
            }
            self.clients.catch_up(self.log);
            if matches!(self.talk.phase(), Phase::Running | Phase::Draining(_)) {
                self.clients.started();
            }
        }
    }

    fn interests(&self) -> Vec<(Source, PollFd<'_>)> {
        let mut interests = Vec::with_capacity(8);
        let mut add = |source, wanted: bool, descriptor, flags| {
            if wanted {
                interests.push((source, PollFd::new(descriptor, flags)));
            }
        };
        let is_open = |source| self.open.contains(&source);
        // Nothing is confirmed that could not be written down.
        let sending = !self.talk.link.output().is_empty() && self.again.is_none();
        let channel = self.wires.channel.interests(sending).into_iter();
        let read = PollFlags::POLLIN;
        let shown = !self.debug || self.clients.are_attentive();
        add(Source::Console, is_open(Source::Console) && shown, self.wires.console.as_fd(), read);
        add(Source::Monitor, is_open(Source::Monitor), self.wires.monitor.as_fd(), read);
        if let Some(errors) = &self.wires.errors {
            add(Source::Errors, is_open(Source::Errors), errors.as_fd(), read);
        }
        if let Some(clock) = &self.host_clock {
            add(Source::HostClock, true, clock.fd(), read);
        }
        if is_open(Source::Channel) || !self.wires.channel.is_up() {
            interests.extend(channel.map(|descriptor| (Source::Channel, descriptor)));
        }
        let clients = self.clients.interests().into_iter();
        interests.extend(clients.map(|(caller, descriptor)| (Source::Client(caller), descriptor)));
        interests
    }

    fn handle(&mut self, source: Source, flags: PollFlags) -> Result<()> {
        match source {
            Source::Channel if flags == PollFlags::POLLOUT => Ok(()),
            Source::Channel => self.channel(),
            Source::Console => self.console(),
            Source::Monitor => self.monitor(),
            Source::Errors => self.errors(),
            Source::HostClock => {
                if let Some(clock) = &self.host_clock {
                    clock.again()?;
                }
                self.talk.refresh()
            }
            Source::Client(caller) => {
                self.clients.handle(caller, flags);
                Ok(())
            }
        }
    }

    /// Takes output: into the log first, then to the clients, and then the guest may forget it.
    fn output(&mut self, stream: Stream) {
        let pending = self.talk.link.pending(SESSION, stream);
        if pending.is_empty() || self.again.is_some() {
            return;
        }
        let most = self.clients.capacity(stream, self.log.offsets());
        let bytes = pending.get(..most).unwrap_or(pending);
        if bytes.is_empty() {
            return;
        }
        let before = self.log.offsets().of(logged(stream));
        let appended = self.log.append(logged(stream), bytes, SystemTime::now());
        let after = self.log.offsets().of(logged(stream));
        let count = usize::try_from(after - before).unwrap_or(bytes.len()).min(bytes.len());
        self.clients.give(stream, before, &bytes[..count]);
        self.talk.link.consume(SESSION, stream, count);
        if let Err(error) = appended {
            // The container waits until there is room again.
            self.clients.mention(&ToClient::Warning(format!("{error:#}; trying again")));
            self.again = Some(Instant::now() + AGAIN);
        }
    }
}

/// Whether what such a machine has to say to others than us has surely come to them when it says that it has stopped: its disks are QEMU's
/// own, but leases are given back by packets, and folders of the host's and of servers are other processes'.
fn ends_at_once(machine: &MachineSpec) -> bool {
    let MachineSpec { network, shares, nfs, .. } = machine;
    network.nics.iter().all(|nic| !nic.dhcp) && shares.is_empty() && nfs.is_empty()
}

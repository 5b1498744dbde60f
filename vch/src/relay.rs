//! The event loop: one thread, one poll(2), from QEMU's start to its end.
//!
//! Promises: nothing is buffered without bound, whatever the guest sends; nobody's slowness stops anything but what
//! waits for them; every end of the VM ends the loop. Whoever calls it kills the VM afterwards.

mod stop;
mod wait;

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use protocol::oci::ConsoleSize;
use protocol::{MachineSpec, Stream};

use crate::console::Console;
use crate::conversation::{Conversation, Phase, SESSION};
use crate::exit::{End, Outcome};
use crate::layers::OpenLayer;
use crate::progress::Progress;
use crate::qmp::{CAPABILITIES, Event, Monitor};
use crate::signals;
use crate::stdio::{Got, Input, Output, Stdio};
use crate::terminal::{self, Raw};
use crate::timeline::Clock;
use crate::vm::Wires;

pub use stop::Gone;

/// How long the guest may take to unmount and power off. Nothing that it could still do would be kept.
const POWER_OFF: Duration = Duration::from_secs(10);
/// How long a kernel that has panicked may take to reset the machine.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The console is not read while so many bytes of it wait to be shown.
const SHOWN: usize = 64 << 10;
/// The most that is kept of QEMU's stderr, in bytes.
const ERRORS: usize = 2000;
/// Read at a time.
const CHUNK: usize = 64 << 10;

/// What to do with the VM.
pub struct Plan {
    /// What it is told to run.
    pub machine: MachineSpec,
    /// Its layers, as they stand in the machine spec.
    pub layers: Vec<OpenLayer>,
    /// Whether stdin is sent.
    pub stdin: bool,
    /// Whether stdin is a terminal that goes raw, and whose size is the container's terminal's.
    pub raw: bool,
    /// Whether the console is shown on stderr.
    pub debug: bool,
    /// How long it may take until the container's process has started.
    pub boot_timeout: Duration,
}

/// Something to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Channel,
    Console,
    Monitor,
    Errors,
    Signals,
    Stdin,
    Stdout,
    Stderr,
}

/// Runs `plan` in the VM behind `wires`, until the VM is gone or of no more use.
///
/// # Errors
/// The VM ended without an exit report, did not come up in time, or lied: [`Gone`] where the VM has ended by itself.
pub fn run(plan: Plan, wires: Wires, stdio: &Stdio, clock: Clock) -> Result<Outcome> {
    let mut relay = Relay::new(plan, wires, stdio, clock)?;
    let end = relay.turn_until_the_end();
    relay.progress.clear(stdio);
    Ok(relay.outcome(end?))
}

struct Relay<'a> {
    talk: Conversation,
    layers: Vec<OpenLayer>,
    wires: Wires,
    stdio: &'a Stdio,
    stdin: Option<Input>,
    stdout: Output,
    stderr: Output,
    console: Console,
    monitor: Monitor,
    errors: Vec<u8>,
    /// The lines that have not ended.
    open: Vec<Source>,
    /// QMP's reason for the machine's end.
    shutdown: Option<String>,
    forwarded: Option<Signal>,
    /// Whether signals can still come.
    listening: bool,
    deadline: Option<Instant>,
    /// There was nothing to do at the last look.
    idle: bool,
    boot_timeout: Duration,
    debug: bool,
    raw: bool,
    /// Held while the terminal is raw.
    mode: Option<Raw>,
    size: Option<ConsoleSize>,
    clock: Clock,
    progress: Progress,
}

impl<'a> Relay<'a> {
    fn turn_until_the_end(&mut self) -> Result<End> {
        loop {
            if let Some(end) = self.verdict()? {
                return Ok(end);
            }
            let ready = wait::ready(&self.interests(), self.wake())?;
            self.idle = ready.is_empty();
            for (source, flags) in ready {
                if let Some(end) = self.handle(source, flags)? {
                    return Ok(end);
                }
            }
            if self.is_starting() {
                self.progress.starting(self.stdio, self.clock.seconds());
            }
        }
    }

    fn is_starting(&self) -> bool {
        matches!(self.talk.phase(), Phase::Booting | Phase::Starting)
    }

    /// When to look up though nothing has happened.
    fn wake(&self) -> Option<Instant> {
        let due = if self.is_starting() { self.progress.due(self.stdio) } else { None };
        self.deadline.into_iter().chain(due).min()
    }

    fn new(plan: Plan, wires: Wires, stdio: &'a Stdio, clock: Clock) -> Result<Self> {
        // The socket is new and empty: it takes these few bytes, or QEMU is gone and the loop will notice.
        let _ = nix::unistd::write(&wires.monitor, CAPABILITIES);
        Ok(Self {
            size: plan.machine.config.process.console_size,
            talk: Conversation::new(plan.machine, plan.stdin)?,
            layers: plan.layers,
            wires,
            stdio,
            stdin: if plan.stdin { Some(Input::new(&stdio.stdin)?) } else { None },
            stdout: Output::new(&stdio.stdout)?,
            stderr: Output::new(&stdio.stderr)?,
            console: Console::default(),
            monitor: Monitor::default(),
            errors: Vec::new(),
            open: vec![Source::Channel, Source::Console, Source::Monitor, Source::Errors],
            shutdown: None,
            forwarded: None,
            listening: true,
            deadline: Some(Instant::now() + plan.boot_timeout),
            idle: false,
            boot_timeout: plan.boot_timeout,
            debug: plan.debug,
            raw: plan.raw,
            mode: None,
            clock,
            progress: Progress::new(Instant::now()),
        })
    }

    fn interests(&self) -> Vec<(Source, PollFd<'_>)> {
        let mut interests = Vec::with_capacity(8);
        let mut add = |source, wanted: bool, descriptor, flags| {
            if wanted {
                interests.push((source, PollFd::new(descriptor, flags)));
            }
        };
        let is_open = |source| self.open.contains(&source);
        let sending =
            if self.talk.link.output().is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        let read = PollFlags::POLLIN;
        add(Source::Channel, is_open(Source::Channel), self.wires.channel.as_fd(), read | sending);
        let shown = self.stderr.waiting() < SHOWN;
        add(Source::Console, is_open(Source::Console) && shown, self.wires.console.as_fd(), read);
        add(Source::Monitor, is_open(Source::Monitor), self.wires.monitor.as_fd(), read);
        add(Source::Errors, is_open(Source::Errors), self.wires.errors.as_fd(), read);
        if let Some(signals) = &self.stdio.signals {
            add(Source::Signals, self.listening, signals.as_fd(), read);
        }
        if let Some(stdin) = &self.stdin {
            let wanted =
                *self.talk.phase() == Phase::Running && self.talk.link.room(SESSION, Stream::Stdin) > 0;
            add(Source::Stdin, wanted, stdin.as_fd(), read);
        }
        let write = PollFlags::POLLOUT;
        let pending = |stream| !self.talk.link.pending(SESSION, stream).is_empty();
        add(Source::Stdout, pending(Stream::Stdout), self.stdout.as_fd(), write);
        let words = self.stderr.waiting() > 0;
        add(Source::Stderr, pending(Stream::Stderr) || words, self.stderr.as_fd(), write);
        interests
    }

    fn handle(&mut self, source: Source, flags: PollFlags) -> Result<Option<End>> {
        match source {
            Source::Channel => self.channel(flags)?,
            Source::Console => self.console()?,
            Source::Monitor => self.monitor()?,
            Source::Errors => self.errors()?,
            // Nobody will send any more: such a descriptor would be ready for ever.
            Source::Signals if !flags.contains(PollFlags::POLLIN) => self.listening = false,
            Source::Signals => return self.signals(),
            Source::Stdin => self.stdin()?,
            Source::Stdout => return self.output(Stream::Stdout),
            Source::Stderr => return self.output(Stream::Stderr),
        }
        Ok(None)
    }

    fn channel(&mut self, flags: PollFlags) -> Result<()> {
        if flags.contains(PollFlags::POLLOUT) {
            match nix::unistd::write(&self.wires.channel, self.talk.link.output()) {
                Ok(count) => self.talk.link.wrote(count),
                // EPIPE: QEMU is gone. What it has sent before is still to be read.
                Err(Errno::EAGAIN | Errno::EINTR | Errno::EPIPE | Errno::ECONNRESET) => {}
                Err(e) => return Err(e).context("cannot write to the channel"),
            }
        }
        if flags == PollFlags::POLLOUT {
            return Ok(());
        }
        let mut chunk = [0; CHUNK];
        let count = read(Source::Channel, &self.wires.channel, &mut chunk, &mut self.open)?;
        let before = self.talk.phase().clone();
        let received = self.talk.receive(chunk.get(..count).unwrap_or_default());
        self.warn_of_damage();
        received?;
        if before != *self.talk.phase() {
            self.entered()?;
        }
        Ok(())
    }

    /// Says which layers the guest has found damaged.
    fn warn_of_damage(&mut self) {
        for (layer, block) in self.talk.damaged.drain(..) {
            self.progress.clear(self.stdio);
            let what = self.layers.get(layer).map_or_else(String::new, |layer| layer.damage(block));
            let line = format!("vch: warning: {what}; without the file, the next run makes it anew");
            self.stderr.say(&line);
        }
    }

    /// A new phase has begun.
    fn entered(&mut self) -> Result<()> {
        if !self.is_starting() {
            self.progress.clear(self.stdio);
        }
        match self.talk.phase() {
            Phase::Starting => self.clock.step("the guest is ready"),
            Phase::Running => {
                self.clock.step("the container has started");
                self.deadline = None;
                if self.raw {
                    self.mode = Some(Raw::enter(&self.stdio.stdin)?);
                    self.resize()?;
                }
            }
            Phase::Failed(_) => self.deadline = None,
            Phase::Draining(_) => {
                self.deadline = None;
                self.clock.step("the container has ended");
                self.mode = None;
                self.stdin = None;
            }
            Phase::Booting | Phase::Stopping(_) => {}
        }
        Ok(())
    }

    fn console(&mut self) -> Result<()> {
        let mut chunk = [0; 4096];
        let count = read(Source::Console, &self.wires.console, &mut chunk, &mut self.open)?;
        let mut lines = self.console.receive(chunk.get(..count).unwrap_or_default());
        if count == 0 {
            lines.extend(self.console.flush());
        }
        if self.debug {
            lines.iter().for_each(|line| self.stderr.say(&format!("[guest] {line}")));
        }
        // The kernel resets the machine after a panic, unless someone gave it other parameters.
        if self.console.panic().is_some() && !matches!(self.talk.phase(), Phase::Stopping(_)) {
            let soon = Instant::now() + LAST_WORDS;
            self.deadline = Some(self.deadline.map_or(soon, |deadline| deadline.min(soon)));
        }
        Ok(())
    }

    fn monitor(&mut self) -> Result<()> {
        let mut chunk = [0; 4096];
        let count = read(Source::Monitor, &self.wires.monitor, &mut chunk, &mut self.open)?;
        for event in self.monitor.receive(chunk.get(..count).unwrap_or_default()) {
            match event {
                Event::Shutdown(reason) => self.shutdown = Some(reason),
                Event::DiskError { no_space: true, .. } => {
                    return Err(anyhow!("the host's disk is full: the VM's scratch disk could not grow"));
                }
                Event::DiskError { reason, .. } => {
                    return Err(anyhow!("the host could not give the VM its disk ({reason})"));
                }
            }
        }
        Ok(())
    }

    fn errors(&mut self) -> Result<()> {
        let mut chunk = [0; 4096];
        match nix::unistd::read(&self.wires.errors, &mut chunk) {
            Ok(0) => self.open.retain(|open| *open != Source::Errors),
            Ok(count) => {
                let room = ERRORS - self.errors.len();
                self.errors.extend(chunk.iter().take(count.min(room)));
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(e) => return Err(e).context("cannot read QEMU's stderr"),
        }
        Ok(())
    }

    fn signals(&mut self) -> Result<Option<End>> {
        let Some(signal) = self.stdio.signals.as_ref().map(signals::read).transpose()?.flatten() else {
            return Ok(None);
        };
        if signal == Signal::SIGWINCH {
            self.resize()?;
            return Ok(None);
        }
        match self.talk.phase() {
            Phase::Running if !(insists(signal) && self.forwarded.is_some_and(insists)) => {
                self.forwarded = Some(signal);
                self.talk.signal(signal as i32)?;
                Ok(None)
            }
            Phase::Stopping(status) => Ok(Some(End::Exited(*status))),
            _ if matches!(signal, Signal::SIGUSR1 | Signal::SIGUSR2) => Ok(None),
            _ => Ok(Some(End::Killed(signal))),
        }
    }

    fn resize(&mut self) -> Result<()> {
        let size = terminal::size(&self.stdio.stdin);
        if let Some(new) = size
            && self.raw
            && self.size != size
            && *self.talk.phase() == Phase::Running
        {
            self.size = size;
            self.talk.resize(new)?;
        }
        Ok(())
    }

    fn stdin(&mut self) -> Result<()> {
        let Some(stdin) = &self.stdin else { return Ok(()) };
        let mut end = false;
        let read = |room: &mut [u8]| -> Result<usize, Errno> {
            let got = stdin.read(room)?;
            end = got == Got::End;
            Ok(if let Got::Bytes(count) = got { count } else { 0 })
        };
        self.talk.link.fill(SESSION, Stream::Stdin, read).context("cannot read stdin")?;
        if end {
            self.stdin = None;
            self.talk.link.end(SESSION, Stream::Stdin);
        }
        Ok(())
    }

    fn output(&mut self, stream: Stream) -> Result<Option<End>> {
        let output = if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr };
        match output.write(self.talk.link.pending(SESSION, stream)) {
            Ok(count) => self.talk.link.consume(SESSION, stream, count),
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(Some(End::Closed(stream))),
            Err(e) => {
                let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
                return Err(e).with_context(|| format!("cannot write to {name}"));
            }
        }
        Ok(None)
    }

    fn outcome(mut self, end: End) -> Outcome {
        self.clock.step("the VM has ended");
        Outcome {
            end,
            forwarded: self.forwarded,
            guest: self.talk.timeline,
            host: self.clock.steps,
            peak_rss: self.talk.peak_rss,
        }
    }
}

/// Whether this signal, sent twice, means that the container's process is not to be asked again. The others are just
/// passed on, as often as they come.
fn insists(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGQUIT)
}

/// Reads what there is; 0 bytes mean that there is nothing now, or that the line has ended, which is noted.
fn read(source: Source, mut line: &UnixStream, chunk: &mut [u8], open: &mut Vec<Source>) -> Result<usize> {
    match line.read(chunk) {
        Ok(count) if count > 0 => Ok(count),
        // A reset is how a socket ends whose other end left something unread.
        Ok(_) => {
            open.retain(|open| *open != source);
            Ok(0)
        }
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {
            open.retain(|open| *open != source);
            Ok(0)
        }
        Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {
            Ok(0)
        }
        Err(e) => Err(e).with_context(|| format!("cannot read from the VM ({source:?})")),
    }
}

#[cfg(test)]
mod tests;

//! A template is made: its machine boots, and is frozen where tether waits for what to run.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use protocol::State;
use serde_json::Value;

use super::folder::{MEMORY, STATE, digest, written};
use super::machine::Machine;
use super::thaw::with_state;
use super::{Lock, Templates};
use crate::accel::Accel;
use crate::qmp::CAPABILITIES;
use crate::text::harmless;
use crate::transport::{Arrival, pair};
use crate::vm::Vm;

/// Asked now and then: a signal that ends the work.
pub type Look<'a> = dyn FnMut() -> Result<Option<Signal>> + 'a;

/// How often that is, and how often someone else's work is looked after.
const TICK: Duration = Duration::from_millis(50);
/// How long someone else may take to make a template.
const OTHERS: Duration = Duration::from_secs(600);
/// How long the machine goes on when tether waits, before it is frozen: what the kernel has put off until it is idle is done once,
/// and not in each copy.
const SETTLING: Duration = Duration::from_millis(1500);
/// A knock, in bytes (PROTOCOL.md): tether has opened the channel, and waits.
const KNOCK: usize = 42;
/// The most that is kept of what a machine and QEMU say, in bytes.
const WORDS: usize = 4000;

/// A signal has ended the work.
#[derive(Debug)]
pub struct Interrupted(pub Signal);

impl fmt::Display for Interrupted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "interrupted by {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// What came of it.
pub(super) struct Made {
    /// QEMU's version.
    pub qemu: String,
    /// As in the record.
    pub memory: (u64, i64),
    /// As in the record.
    pub state: (u64, String),
}

/// Keeps all others from making and removing templates, once they have done what they do.
///
/// # Errors
/// `look` has seen a signal: [`Interrupted`]; it takes too long.
pub fn wait_for_lock(templates: &Templates, look: &mut Look) -> Result<Lock> {
    let end = Instant::now() + OTHERS;
    loop {
        if let Some(lock) = templates.try_lock()? {
            return Ok(lock);
        }
        if let Some(signal) = look()? {
            return Err(Interrupted(signal).into());
        }
        if Instant::now() > end {
            bail!("another process has been making a template for {} s", OTHERS.as_secs());
        }
        std::thread::sleep(TICK);
    }
}

/// Boots `machine`, and writes its memory and its state to files in `dir`, which are on the disk then.
///
/// # Errors
/// It does not boot, in time or at all; QEMU cannot freeze it; `look` has seen a signal: [`Interrupted`].
pub(super) fn freeze(dir: &Path, machine: &Machine, look: &mut Look) -> Result<Made> {
    let file = |name| {
        let path = dir.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        file.with_context(|| format!("cannot make {}", path.display()))
    };
    let (memory, state) = (file(MEMORY)?, file(STATE)?);
    memory.set_len(machine.memory()).context("cannot make a template's memory")?;
    let mut booting = Booting::start(machine, &memory, look)?;
    booting.wait_for_knock()?;
    booting.settle()?;
    let qemu = booting.freeze(&state)?;
    // The last that could write to its memory.
    drop(booting);
    let sync = || memory.sync_all().and_then(|()| state.sync_all());
    sync().context("cannot write a template to the disk")?;
    Ok(Made { qemu, memory: written(&memory)?, state: digest(&state)? })
}

/// A machine on its way.
struct Booting<'a, 'b> {
    vm: Vm,
    wires: crate::vm::Wires,
    look: &'a mut Look<'b>,
    patience: Duration,
    deadline: Instant,
    /// Bytes that have come on the channel.
    heard: usize,
    /// The end of what came on the console, and on QEMU's stderr.
    said: [Vec<u8>; 2],
    /// What came of QMP, and is no whole line yet; and the lines.
    line: Vec<u8>,
    answers: Vec<Value>,
    ended: bool,
}

impl<'a, 'b> Booting<'a, 'b> {
    fn start(machine: &Machine, memory: &File, look: &'a mut Look<'b>) -> Result<Self> {
        let options = machine.options();
        let (channel, device) = options.transport()?.make(None)?;
        let (console, theirs_console) = pair(None, "console")?;
        let (monitor, theirs_monitor) = pair(None, "qmp")?;
        let mut descriptors = machine.descriptors(
            device,
            theirs_console.as_raw_fd(),
            theirs_monitor.as_raw_fd(),
            memory.as_raw_fd(),
        );
        descriptors.held = vec![memory.as_raw_fd()];
        let (vm, errors) = Vm::spawn(machine.arguments(&descriptors)?, &descriptors, false)?;
        for line in [&console, &monitor] {
            line.set_nonblocking(true)?;
        }
        let patience = options.boot_timeout.unwrap_or(match machine.accel() {
            Accel::Kvm => Duration::from_secs(60),
            Accel::Tcg => Duration::from_secs(180),
        });
        Ok(Self {
            vm,
            wires: crate::vm::Wires { channel, console, monitor, errors: Some(errors) },
            look,
            patience,
            deadline: Instant::now() + patience,
            heard: 0,
            said: [vec![], vec![]],
            line: vec![],
            answers: vec![],
            ended: false,
        })
    }

    /// Until tether has opened the channel. (It says nothing else before a host has answered.)
    fn wait_for_knock(&mut self) -> Result<()> {
        while self.heard < KNOCK {
            self.turn("it did not come to where it waits for what to run")?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        let end = Instant::now() + SETTLING;
        while Instant::now() < end {
            self.turn("it did not come to rest")?;
        }
        Ok(())
    }

    /// Writes the state down. Gives QEMU's version.
    fn freeze(&mut self, state: &File) -> Result<String> {
        self.say(CAPABILITIES)?;
        with_state(&self.wires.monitor, state, "migrate")
            .context("cannot tell QEMU to freeze the machine")?;
        loop {
            self.say(b"{\"execute\":\"query-migrate\"}\n")?;
            self.turn("it was not frozen")?;
            for answer in &self.answers {
                if let Some(error) = answer.get("error") {
                    bail!("QEMU cannot freeze the machine: {}", text(error, "/desc"));
                }
                match text(answer, "/return/status").as_str() {
                    "completed" => return Ok(self.version()),
                    "failed" | "cancelled" => {
                        bail!("QEMU could not freeze the machine: {}", text(answer, "/return/error-desc"));
                    }
                    _ => {}
                }
            }
        }
    }

    fn version(&self) -> String {
        let greeting = self.answers.iter().find_map(|answer| answer.pointer("/QMP/version"));
        let Some(greeting) = greeting else { return "unknown".to_owned() };
        let part = |path: &str| greeting.pointer(path).and_then(Value::as_u64).unwrap_or_default();
        let numbers = format!("{}.{}.{}", part("/qemu/major"), part("/qemu/minor"), part("/qemu/micro"));
        match text(greeting, "/package") {
            package if package.is_empty() => numbers,
            package => format!("{numbers} ({package})"),
        }
    }

    fn say(&self, command: &[u8]) -> Result<()> {
        (&self.wires.monitor).write_all(command).context("cannot tell QEMU to freeze the machine")
    }

    /// Waits a moment for what is said, and takes it.
    fn turn(&mut self, failing: &str) -> Result<()> {
        if let Some(signal) = (self.look)()? {
            return Err(Interrupted(signal).into());
        }
        let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
        let errors = self.wires.errors.as_ref().map(|errors| PollFd::new(errors.as_fd(), PollFlags::POLLIN));
        let lines = [self.wires.console.as_fd(), self.wires.monitor.as_fd()];
        let mut fds: Vec<_> = lines.map(|line| PollFd::new(line, PollFlags::POLLIN)).into();
        fds.extend(errors);
        fds.extend(self.wires.channel.interests(false));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for a template"),
        }
        drop(fds);
        self.read()?;
        if self.ended {
            let verdict = self.vm.wait()?.unwrap_or_else(|| "the VM has ended".to_owned());
            return Err(self.with_last_words(&format!("{verdict}: {failing}")));
        }
        if Instant::now() > self.deadline {
            let seconds = self.patience.as_secs();
            let late = format!("{failing} within {seconds} s; --boot-timeout gives more time");
            return Err(self.with_last_words(&late));
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let mut chunk = [0; 4096];
        match self.wires.channel.read(&mut chunk, State::Waiting)? {
            Arrival::Bytes(count) => self.heard += count,
            Arrival::Ended | Arrival::Went => self.ended = true,
            Arrival::Nothing | Arrival::Came => {}
        }
        if let Ok(count) = (&self.wires.console).read(&mut chunk) {
            keep_last(&mut self.said[0], &chunk[..count]);
        }
        if let Some(errors) = &self.wires.errors
            && let Ok(count) = nix::unistd::read(errors, &mut chunk)
        {
            keep_last(&mut self.said[1], &chunk[..count]);
        }
        while let Ok(count @ 1..) = (&self.wires.monitor).read(&mut chunk) {
            self.line.extend_from_slice(&chunk[..count]);
        }
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = self.line.drain(..=end).collect();
            self.answers.extend(serde_json::from_slice::<Value>(&line));
        }
        Ok(())
    }

    fn with_last_words(&self, what: &str) -> anyhow::Error {
        // The console's, if there are any.
        let last = self.said.iter().find(|said| !said.is_empty());
        match last {
            Some(said) => anyhow!("{what}; the last that was said: {}", harmless(said, WORDS)),
            None => anyhow!("{what}"),
        }
    }
}

fn keep_last(said: &mut Vec<u8>, more: &[u8]) {
    said.extend_from_slice(more);
    let extra = said.len().saturating_sub(WORDS);
    said.drain(..extra);
}

fn text(value: &Value, path: &str) -> String {
    harmless(value.pointer(path).and_then(Value::as_str).unwrap_or_default().as_bytes(), WORDS)
}

//! A host for tests of execs: the channel's link and nothing else, driven by hand.

use crate::harness::{self, Running};
use anyhow::{Context, Result, bail, ensure};
use protocol::oci::{ConsoleSize, Process};
use protocol::{Event, ExitStatus, HostLink, Seed, Start, Stream, ToGuest, ToHost};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use vch::execs::{Execs, State};
use vch::exit::End;
use vch::transport::{Arrival, Channel, Line};

/// A VM, and what was said.
pub struct Host {
    running: Running,
    pub link: HostLink,
    pub execs: Execs,
    /// What is still to be sent to a session.
    inputs: BTreeMap<u32, Vec<u8>>,
    outputs: BTreeMap<(u32, Stream), Vec<u8>>,
    /// Sessions of which nothing is read.
    pub unread: BTreeSet<u32>,
    pub told_to_start: bool,
    pub started: bool,
    pub exited: Option<ExitStatus>,
    /// What execs came to before the container's exit was known.
    pub ended_before: usize,
    pub peak_rss: u64,
    pub stopped: bool,
}

/// What came of an exec.
#[derive(Debug)]
pub struct Done {
    pub end: End,
    pub out: Vec<u8>,
    pub err: Vec<u8>,
}

impl Done {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    pub fn gives(&self, text: &str) -> Result<()> {
        ensure!(self.text() == text && self.err.is_empty(), "{:?}, not {text:?}: {self:?}", self.text());
        ensure!(self.end == End::Exited(ExitStatus::Code(0)), "{self:?}");
        Ok(())
    }
}

impl Host {
    /// Boots a VM that is to run `script`, and speaks to it over this transport.
    pub fn boot(over: Channel, script: &str) -> Result<Self> {
        let mut options = harness::on(over, harness::shell(script));
        options.env = vec!["PATH=/bin".into()];
        options.hostname = Some("exec-test".into());
        let running = harness::start_shell(&options)?;
        Ok(Self {
            link: HostLink::host(vch::random::bytes()?, running.wires.channel.is_lossy()),
            running,
            execs: Execs::default(),
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            unread: BTreeSet::new(),
            told_to_start: false,
            started: false,
            exited: None,
            ended_before: 0,
            peak_rss: 0,
            stopped: false,
        })
    }

    /// The container's own process, with other arguments.
    pub fn process(&self, args: &[&str]) -> Process {
        Process {
            args: args.iter().map(ToString::to_string).collect(),
            ..self.running.machine.config.process.clone()
        }
    }

    /// `sh -c script`, as root.
    pub fn shell(&mut self, script: &str) -> Result<u32> {
        self.exec(self.process(&["sh", "-c", script]), Some("0"), None)
    }

    /// Starts an exec, with all of its stdin, if any.
    pub fn exec(&mut self, process: Process, user: Option<&str>, stdin: Option<&[u8]>) -> Result<u32> {
        let user = user.map(str::to_owned);
        // Those that were closed count until the guest has confirmed it, which it cannot while the line is made anew.
        self.until("room for a session", |host| {
            host.link.can_open() || host.execs.count() >= protocol::MOST_SESSIONS - 1
        })?;
        let session = self.execs.start(&mut self.link, process, user, stdin.is_some())?;
        if let Some(bytes) = stdin {
            self.inputs.insert(session, bytes.to_vec());
        }
        Ok(session)
    }

    /// Waits until it has ended and its output has come, closes it, and gives all of it.
    pub fn finish(&mut self, session: u32) -> Result<Done> {
        self.until("an exec's end", |host| host.execs.ended(&host.link, session).is_some())?;
        let Some(State::Ended(end)) = self.execs.state(session).cloned() else { bail!("not reached") };
        self.execs.close(&mut self.link, session);
        let mut output = |stream| self.outputs.remove(&(session, stream)).unwrap_or_default();
        Ok(Done { end, out: output(Stream::Stdout), err: output(Stream::Stderr) })
    }

    /// `sh -c script` from start to end.
    pub fn run(&mut self, script: &str) -> Result<Done> {
        let session = self.shell(script)?;
        self.finish(session)
    }

    pub fn output(&self, session: u32) -> String {
        let bytes = self.outputs.get(&(session, Stream::Stdout)).map_or(&[][..], Vec::as_slice);
        String::from_utf8_lossy(bytes).into_owned()
    }

    pub fn resize(&mut self, session: u32, height: u16, width: u16) -> Result<()> {
        self.execs.resize(&mut self.link, session, ConsoleSize { height, width })
    }

    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(300);
        while !condition(self) {
            ensure!(
                Instant::now() < end,
                "not within five minutes: {what}; the link is {:?}, and has {} bytes to write",
                self.link.state(),
                self.link.output().len()
            );
            if !self.turn()? {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<bool> {
        let line = &mut self.running.wires.channel;
        line.turn(&mut self.link)?;
        let mut chunk = [0; 64 << 10];
        let arrival = line.read(&mut chunk, self.link.state())?;
        ensure!(arrival != Arrival::Ended, "the VM has ended");
        Line::tell(arrival, &chunk, &mut self.link)?;
        while let Some(event) = self.link.event()? {
            if let Event::Message(message) = event {
                self.take(message)?;
            }
        }
        let sessions: Vec<u32> = self.link.sessions().collect();
        for session in sessions {
            self.feed(session);
            if !self.unread.contains(&session) {
                self.read(session);
            }
        }
        let wrote = self.running.wires.channel.flush(&mut self.link)?;
        Ok(wrote || arrival != Arrival::Nothing)
    }

    fn take(&mut self, message: ToHost) -> Result<()> {
        match message {
            ToHost::Ready { .. } => {
                let machine = self.running.machine.clone();
                let time = 1_700_000_000_000_000_000;
                self.link.send(&ToGuest::Start(Box::new(Start {
                    machine,
                    time,
                    seed: Seed([7; 32]),
                    stdin: false,
                })))?;
                self.told_to_start = true;
            }
            ToHost::Started { .. } => self.started = true,
            ToHost::Exec { session, report } => {
                self.execs.take(session, report)?;
                let ended = matches!(self.execs.state(session), Some(State::Ended(_)));
                self.ended_before += usize::from(ended && self.exited.is_none());
            }
            ToHost::Exited { status, peak_rss, .. } => {
                self.exited = Some(status);
                self.peak_rss = peak_rss;
            }
            ToHost::Stopped { .. } => self.stopped = true,
            other => bail!("{other:?}"),
        }
        Ok(())
    }

    fn feed(&mut self, session: u32) {
        let Some(bytes) = self.inputs.get_mut(&session) else { return };
        let filled = self.link.fill(session, Stream::Stdin, |room| {
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            Ok::<_, std::convert::Infallible>(count)
        });
        if let Ok(Some(count)) = filled {
            bytes.drain(..count);
        }
        if bytes.is_empty() {
            self.link.end(session, Stream::Stdin);
            self.inputs.remove(&session);
        }
    }

    fn read(&mut self, session: u32) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = self.link.pending(session, stream).to_vec();
            self.link.consume(session, stream, pending.len());
            self.outputs.entry((session, stream)).or_default().extend(pending);
        }
    }

    /// Types into a terminal whose input is left open.
    pub fn types(&mut self, session: u32, keys: &[u8]) -> Result<()> {
        let filled = self.link.fill(session, Stream::Stdin, |room| {
            room.get_mut(..keys.len()).context("no room")?.copy_from_slice(keys);
            anyhow::Ok(keys.len())
        })?;
        ensure!(filled == Some(keys.len()), "{filled:?}");
        Ok(())
    }
}

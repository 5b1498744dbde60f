//! The user's side: stdin, stdout, stderr, signals and the terminal, for a container that a monitor has.
//!
//! Promises: nothing is buffered without bound; nobody's slowness stops anything but what waits for them; the terminal is
//! as it was, however this ends.

pub mod control;
pub mod detach;
pub mod find;
pub mod launch;
mod lines;

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use protocol::Stream;
use protocol::oci::ConsoleSize;

use crate::conversation::SESSION;
use crate::log::Offsets;
use crate::monitor::message::{Attach, Ended, Exec, Start, ToMonitor, ToMonitorLine};
use crate::monitor::wait;
use crate::options::RunOptions;
use crate::progress::Progress;
use crate::stdio::{Input, Output, Stdio};
use crate::terminal::{self, Raw};
use detach::Keys;

/// Nothing more is heard of the monitor while so many bytes of our own words wait to be shown.
const SHOWN: usize = 64 << 10;

/// How a client's time ends.
#[derive(Debug)]
pub enum Finish {
    /// The container has ended, and all its output is written.
    Ended(Ended),
    /// The container runs, under this ID, which was all there was to wait for.
    Started(String),
    /// The user has pressed the keys for it.
    Detached,
    /// Nobody reads this stream any more.
    Closed(Stream),
    /// The monitor is gone.
    Lost,
}

/// What it is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// The container is run for it.
    Owner,
    /// It has attached to the container.
    Visitor,
    /// A process beside the container's is run for it.
    Exec,
}

/// Something to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Monitor,
    Signals,
    Stdin,
    Stdout,
    Stderr,
}

/// A client.
pub struct Client<'a> {
    line: ToMonitorLine,
    role: Role,
    attach: Attach,
    stdio: &'a Stdio,
    stdin: Option<Input>,
    stdout: Output,
    stderr: Output,
    keys: Option<Keys>,
    /// Whether stdin is a terminal that goes raw.
    raw: bool,
    /// Held while the terminal is raw.
    mode: Option<Raw>,
    size: Option<ConsoleSize>,
    /// Whether signals can still come.
    listening: bool,
    /// Whether a signal that asks for an end was passed on.
    asked: bool,
    progress: Progress,
    start: Instant,
    id: Option<String>,
    running: bool,
    /// Whether it is done as soon as the container runs.
    brief: bool,
    ended: Option<Ended>,
    /// Where the output that we get begins.
    begin: Option<Offsets>,
    /// A stream that could not be written to.
    failed: Option<(Stream, Errno)>,
}

impl<'a> Client<'a> {
    /// The one that a container is run for.
    ///
    /// # Errors
    /// The user's streams are not fit for what is asked for; the system's.
    pub fn owner(line: UnixStream, options: &RunOptions, stdio: &'a Stdio) -> Result<Self> {
        let terminal = stdio.stdin.is_terminal();
        if options.tty && options.interactive && !terminal && !options.detach {
            bail!("the input device is not a TTY: -t with -i needs a terminal");
        }
        let wanted = options.interactive || (options.tty && terminal && !options.detach);
        let attach = Attach {
            output: (!options.detach).then_some(Start::At(0, 0)),
            stdin: wanted,
            owner: true,
            size: terminal::size(&stdio.stdin),
        };
        let first = ToMonitor::Attach(attach);
        let mut client = Self::new(line, Role::Owner, attach, &first, options.tty, stdio)?;
        client.brief = options.detach;
        if options.detach {
            (client.stdin, client.raw) = (None, false);
        }
        if options.tty {
            client.keys = Some(Keys::parse(&options.detach_keys)?);
        }
        Ok(client)
    }

    /// One that attaches to a container, which has a terminal or not.
    ///
    /// # Errors
    /// The system's.
    pub fn attached(
        line: UnixStream,
        attach: Attach,
        tty: bool,
        keys: Option<Keys>,
        stdio: &'a Stdio,
    ) -> Result<Self> {
        let first = ToMonitor::Attach(attach);
        let mut client = Self::new(line, Role::Visitor, attach, &first, tty, stdio)?;
        client.keys = keys;
        Ok(client)
    }

    /// One that runs a process beside a container's; without `output`, until that runs.
    ///
    /// # Errors
    /// The system's.
    pub fn exec(
        line: UnixStream,
        exec: Exec,
        output: bool,
        keys: Option<Keys>,
        stdio: &'a Stdio,
    ) -> Result<Self> {
        let (tty, size) = (exec.process.terminal, exec.process.console_size);
        let attach = Attach { output: output.then_some(Start::Now), stdin: exec.stdin, owner: false, size };
        let first = ToMonitor::Exec(Box::new(exec));
        let mut client = Self::new(line, Role::Exec, attach, &first, tty, stdio)?;
        (client.keys, client.brief) = (keys, !output);
        Ok(client)
    }

    fn new(
        line: UnixStream,
        role: Role,
        attach: Attach,
        first: &ToMonitor,
        tty: bool,
        stdio: &'a Stdio,
    ) -> Result<Self> {
        let mut line = ToMonitorLine::connected(line)?;
        line.link.send(first)?;
        Ok(Self {
            line,
            role,
            attach,
            stdio,
            stdin: if attach.stdin { Some(Input::new(&stdio.stdin)?) } else { None },
            stdout: Output::new(&stdio.stdout)?,
            stderr: Output::new(&stdio.stderr)?,
            keys: None,
            raw: tty && attach.stdin && stdio.stdin.is_terminal(),
            mode: None,
            size: attach.size,
            listening: true,
            asked: false,
            progress: Progress::new(Instant::now()),
            start: Instant::now(),
            id: None,
            running: false,
            brief: false,
            ended: None,
            begin: None,
            failed: None,
        })
    }

    /// Goes on with another monitor, from where the output has been written.
    ///
    /// # Errors
    /// The system's.
    pub fn reconnect(&mut self, line: UnixStream) -> Result<()> {
        if let Some(Offsets { stdout, stderr }) = self.offsets() {
            self.attach.output = Some(Start::At(stdout, stderr));
        }
        self.line = ToMonitorLine::connected(line)?;
        self.begin = None;
        self.line.link.send(&ToMonitor::Attach(self.attach))?;
        if self.attach.stdin && self.stdin.is_none() {
            self.line.link.end(SESSION, Stream::Stdin);
        }
        Ok(())
    }

    /// Behind which bytes of the output it goes on, if it wants any, and knows.
    pub fn offsets(&self) -> Option<Offsets> {
        match (self.begin, self.attach.output?) {
            (Some(begin), _) => Some(Offsets {
                stdout: begin.stdout + self.position(Stream::Stdout),
                stderr: begin.stderr + self.position(Stream::Stderr),
            }),
            (None, Start::At(stdout, stderr)) => Some(Offsets { stdout, stderr }),
            (None, Start::Now) => None,
        }
    }

    fn position(&self, stream: Stream) -> u64 {
        self.line.link.position(SESSION, stream)
    }

    /// The container is the one of this ID.
    pub fn knows(&mut self, id: &str) {
        self.id = Some(id.to_owned());
    }

    /// The container's ID, once it is known.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Serves the user until there is nothing left to do.
    ///
    /// # Errors
    /// The user's streams fail.
    pub fn run(&mut self) -> Result<Finish> {
        let finish = self.turn_until_the_end();
        self.mode = None;
        self.progress.clear(self.stdio);
        match (finish?, self.failed) {
            (Finish::Ended(_), Some((stream, errno))) if !is_closed(errno) => {
                let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
                Err(errno).with_context(|| format!("cannot write to {name}"))
            }
            (finish, _) => Ok(finish),
        }
    }

    fn turn_until_the_end(&mut self) -> Result<Finish> {
        loop {
            if let Some(finish) = self.verdict() {
                return Ok(finish);
            }
            let due = if self.is_starting() { self.progress.due(self.stdio) } else { None };
            for (source, flags) in wait::ready(&self.interests(), due)? {
                if let Some(finish) = self.handle(source, flags)? {
                    return Ok(finish);
                }
            }
            if self.is_starting() {
                self.progress.starting(self.stdio, self.start.elapsed().as_secs_f64());
            }
        }
    }

    fn is_starting(&self) -> bool {
        self.id.is_some() && !self.running && self.ended.is_none() && self.role == Role::Owner
    }

    fn verdict(&mut self) -> Option<Finish> {
        if self.brief && self.running {
            return Some(Finish::Started(self.id.clone().unwrap_or_default()));
        }
        let written =
            [Stream::Stdout, Stream::Stderr].iter().all(|stream| self.line.link.finished(SESSION, *stream));
        if written && self.stderr.waiting() == 0 {
            return self.ended.take().map(Finish::Ended);
        }
        None
    }

    fn interests(&self) -> Vec<(Source, PollFd<'_>)> {
        let mut interests = Vec::with_capacity(5);
        let mut add = |source, wanted: bool, descriptor, flags| {
            if wanted {
                interests.push((source, PollFd::new(descriptor, flags)));
            }
        };
        let (read, write) = (PollFlags::POLLIN, PollFlags::POLLOUT);
        if let Some(signals) = &self.stdio.signals {
            add(Source::Signals, self.listening, signals.as_fd(), read);
        }
        if let Some(stdin) = &self.stdin {
            let wanted =
                self.running && self.ended.is_none() && self.line.link.room(SESSION, Stream::Stdin) > 0;
            add(Source::Stdin, wanted, stdin.as_fd(), read);
        }
        let pending = |stream| !self.line.link.pending(SESSION, stream).is_empty();
        add(Source::Stdout, pending(Stream::Stdout), self.stdout.as_fd(), write);
        let words = self.stderr.waiting() > 0;
        add(Source::Stderr, pending(Stream::Stderr) || words, self.stderr.as_fd(), write);
        interests.push((Source::Monitor, self.line.interest(self.stderr.waiting() < SHOWN)));
        interests
    }
}

fn is_closed(errno: Errno) -> bool {
    matches!(errno, Errno::EPIPE | Errno::ECONNRESET)
}

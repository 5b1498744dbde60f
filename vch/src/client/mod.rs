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
use crate::monitor::message::{Attach, Ended, Start, ToMonitor, ToMonitorLink};
use crate::monitor::wait;
use crate::options::RunOptions;
use crate::progress::Progress;
use crate::random;
use crate::stdio::{Input, Output, Stdio};
use crate::terminal::{self, Raw};
use detach::Keys;

/// Read at a time.
const CHUNK: usize = 64 << 10;
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
    line: UnixStream,
    link: ToMonitorLink,
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
        let mut client = Self::new(line, attach, options.tty, stdio)?;
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
        let mut client = Self::new(line, attach, tty, stdio)?;
        client.keys = keys;
        Ok(client)
    }

    fn new(line: UnixStream, attach: Attach, tty: bool, stdio: &'a Stdio) -> Result<Self> {
        line.set_nonblocking(true)?;
        let nonce = random::bytes().context("cannot read random numbers")?;
        let mut link = ToMonitorLink::host(nonce, false);
        link.send(&ToMonitor::Attach(attach))?;
        Ok(Self {
            line,
            link,
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
        line.set_nonblocking(true)?;
        if let Some(Offsets { stdout, stderr }) = self.offsets() {
            self.attach.output = Some(Start::At(stdout, stderr));
        }
        let nonce = random::bytes().context("cannot read random numbers")?;
        self.link = ToMonitorLink::host(nonce, false);
        self.begin = None;
        self.line = line;
        self.link.send(&ToMonitor::Attach(self.attach))?;
        if self.attach.stdin && self.stdin.is_none() {
            self.link.end(SESSION, Stream::Stdin);
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
        self.link.position(SESSION, stream)
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
        self.id.is_some() && !self.running && self.ended.is_none() && self.attach.owner
    }

    fn verdict(&mut self) -> Option<Finish> {
        if self.brief && self.running {
            return self.id.clone().map(Finish::Started);
        }
        let written =
            [Stream::Stdout, Stream::Stderr].iter().all(|stream| self.link.finished(SESSION, *stream));
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
        let sending = if self.link.output().is_empty() { PollFlags::empty() } else { write };
        let hearing = if self.stderr.waiting() < SHOWN { read } else { PollFlags::empty() };
        add(Source::Monitor, true, self.line.as_fd(), hearing | sending);
        if let Some(signals) = &self.stdio.signals {
            add(Source::Signals, self.listening, signals.as_fd(), read);
        }
        if let Some(stdin) = &self.stdin {
            let wanted = self.running && self.ended.is_none() && self.link.room(SESSION, Stream::Stdin) > 0;
            add(Source::Stdin, wanted, stdin.as_fd(), read);
        }
        let pending = |stream| !self.link.pending(SESSION, stream).is_empty();
        add(Source::Stdout, pending(Stream::Stdout), self.stdout.as_fd(), write);
        let words = self.stderr.waiting() > 0;
        add(Source::Stderr, pending(Stream::Stderr) || words, self.stderr.as_fd(), write);
        interests
    }
}

fn is_closed(errno: Errno) -> bool {
    matches!(errno, Errno::EPIPE | Errno::ECONNRESET)
}

//! `vch logs`: what a container has written.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use clap::Args;
use nix::poll::{PollFd, PollFlags};

use super::{Store, time};
use crate::containers::{Container, State};
use crate::guest_log;
use crate::log::{Reader, Stream, Watch};
use crate::monitor::wait;

/// How often to look whether the container has ended.
const LOOK: Duration = Duration::from_millis(500);
/// How often to look at the log, where nothing tells of it.
const TICK: Duration = Duration::from_millis(100);

/// Options of `vch logs`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Name or ID of the container
    container: String,

    /// Go on until the container has ended
    #[arg(short, long)]
    follow: bool,

    /// The last so many lines
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = tail)]
    tail: Tail,

    /// What was written since then: 2026-11-24T02:50:00Z, 10m, or seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<SystemTime>,

    /// With the time before each line
    #[arg(short, long)]
    timestamps: bool,

    /// What the guest's kernel and tether have said instead: errors and worse, or all with run --debug
    #[arg(long, conflicts_with_all = ["follow", "since", "timestamps"])]
    guest: bool,

    #[command(flatten)]
    store: Store,
}

/// How many lines.
#[derive(Debug, Clone, Copy)]
enum Tail {
    All,
    Last(u64),
}

fn tail(text: &str) -> Result<Tail> {
    Ok(if text == "all" { Tail::All } else { Tail::Last(text.parse().context("a number of lines, or all")?) })
}

/// Writes the log to stdout and stderr.
///
/// # Errors
/// There is no such container; the log cannot be read.
pub fn run(options: &Options) -> Result<u8> {
    let container = options.store.container(&options.container)?;
    if options.guest {
        return guest(options, &container);
    }
    let watch = if options.follow { Watch::new(&container.log()).ok() } else { None };
    let Some(mut reader) = options.reader(&container)? else { return Ok(0) };
    loop {
        if let Some(watch) = &watch {
            watch.clear()?;
        }
        // Asked before the log is read, so that all is read that came before the end.
        let ended = !options.follow || has_ended(&options.store, &container)?;
        if !copy(&mut reader, options.timestamps)? || ended {
            return Ok(0);
        }
        match &watch {
            Some(watch) => {
                let watched = [((), PollFd::new(watch.as_fd(), PollFlags::POLLIN))];
                wait::ready(&watched, Some(Instant::now() + LOOK))?;
            }
            None => std::thread::sleep(TICK),
        }
    }
}

fn guest(options: &Options, container: &Container) -> Result<u8> {
    let text = guest_log::read(&container.dir)?;
    let lines: Vec<_> = text.lines().collect();
    let first = match options.tail {
        Tail::All => 0,
        Tail::Last(count) => lines.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX)),
    };
    let text: String = lines.iter().skip(first).map(|line| format!("{line}\n")).collect();
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write the log"),
        _ => Ok(0),
    }
}

impl Options {
    /// None where the container has no log, for it never came to have a VM.
    fn reader(&self, container: &Container) -> Result<Option<Reader>> {
        // If nobody is there to write it, someone is to be.
        let state = self.store.state(container)?;
        let log = container.log();
        if !log.exists() {
            if !self.follow || matches!(state, State::Exited { .. }) {
                return Ok(None);
            }
            while !log.exists() {
                if has_ended(&self.store, container)? {
                    return Ok(None);
                }
                std::thread::sleep(TICK);
            }
        }
        let reader = match self.tail {
            Tail::All => Reader::open(&log)?,
            Tail::Last(count) => Reader::tail(&log, count)?,
        };
        Ok(Some(match self.since {
            Some(time) => reader.since(time),
            None => reader,
        }))
    }
}

/// One that is gone has ended, too.
fn has_ended(store: &Store, container: &Container) -> Result<bool> {
    match store.state(container) {
        Ok(State::Exited { .. }) => container.has_vm().map(|lives| !lives),
        Ok(_) => Ok(false),
        Err(_) if !container.dir.exists() => Ok(true),
        Err(error) => Err(error),
    }
}

/// Copies what there is. Says whether anyone still reads.
fn copy(reader: &mut Reader, timestamps: bool) -> Result<bool> {
    let (mut stdout, mut stderr) =
        (std::io::BufWriter::new(std::io::stdout().lock()), std::io::stderr().lock());
    while let Some(entry) = reader.next()? {
        let written = match entry.stream {
            Stream::Stdout => entry.write_to(&mut stdout, timestamps),
            Stream::Stderr => entry.write_to(&mut stderr, timestamps),
        };
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(false),
            written => written.context("cannot write the log")?,
        }
    }
    match stdout.flush() {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.context("cannot write the log").map(|()| true),
    }
}

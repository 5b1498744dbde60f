//! A guest that obeys orders: the bare port's init, or a shell in a container.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::bench::bare::Running;

/// Bytes that are written or read at a time, and a block of `dd`.
const CHUNK: usize = 64 << 10;
/// What the guest says when it is there, and when it has read what it was to read.
const READY: u8 = b'r';

/// What obeys in a container: the same as `tether/src/bin/port.rs`, but that an order is a line, counts blocks, and that an echo ends
/// with stdin. dd takes no byte more than it is told, and busybox's head and wc would look at each byte.
pub const SCRIPT: &str = "printf r
while read -r letter blocks; do
    case $letter in
    '<') dd of=/dev/null bs=65536 iflag=fullblock count=$blocks 2>/dev/null; printf r ;;
    '>') dd if=/dev/zero bs=65536 count=$blocks 2>/dev/null ;;
    '=') exec cat ;;
    u) cat /proc/uptime ;;
    esac
done";

/// What can be ordered.
#[derive(Clone, Copy)]
pub enum Letter {
    /// Read so many bytes.
    Sink = b'<' as isize,
    /// Write so many.
    Source = b'>' as isize,
    /// Send back so many. The last order.
    Echo = b'=' as isize,
    /// Tell the uptime.
    Uptime = b'u' as isize,
}

/// One guest, and the line to it.
pub struct Guest {
    to: File,
    from: File,
    kind: Kind,
}

enum Kind {
    Bare(Box<Running>),
    Container(Child),
}

impl Guest {
    /// Waits until the machine is there.
    pub fn bare(machine: Running) -> Result<Self> {
        let interests = machine.wires.channel.interests(false);
        let socket = interests.first().context("the channel has no descriptor")?.as_fd();
        fcntl(socket, FcntlArg::F_SETFL(OFlag::empty())).context("making a socket wait")?;
        let duplicate = || socket.try_clone_to_owned().map(File::from).context("duplicating a socket");
        let (to, from) = (duplicate()?, duplicate()?);
        drop(interests);
        Self { to, from, kind: Kind::Bare(Box::new(machine)) }.greeted()
    }

    /// The same for what `vch run` starts.
    pub fn container(mut command: Command) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.context("starting vch")?;
        let to = child.stdin.take().map(OwnedFd::from).context("no stdin")?;
        let from = child.stdout.take().map(OwnedFd::from).context("no stdout")?;
        Self { to: to.into(), from: from.into(), kind: Kind::Container(child) }.greeted()
    }

    fn greeted(mut self) -> Result<Self> {
        self.hear_ready()?;
        Ok(self)
    }

    fn hear_ready(&mut self) -> Result<()> {
        let mut said = [0];
        self.from.read_exact(&mut said).context("the guest has gone")?;
        ensure!(said == [READY], "the guest says {said:?}");
        Ok(())
    }

    /// Orders; of a container, whole blocks, except to echo.
    pub fn order(&mut self, letter: Letter, bytes: u64) -> Result<()> {
        let code = letter as u8;
        let order = match self.kind {
            Kind::Bare(_) => [&[code][..], &bytes.to_le_bytes()].concat(),
            Kind::Container(_) => format!("{} {}\n", char::from(code), bytes / CHUNK as u64).into_bytes(),
        };
        self.to.write_all(&order).context("ordering")
    }

    /// Sends so many bytes, and waits until the guest has them.
    pub fn sink(&mut self, bytes: u64) -> Result<()> {
        self.order(Letter::Sink, bytes)?;
        send(&self.to, bytes)?;
        self.hear_ready()
    }

    /// Gets so many bytes.
    pub fn source(&mut self, bytes: u64) -> Result<()> {
        self.order(Letter::Source, bytes)?;
        take(&self.from, bytes)
    }

    /// To one that echoes: sends so many bytes and gets them back, at once.
    pub fn both(&mut self, bytes: u64) -> Result<()> {
        thread::scope(|scope| {
            let sender = scope.spawn(|| send(&self.to, bytes));
            take(&self.from, bytes)?;
            sender.join().unwrap_or_else(|_| bail!("the sender panicked"))
        })
    }

    /// To one that echoes: what each of so many bytes takes, one after the other.
    pub fn trips(&mut self, count: u64) -> Result<Vec<Duration>> {
        let trip = |_| {
            let start = Instant::now();
            send(&self.to, 1)?;
            take(&self.from, 1)?;
            Ok(start.elapsed())
        };
        (0..count).map(trip).collect()
    }

    /// How long the guest, which has one CPU, is not idle during `work`, by its own clock.
    pub fn busy(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<Duration> {
        let before = self.busy_so_far()?;
        work(self)?;
        Ok(self.busy_so_far()?.saturating_sub(before))
    }

    fn busy_so_far(&mut self) -> Result<Duration> {
        self.order(Letter::Uptime, 0)?;
        let mut line = vec![];
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            self.from.read_exact(&mut byte).context("the guest has gone")?;
            line.extend(byte);
        }
        let line = String::from_utf8(line)?;
        let mut numbers = line.split_whitespace().map(str::parse::<f64>);
        let (Some(Ok(up)), Some(Ok(idle))) = (numbers.next(), numbers.next()) else {
            bail!("the guest's uptime is {line:?}");
        };
        Ok(Duration::from_secs_f64((up - idle).max(0.0)))
    }

    /// Hangs up, and waits for its end.
    pub fn end(self) -> Result<()> {
        let Self { to, from, kind } = self;
        match kind {
            // The VM is killed.
            Kind::Bare(machine) => drop(machine),
            Kind::Container(mut child) => {
                drop(to);
                let status = child.wait().context("waiting for vch")?;
                ensure!(status.success(), "vch run ended with {status}");
            }
        }
        drop(from);
        Ok(())
    }
}

fn send(mut to: &File, bytes: u64) -> Result<()> {
    let chunk = [b'x'; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let part = part(left);
        to.write_all(&chunk[..part]).context("writing to the guest")?;
        left -= part as u64;
    }
    Ok(())
}

fn take(mut from: &File, bytes: u64) -> Result<()> {
    let mut chunk = [0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let count = from.read(&mut chunk[..part(left)]).context("reading from the guest")?;
        ensure!(count > 0, "the guest has gone, {left} bytes before the end");
        left -= count as u64;
    }
    Ok(())
}

fn part(left: u64) -> usize {
    usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))
}

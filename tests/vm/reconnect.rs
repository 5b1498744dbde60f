//! The host's end of the channel goes and comes back, at any byte, in the same process or in another.

use crate::harness::{self, Test, temporary};
use crate::tests_over_each;
use anyhow::{Context, Result, bail, ensure};
use protocol::{Event, ExitStatus, HostLink, Kept, MachineSpec, Seed, Start, Stream, ToGuest, ToHost};
use std::time::{Duration, Instant};
use vch::containers::Container;
use vch::transport::{Arrival, Channel, Line};

pub fn tests() -> Vec<Test> {
    tests_over_each![a_hundred_times]
}

/// How much is done over a transport.
#[derive(Clone, Copy)]
struct Amounts {
    /// Bytes that go there and back.
    length: u64,
    /// How often the line is cut.
    times: u32,
    /// What makes connections long enough that something comes through most of them.
    patience: u32,
}

impl Amounts {
    fn over(channel: Channel) -> Self {
        match channel {
            Channel::VirtioSerial => Self { length: 8 << 20, times: 100, patience: 1 },
            // vhost-device-vsock does not tell the guest that a host has gone which had not read all: it is found out.
            Channel::Vsock => Self { length: 8 << 20, times: 20, patience: 1 },
            // A dirty hello alone takes 60 ms.
            Channel::Serial => Self { length: 100_000, times: 40, patience: 2 },
        }
    }
}

fn byte(offset: u64) -> u8 {
    offset.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[5]
}

/// What survives the host's process.
#[derive(Default)]
struct Disk {
    out: u64,
    started: bool,
    exited: Option<ExitStatus>,
    stopped: bool,
}

struct Host {
    amounts: Amounts,
    link: HostLink,
    start: Option<ToGuest>,
    connected: bool,
    disk: Disk,
    connections: u32,
}

impl Host {
    fn turn(&mut self, line: &mut Line) -> Result<bool> {
        line.turn(&mut self.link)?;
        let mut chunk = [0; 10_000];
        let arrival = line.read(&mut chunk, self.link.state())?;
        ensure!(arrival != Arrival::Ended, "the VM has ended");
        Line::tell(arrival, &chunk, &mut self.link)?;
        while let Some(event) = self.link.event()? {
            match event {
                Event::Connected(_) => self.connected = true,
                Event::Message(message) => self.take(message)?,
            }
        }
        if self.disk.started && self.connected {
            self.feed();
        }
        self.write_out()?;
        Ok(line.flush(&mut self.link)? || arrival != Arrival::Nothing)
    }

    fn take(&mut self, message: ToHost) -> Result<()> {
        match message {
            ToHost::Ready { .. } => {
                let start = self.start.take().context("ready twice")?;
                self.link.send(&start)?;
            }
            ToHost::Started { .. } => self.disk.started = true,
            ToHost::Exited { status, .. } => self.disk.exited = Some(status),
            ToHost::Stopped { .. } => {
                self.disk.stopped = true;
                self.link.send(&ToGuest::Acknowledged)?;
            }
            other => bail!("{other:?}"),
        }
        Ok(())
    }

    fn feed(&mut self) {
        let at = self.link.position(0, Stream::Stdin);
        let length = self.amounts.length;
        let filled = self.link.fill(0, Stream::Stdin, |room| {
            let left = usize::try_from(length - at).unwrap_or(usize::MAX);
            let count = room.len().min(left);
            (at..).zip(&mut room[..count]).for_each(|(offset, free)| *free = byte(offset));
            Ok::<_, std::convert::Infallible>(count)
        });
        if matches!(filled, Ok(Some(0))) {
            self.link.end(0, Stream::Stdin);
        }
    }

    fn write_out(&mut self) -> Result<()> {
        let pending = self.link.pending(0, Stream::Stdout);
        let count = pending.len();
        for (offset, found) in (self.disk.out..).zip(pending) {
            ensure!(*found == byte(offset), "another byte at {offset}");
        }
        self.disk.out += count as u64;
        self.link.consume(0, Stream::Stdout, count);
        Ok(())
    }
}

/// `cat`, with its stdin and stdout on a line that is cut again and again.
fn a_hundred_times(over: Channel) -> Result<()> {
    let dir = temporary()?;
    let mut options = harness::on(over, harness::shell("cat"));
    options.env = vec!["PATH=/bin".into()];
    let container = harness::container(dir.path(), &options)?;
    let amounts = Amounts::over(over);
    let running = harness::start_shell_in(&container, &options)?;
    let host = serve(&container, amounts, running.wires.channel, running.machine.clone());
    drop(running.vm);
    let host = host?;
    ensure!(host.disk.out == amounts.length, "{} bytes came back", host.disk.out);
    ensure!(host.connections > amounts.times / 4, "it took {} connections only", host.connections);
    ensure!(host.disk.exited == Some(ExitStatus::Code(0)), "{:?}", host.disk.exited);
    Ok(())
}

fn serve(container: &Container, amounts: Amounts, line: Line, machine: MachineSpec) -> Result<Host> {
    let start = Some(ToGuest::Start(Box::new(Start {
        machine,
        time: 1_700_000_000_000_000_000,
        seed: Seed([7; 32]),
        stdin: true,
    })));
    let lossy = line.is_lossy();
    let mut line = Some(line);
    let link = HostLink::host(vch::random::bytes()?, lossy);
    let mut host = Host { amounts, link, start, connected: false, disk: Disk::default(), connections: 0 };
    let mut acknowledged = false;
    let end = Instant::now() + Duration::from_secs(400);
    for time in 0.. {
        let mut line = match line.take() {
            Some(line) => line,
            None => container.record.transport.reopen(&container.dir)?,
        };
        host.connections += 1;
        // Most of them short, so that it is cut in the middle of everything.
        let turns = if time < amounts.times {
            u32::from(vch::random::bytes::<1>()?[0]) * amounts.patience / 16
        } else {
            u32::MAX
        };
        let mut busy = 0;
        while busy < turns || !host.disk.started {
            ensure!(Instant::now() < end, "{} bytes came back, in {time} connections", host.disk.out);
            if host.turn(&mut line)? {
                busy += 1;
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
            if host.disk.exited.is_some() && host.link.finished(0, Stream::Stdout) && !acknowledged {
                acknowledged = true;
                host.link.send(&ToGuest::Acknowledged)?;
            }
            if host.disk.stopped && host.link.output().is_empty() {
                return Ok(host);
            }
        }
        drop(line);
        if time % 2 == 0 || host.disk.exited.is_some() {
            host.link.disconnect();
            host.link.reattach();
        } else {
            let kept = Kept::from([((0, Stream::Stdout), host.disk.out)]);
            host.link = HostLink::adopting(vch::random::bytes()?, lossy, kept);
            host.connected = false;
        }
    }
    bail!("not reached")
}

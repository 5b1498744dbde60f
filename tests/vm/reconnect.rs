//! The host's end of the channel goes and comes back, at any byte, in the same process or in another.

use crate::harness::{self, Test, temporary};
use crate::tests;
use anyhow::{Context, Result, bail, ensure};
use protocol::{Event, ExitStatus, HostLink, Kept, MachineSpec, Seed, Start, Stream, ToGuest, ToHost};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

pub fn tests() -> Vec<Test> {
    tests![a_hundred_times]
}

/// Bytes that go there and back.
const LENGTH: u64 = 8 << 20;
const TIMES: u32 = 100;

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
    link: HostLink,
    start: Option<ToGuest>,
    connected: bool,
    disk: Disk,
    connections: u32,
}

impl Host {
    fn turn(&mut self, line: &mut UnixStream) -> Result<bool> {
        let mut chunk = [0; 10_000];
        let mut moved = false;
        match line.read(&mut chunk) {
            Ok(0) => bail!("the VM has ended"),
            Ok(count) => {
                self.link.receive(&chunk[..count])?;
                moved = true;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
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
        match line.write(self.link.output()) {
            Ok(count) => {
                self.link.wrote(count);
                Ok(moved || count > 0)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(moved),
            Err(e) => Err(e.into()),
        }
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
        let filled = self.link.fill(0, Stream::Stdin, |room| {
            let left = usize::try_from(LENGTH - at).unwrap_or(usize::MAX);
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
fn a_hundred_times() -> Result<()> {
    let dir = temporary()?;
    let path = dir.path().join("channel");
    let listener = UnixListener::bind(&path)?;
    nix::fcntl::fcntl(&listener, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    let mut options = harness::shell("cat");
    options.env = vec!["PATH=/bin".into()];
    let descriptor = format!("chardev.channel.fd={}", listener.as_raw_fd());
    for setting in [descriptor.as_str(), "chardev.channel.server=on", "chardev.channel.wait=off"] {
        options.qemu_arg.extend(["-set".into(), setting.into()]);
    }
    let running = harness::start_shell(&options)?;
    let host = serve(&path, running.machine.clone());
    drop(running);
    let host = host?;
    ensure!(host.disk.out == LENGTH, "{} bytes came back", host.disk.out);
    ensure!(host.connections > TIMES / 2, "it took {} connections only", host.connections);
    ensure!(host.disk.exited == Some(ExitStatus::Code(0)), "{:?}", host.disk.exited);
    Ok(())
}

fn serve(path: &Path, machine: MachineSpec) -> Result<Host> {
    let start = Some(ToGuest::Start(Box::new(Start {
        machine,
        time: 1_700_000_000_000_000_000,
        seed: Seed([7; 32]),
        stdin: true,
    })));
    let link = HostLink::host(vch::random::bytes()?, false);
    let mut host = Host { link, start, connected: false, disk: Disk::default(), connections: 0 };
    let mut acknowledged = false;
    let end = Instant::now() + Duration::from_secs(180);
    for time in 0.. {
        let mut line = UnixStream::connect(path)?;
        host.connections += 1;
        line.set_nonblocking(true)?;
        // Most of them short, so that it is cut in the middle of everything.
        let turns = if time < TIMES { u32::from(vch::random::bytes::<1>()?[0]) / 16 } else { u32::MAX };
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
            host.link = HostLink::adopting(vch::random::bytes()?, false, kept);
            host.connected = false;
        }
    }
    bail!("not reached")
}

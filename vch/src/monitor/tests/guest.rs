//! A guest and a user made of threads, and the loop between them.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use nix::unistd::pipe;
use protocol::{Disks, ExitStatus, GuestLink, MachineSpec, Stream, ToGuest, ToHost, Uuid};

use crate::containers::{Container, Containers, Record};
use crate::conversation::SESSION;
use crate::exit::Outcome;
use crate::layers::OpenLayer;
use crate::monitor::relay::Plan;
use crate::options::RunOptions;
use crate::stdio::Stdio;
use crate::transport::Line;
use crate::vm::Wires;

/// The far ends of the wires.
pub(super) struct Guest {
    pub(super) link: GuestLink,
    pub(super) channel: UnixStream,
    pub(super) console: UnixStream,
    pub(super) monitor: UnixStream,
    _errors: OwnedFd,
}

impl Guest {
    /// Writes what waits to be written, and reads what has come; says whether the line still stands.
    pub(super) fn pump(&mut self) -> bool {
        let count = self.link.output().len();
        if count > 0 && self.channel.write_all(self.link.output()).is_err() {
            return false;
        }
        self.link.wrote(count);
        let mut chunk = [0; 65536];
        self.channel.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        match self.channel.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.link.receive(&chunk[..count]).unwrap();
                true
            }
            Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
        }
    }

    pub(super) fn message(&mut self) -> ToGuest {
        loop {
            match self.link.event().unwrap() {
                Some(protocol::Event::Message(message)) => return message,
                Some(protocol::Event::Connected(_)) => {}
                None => assert!(self.pump(), "the host has hung up"),
            }
        }
    }

    pub(super) fn send(&mut self, message: &ToHost) {
        self.link.send(message).unwrap();
        self.pump();
    }

    /// Up to the first frames.
    pub(super) fn greeted(mut self) -> Self {
        while self.link.state() != protocol::State::Connected {
            assert!(self.pump(), "the host has hung up");
        }
        self
    }

    /// Up to the start of the container.
    pub(super) fn started(mut self) -> Self {
        self.send(&ToHost::Ready { tether: "test".into(), timeline: vec![], restored: false });
        assert!(matches!(self.message(), ToGuest::Start(start) if start.time > 0));
        self.send(&ToHost::Started { timeline: vec![] });
        self
    }

    pub(super) fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let put = |room: &mut [u8]| {
                let count = room.len().min(bytes.len());
                room[..count].copy_from_slice(&bytes[..count]);
                Ok::<_, Infallible>(count)
            };
            let count = self.link.fill(SESSION, stream, put).unwrap().unwrap_or(0);
            bytes = &bytes[count..];
            assert!(self.pump(), "the host has hung up");
        }
    }

    pub(super) fn exited(&mut self, status: ExitStatus) {
        self.link.end(SESSION, Stream::Stdout);
        self.link.end(SESSION, Stream::Stderr);
        self.send(&ToHost::Exited { status, timeline: vec![], peak_rss: 7 });
    }

    /// The exit that all is well with.
    pub(super) fn leaves(mut self, status: ExitStatus) {
        self.exited(status);
        assert_eq!(self.message(), ToGuest::Acknowledged);
        self.send(&ToHost::Stopped { timeline: vec![] });
    }
}

/// The user's ends.
pub(super) struct User {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) signals: OwnedFd,
}

impl User {
    pub(super) fn signal(&self, signal: Signal) {
        let mut record = [0; 128];
        record[..4].copy_from_slice(&(signal as u32).to_ne_bytes());
        nix::unistd::write(&self.signals, &record).unwrap();
    }
}

pub(super) fn all(descriptor: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::fs::File::from(descriptor).read_to_end(&mut bytes).unwrap();
    bytes
}

/// One layer, with a hash tree.
pub(super) fn plan(boot_timeout: Duration) -> Plan {
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * 4096).unwrap();
    image_builder::verity::append(&file, 2 * 4096, [0; 16]).unwrap();
    let layer = OpenLayer::whole(Uuid::nil(), file, "layer 1 of 1".into()).unwrap();
    let disks = Disks { layers: vec![layer.spec(true).unwrap()], scratch: Uuid::nil(), ephemeral: false };
    let machine = MachineSpec { init: true, ..MachineSpec::new(protocol::oci::Spec::default(), disks) };
    let shared = vec![("share0".into(), "/host/f".into())];
    Plan {
        machine,
        layers: [layer].into(),
        shared,
        stdin: true,
        debug: false,
        boot_timeout,
        restore: None,
        qemu: None,
    }
}

pub(super) fn container(store: &std::path::Path, volumes: Vec<String>) -> Container {
    let record = Record { stdin: true, volumes, ..Record::new(crate::random::id().unwrap(), "web".into()) };
    Containers::of(store).create(record).unwrap()
}

/// Runs the loop between a guest and a user, each on a thread of its own.
pub(super) fn between(
    guest: impl FnOnce(Guest) + Send + 'static,
    user: impl FnOnce(User) + Send + 'static,
    boot_timeout: Duration,
) -> Result<Outcome> {
    let dir = tempfile::tempdir().unwrap();
    within(container(dir.path(), vec![]), guest, user, plan(boot_timeout))
}

/// The same of this container, by that plan.
pub(super) fn within(
    container: Container,
    guest: impl FnOnce(Guest) + Send + 'static,
    user: impl FnOnce(User) + Send + 'static,
    plan: Plan,
) -> Result<Outcome> {
    let pair = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    };
    let ((channel, theirs), (console, their_console), (monitor, their_monitor)) = (pair(), pair(), pair());
    let (errors, their_errors) = pipe().unwrap();
    let channel = Line::stream(channel, false);
    let wires = Wires { channel, console, monitor, errors: Some(errors) };
    let far = Guest {
        link: GuestLink::guest(),
        channel: theirs,
        console: their_console,
        monitor: their_monitor,
        _errors: their_errors,
    };
    let (stdin, their_stdin) = pipe().unwrap();
    let (their_stdout, stdout) = pipe().unwrap();
    let (their_stderr, stderr) = pipe().unwrap();
    let (signals, their_signals) = pipe().unwrap();
    let stdio = Stdio { stdin, stdout, stderr, signals: Some(signals) };
    let near =
        User { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr, signals: their_signals };
    let threads = [thread::spawn(|| guest(far)), thread::spawn(|| user(near))];
    let mut options = RunOptions::new("image");
    options.interactive = true;
    let outcome = crate::run_in(plan, wires, container, &stdio, &options);
    drop(stdio);
    for thread in threads {
        thread.join().unwrap();
    }
    outcome
}

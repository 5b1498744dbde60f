//! A QEMU process, and the lines to it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

use crate::accel::Accel;
use crate::boot::Boot;
use crate::child;
use crate::containers::{Container, sockets};
use crate::disk::DiskFiles;
use crate::layers::OpenLayer;
use crate::network;
use crate::options::RunOptions;
use crate::options::spec_from::SpecFrom;
use crate::qemu::{self, Descriptors};
use crate::stored_spec;
use crate::template::Thaw;
use crate::transport::{Device, Line, pair};
use crate::volumes::{attach::OpenVolume, share};

const CONSOLE: &str = "console";
const QMP: &str = "qmp";
/// The program.
pub const QEMU: &str = "qemu-system-x86_64";

/// Our ends of the lines to a VM, all non-blocking. When the VM is gone they all end, for nobody else holds the others.
#[derive(Debug)]
pub struct Wires {
    /// The channel to tether.
    pub channel: Line,
    /// The guest's serial console.
    pub console: UnixStream,
    /// QMP.
    pub monitor: UnixStream,
    /// QEMU's stderr, for those who have started it.
    pub errors: Option<OwnedFd>,
}

impl Wires {
    /// To the QEMU that runs `container`, which someone else has started. Only one has them at a time: others wait.
    ///
    /// # Errors
    /// It does not run.
    pub fn to(container: &Container) -> Result<Self> {
        let connect = |name| -> Result<UnixStream> {
            let line = sockets::connect(&container.dir, name).context("cannot reach the VM")?;
            line.set_nonblocking(true)?;
            Ok(line)
        };
        Ok(Self {
            channel: container.record.transport.reopen(&container.dir)?,
            console: connect(CONSOLE)?,
            monitor: connect(QMP)?,
            errors: None,
        })
    }
}

/// What a VM is part of.
#[derive(Clone, Copy, Debug)]
pub struct Home<'a> {
    /// The folder that the VM's sockets are in, so that others can find it.
    pub container: &'a Container,
    /// Whether the VM lives on when the thread that starts it does not.
    pub outlives: bool,
}

/// A running QEMU. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Vm {
    child: Child,
}

impl Vm {
    /// Starts QEMU. Without a home that it outlives, it dies with the calling thread.
    ///
    /// # Errors
    /// QEMU is not installed or cannot be started. What QEMU itself finds wrong comes on [`Wires::errors`].
    #[expect(clippy::too_many_arguments, reason = "a VM is made of many parts")]
    pub fn start(
        name: &str,
        home: Option<Home>,
        options: &RunOptions,
        accel: Accel,
        boot: &Boot,
        scratch: &File,
        layers: &[OpenLayer],
        volumes: &[OpenVolume],
        shares: &[share::Running],
        network: &network::Host,
        thaw: Option<&Thaw>,
    ) -> Result<(Self, Wires)> {
        let dir = home.map(|home| &*home.container.dir);
        let transport = match home {
            Some(home) => home.container.record.transport,
            None => options.transport()?,
        };
        let (channel, device) = transport.make(dir)?;
        let (console, theirs_console) = pair(dir, CONSOLE)?;
        let (monitor, theirs_monitor) = pair(dir, QMP)?;
        // Others see by these that the VM lives, and that its layers and volumes are in use.
        let lock = home.map(|home| home.container.lock_vm()).transpose()?;
        let held = layers.iter().flat_map(|layer| &layer.held).chain(&lock);
        let held = held.chain(volumes.iter().map(|volume| &volume.held));
        let held = held.map(File::as_raw_fd).chain(network.inherited());
        let held: Vec<_> = held.chain(thaw.into_iter().flat_map(Thaw::inherited)).collect();
        let cd = match boot {
            Boot::Iso { image, .. } => {
                Some(File::open(image).with_context(|| format!("cannot open {}", image.display()))?)
            }
            Boot::Direct { .. } => None,
        };
        let disks = layers.iter().map(|layer| DiskFiles::open(&layer.disk)).collect::<Result<Vec<_>>>()?;
        let spec = stored_spec(home, options)?;
        let descriptors = Descriptors {
            listening: home.is_some(),
            held,
            channel: device,
            console: theirs_console.as_raw_fd(),
            monitor: theirs_monitor.as_raw_fd(),
            scratch: Some(scratch.as_raw_fd()),
            layers: disks.iter().map(DiskFiles::descriptors).collect(),
            volumes: volumes.iter().map(|volume| (volume.disk.as_raw_fd(), volume.spec.shared)).collect(),
            shares: shares.iter().map(|share| (share.line.as_raw_fd(), share.tag.clone())).collect(),
            cd: cd.as_ref().map(File::as_raw_fd),
            nics: network.devices().to_vec(),
            frozen: thaw.map(Thaw::frozen),
            spec: spec.as_ref().map(AsRawFd::as_raw_fd),
        };
        let outlives = home.is_some_and(|home| home.outlives);
        let arguments = qemu::arguments(name, options, accel, boot, &descriptors)?;
        let (vm, errors) = Self::spawn(arguments, &descriptors, outlives)?;
        for line in [&console, &monitor] {
            line.set_nonblocking(true)?;
        }
        Ok((vm, Wires { channel, console, monitor, errors: Some(errors) }))
    }

    /// Starts QEMU with these arguments, and gives its stderr. The descriptors must be open until then.
    ///
    /// # Errors
    /// QEMU is not installed or cannot be started.
    pub fn spawn(
        arguments: Vec<OsString>,
        descriptors: &Descriptors,
        outlives: bool,
    ) -> Result<(Self, OwnedFd)> {
        descriptors.make_room()?;
        let mut command = Command::new(QEMU);
        command.args(arguments);
        // A process group of its own: ^C at the terminal is for us to act on.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        // Before the descriptors are opened to what is executed: the helper needs none of them.
        if let Device::VhostUser(helper) = &descriptors.channel {
            helper.start_with(&mut command);
        }
        child::bind(&mut command, descriptors.all(), outlives);
        let mut child = command.spawn().map_err(|e| explain(&e, &descriptors.channel))?;
        let errors = child.stderr.take().map(OwnedFd::from);
        let vm = Self { child };
        let errors = errors.context("QEMU has no stderr")?;
        fcntl(&errors, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((vm, errors))
    }

    /// QEMU's process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for QEMU, whose lines have ended, and says how it ended if that was not of its own will.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&mut self) -> Result<Option<String>> {
        let status = self.child.wait().context("cannot wait for QEMU")?;
        Ok(verdict(status))
    }
}

/// What it is to run, where that is not said over the channel: as the container's folder has it.
fn stored_spec(home: Option<Home>, options: &RunOptions) -> Result<Option<File>> {
    let (way, Some(home)) = (options.spec.spec_from, home) else { return Ok(None) };
    match way {
        SpecFrom::Channel => Ok(None),
        _ => stored_spec::file(way, home.container.machine()?, home.container.record.stdin),
    }
}

fn explain(error: &io::Error, channel: &Device) -> anyhow::Error {
    let of_helper = match channel {
        Device::VhostUser(helper) => helper.explain(error),
        _ => None,
    };
    of_helper.unwrap_or_else(|| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("{QEMU} is not installed: it is in Debian's package qemu-system-x86")
        }
        _ => anyhow!("cannot start {QEMU}: {error}"),
    })
}

fn verdict(status: ExitStatus) -> Option<String> {
    match (status.signal(), status.code()) {
        (Some(libc::SIGKILL), _) => {
            Some("QEMU was killed by SIGKILL; the host may have run out of memory".to_owned())
        }
        (Some(signal), _) => {
            let name =
                Signal::try_from(signal).map_or_else(|_| signal.to_string(), |s| s.as_str().to_owned());
            Some(format!("QEMU died of {name}"))
        }
        (None, Some(code)) if code != 0 => Some(format!("QEMU gave up with exit status {code}")),
        _ => None,
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail only where there is nothing left to do: the process is gone and reaped.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

//! What carries the channel between host and guest, and how the host's end of it is opened, at the start or by another
//! monitor.
//!
//! | transport | QEMU | host's end | what another monitor does |
//! |---|---|---|---|
//! | virtio-serial | a port named [`PORT`] | the socket `channel` in the container's folder, on which QEMU listens | connects; the guest may be in the middle of a frame |
//! | serial | a 16550, the second | the same | the same, and frames are checked, for what is said while nobody listens is lost |
//! | vsock | `vhost-vsock-pci`, or `vhost-user-vsock-pci` and [a helper](helper) | [listens](vsock) on the port that is the guest's CID | listens; the guest dials again, and shows the [key](vsock) that it showed first |

pub mod helper;
mod line;
pub mod vsock;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use serde::{Deserialize, Serialize};

use crate::containers::sockets;
use crate::qemu::machine::Places;
use helper::Helper;

pub use line::{Arrival, Line};
pub use vsock::Vhost;

/// The name that the guest finds its port by, in `/sys/class/virtio-ports/*/name`.
pub const PORT: &str = "org.containervm.channel";
/// Ports that the device has room for: the first is a console's, which there is not, the second ours. The guest makes two queues for
/// each, and QEMU's 31 cost it a million instructions and 4 MiB where queues are long.
const PORTS: u32 = 2;
/// How the kernel's command line tells tether which transport it is.
const PARAMETER: &str = "containervm.channel";
/// QEMU's socket in the container's folder.
const CHANNEL: &str = "channel";
/// The kernel's buffer before a UART, in bytes: the line is so slow that what waits in more of it would wait for seconds.
const SERIAL_BUFFER: usize = 4096;

/// What `--channel` can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Channel {
    /// A virtio-serial port.
    VirtioSerial,
    /// A vsock connection.
    Vsock,
    /// A 16550 UART, which any machine has: slow.
    Serial,
}

/// A VM's transport: all that another monitor must know to open the channel again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Transport {
    /// A virtio-serial port.
    #[default]
    VirtioSerial,
    /// A vsock connection, which the guest makes.
    Vsock {
        /// The guest's address, and the port that it dials.
        cid: u32,
        /// Who is at the host's end of the device.
        vhost: Vhost,
    },
    /// A 16550 UART.
    Serial,
}

/// QEMU's side of a channel: descriptors that it inherits, to be kept until it has started.
#[derive(Debug)]
pub enum Device {
    /// A socket, connected or listening, behind a virtio-serial port.
    Port(OwnedFd),
    /// The same behind a UART.
    Serial(OwnedFd),
    /// `/dev/vhost-vsock`, with the guest's CID.
    Vhost(File, u32),
    /// A descriptor that the helper's socket takes the place of when it is there.
    VhostUser(Box<Helper>),
}

impl Channel {
    /// What the kernel's command line says of it.
    pub fn parameter(self) -> String {
        let value = self.to_possible_value();
        format!("{PARAMETER}={}", value.as_ref().map_or("", |value| value.get_name()))
    }
}

impl Transport {
    /// Whether the line loses bytes, so that frames are to be checked.
    pub fn is_lossy(self) -> bool {
        self == Self::Serial
    }

    /// Whether the guest makes the line anew where it hears nothing of what it has sent, so that it is to hear of it soon.
    pub fn is_to_be_prompt(self) -> bool {
        matches!(self, Self::Vsock { .. })
    }

    /// The host's end and QEMU's of a new channel. The VM's sockets are in `home`; without one, others cannot find it.
    ///
    /// # Errors
    /// The system's.
    pub fn make(self, home: Option<&Path>) -> Result<(Line, Device)> {
        let Self::Vsock { cid, vhost } = self else {
            let (ours, theirs) = pair(home, CHANNEL)?;
            let device = if self.is_lossy() { Device::Serial } else { Device::Port };
            return Ok((self.stream(ours)?, device(theirs)));
        };
        let folder = match home {
            Some(dir) => vsock::Folder::Kept(dir.to_owned()),
            None => vsock::Folder::temporary()?,
        };
        folder.forget_key()?;
        let device = match vhost {
            Vhost::Kernel => Device::Vhost(vsock::device(cid)?, cid),
            Vhost::Helper => Device::VhostUser(Box::new(Helper::prepare(folder.path(), cid)?)),
        };
        Ok((Line::doors(vsock::Doors::open(folder, cid, vhost)?), device))
    }

    /// The host's end of the channel to a VM that runs, and has its sockets in `home`.
    ///
    /// # Errors
    /// The VM has ended.
    pub fn reopen(self, home: &Path) -> Result<Line> {
        match self {
            Self::VirtioSerial | Self::Serial => {
                self.stream(sockets::connect(home, CHANNEL).context("cannot reach the VM")?)
            }
            Self::Vsock { cid, vhost } => {
                Ok(Line::doors(vsock::Doors::open(vsock::Folder::Kept(home.to_owned()), cid, vhost)?))
            }
        }
    }

    fn stream(self, socket: UnixStream) -> Result<Line> {
        socket.set_nonblocking(true)?;
        if self.is_lossy() {
            setsockopt(&socket, SndBuf, &SERIAL_BUFFER)?;
        }
        Ok(Line::stream(socket, self.is_lossy()))
    }
}

impl Device {
    /// What QEMU inherits.
    pub fn descriptor(&self) -> RawFd {
        match self {
            Self::Port(socket) | Self::Serial(socket) => socket.as_raw_fd(),
            Self::Vhost(device, _) => device.as_raw_fd(),
            Self::VhostUser(helper) => helper.descriptor(),
        }
    }

    /// Whether it is a virtio device.
    pub fn is_virtio(&self) -> bool {
        !matches!(self, Self::Serial(_))
    }

    /// Whether another process must see the guest's memory.
    pub fn shares_memory(&self) -> bool {
        matches!(self, Self::VhostUser(_))
    }

    /// QEMU's arguments. `server` is what a character device has that listens. They come behind the console's: the UARTs have
    /// numbers.
    pub fn arguments(&self, server: &str, places: &mut Places) -> Vec<String> {
        let descriptor = self.descriptor();
        let socket = |server: &str| ["-chardev".into(), format!("socket,id=channel,fd={descriptor}{server}")];
        let device = |device: String| ["-device".into(), device];
        match self {
            Self::Port(_) => [
                socket(server),
                device(format!("{},id=ports,max_ports={PORTS}", places.virtio("virtio-serial"))),
                device(format!("virtserialport,bus=ports.0,chardev=channel,name={PORT}")),
            ]
            .concat(),
            Self::Serial(_) => [socket(server), places.uart("channel")].concat(),
            Self::Vhost(_, cid) => {
                let place = places.virtio("vhost-vsock");
                device(format!("{place},guest-cid={cid},vhostfd={descriptor}")).into()
            }
            Self::VhostUser(_) => {
                let place = places.virtio("vhost-user-vsock");
                [socket(""), device(format!("{place},chardev=channel"))].concat()
            }
        }
    }
}

/// Our end and QEMU's of a line: connected to each other, or with QEMU's listening in `home`.
///
/// # Errors
/// The system's.
pub fn pair(home: Option<&Path>, name: &str) -> Result<(UnixStream, OwnedFd)> {
    let Some(home) = home else {
        let (ours, theirs) = UnixStream::pair()?;
        return Ok((ours, theirs.into()));
    };
    let socket = sockets::listen(home, name)?;
    Ok((sockets::connect(home, name)?, socket.into()))
}

/// A descriptor that keeps a number free.
fn placeholder() -> io::Result<File> {
    File::open("/dev/null")
}

#[cfg(test)]
mod tests;

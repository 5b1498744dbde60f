//! The line to the host: bytes in order, by whichever device the machine has.
//!
//! Which one it is says the kernel's command line, `containervm.channel=virtio-serial|vsock|serial`; else what is there does. A
//! port and a UART stay open as long as the machine lives, whoever is at the other end; a vsock connection goes with the
//! host's process, and is dialled again.

mod port;
mod serial;
mod vsock;

use crate::failure::{Context, Failure};
use crate::modules;
use crate::uevents::Uevents;
use protocol::Patience;
use protocol::Stage::Channel;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;
use vsock::Vsock;

/// How the command line says which transport it is.
const PARAMETER: &str = "containervm.channel=";

/// The transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    VirtioSerial,
    Vsock,
    Serial,
}

/// An open line.
pub enum Line {
    /// A virtio-serial port.
    Port(File),
    /// A 16550 UART. It loses bytes when nobody is at the other end.
    Serial(File),
    /// A vsock connection, or the wait for one.
    Vsock(Vsock),
}

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing, and nobody has the other end.
    Nobody,
    /// A new line has come up: the host knows nothing of the last one.
    NewLine,
    /// The line is gone, with what was on it.
    Lost,
}

impl Line {
    /// Waits for the device, and opens it.
    pub fn open(events: &Uevents) -> Result<Self, Failure> {
        match transport()? {
            Transport::VirtioSerial => port::open(events).map(Self::Port),
            Transport::Serial => serial::open(events).map(Self::Serial),
            Transport::Vsock => {
                modules::load_vsock()?;
                Vsock::open(events).map(Self::Vsock)
            }
        }
    }

    /// To be polled; none while there is nothing to be polled.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Port(file) | Self::Serial(file) => Some(file.as_fd()),
            Self::Vsock(vsock) => vsock.fd(),
        }
    }

    /// Whether it is being dialled: then it becomes writable when that is done.
    pub fn is_dialling(&self) -> bool {
        matches!(self, Self::Vsock(vsock) if vsock.is_dialling())
    }

    /// Whether it may fall silent without a word: a side that waits for long begins anew.
    pub fn may_fall_silent(&self) -> bool {
        !matches!(self, Self::Port(_))
    }

    /// How long to wait before that.
    pub fn patience(&self) -> Patience {
        match self {
            Self::Vsock(_) => Patience::of(vsock::PATIENCE),
            Self::Port(_) | Self::Serial(_) => Patience::default(),
        }
    }

    /// Whether there is a line.
    pub fn is_up(&self) -> bool {
        match self {
            Self::Port(_) | Self::Serial(_) => true,
            Self::Vsock(vsock) => vsock.is_up(),
        }
    }

    /// Gives up the line, if another one can be had. Says whether it did.
    pub fn hang_up(&mut self) -> bool {
        let Self::Vsock(vsock) = self else { return false };
        vsock.hang_up();
        true
    }

    /// When it wants to be [turned](Line::turn), whatever happens.
    pub fn due(&self) -> Option<Instant> {
        match self {
            Self::Vsock(vsock) => Some(vsock.due()),
            Self::Port(_) | Self::Serial(_) => None,
        }
    }

    /// Does what is due. Says whether its descriptor is another one than before.
    pub fn turn(&mut self) -> bool {
        match self {
            Self::Vsock(vsock) => vsock.turn(),
            Self::Port(_) | Self::Serial(_) => false,
        }
    }

    /// Reads what has come.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<Got, Failure> {
        let (file, is_port) = match self {
            Self::Vsock(vsock) => return Ok(vsock.read(bytes)),
            Self::Port(file) => (file, true),
            Self::Serial(file) => (file, false),
        };
        match file.read(bytes) {
            Ok(0) if is_port => Ok(Got::Nobody),
            Ok(0) => Ok(Got::Nothing),
            Ok(count) => Ok(Got::Bytes(count)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(Got::Nothing)
            }
            error => error.map(|_| Got::Nothing).at(Channel, || "reading from the channel"),
        }
    }

    /// Writes as much as it takes; 0 if that is nothing now.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        let file = match self {
            Self::Vsock(vsock) => return Ok(vsock.write(bytes)),
            Self::Port(file) | Self::Serial(file) => file,
        };
        loop {
            match file.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result.at(Channel, || "writing to the channel"),
            }
        }
    }
}

/// By the command line, else by what is there.
fn transport() -> Result<Transport, Failure> {
    let parameters = fs::read_to_string("/proc/cmdline").at(Channel, || "reading /proc/cmdline")?;
    match named(&parameters)? {
        Some(transport) => Ok(transport),
        None if has_virtio_device(port::VIRTIO_ID) => Ok(Transport::VirtioSerial),
        None if has_virtio_device(vsock::VIRTIO_ID) => Ok(Transport::Vsock),
        None if serial::is_there() => Ok(Transport::Serial),
        // It may still come.
        None => Ok(Transport::VirtioSerial),
    }
}

fn named(parameters: &str) -> Result<Option<Transport>, Failure> {
    let Some(name) = parameters.split_ascii_whitespace().find_map(|word| word.strip_prefix(PARAMETER)) else {
        return Ok(None);
    };
    match name {
        "virtio-serial" => Ok(Some(Transport::VirtioSerial)),
        "vsock" => Ok(Some(Transport::Vsock)),
        "serial" => Ok(Some(Transport::Serial)),
        _ => Err(Failure::new(
            Channel,
            format!(
                "{PARAMETER}{name} on the kernel's command line: it can be virtio-serial, vsock or serial"
            ),
        )),
    }
}

/// Whether there is a virtio device of this kind (virtio 1.2, section 5), on whichever bus.
fn has_virtio_device(id: &str) -> bool {
    let Ok(devices) = fs::read_dir("/sys/bus/virtio/devices") else { return false };
    devices.flatten().any(|device| {
        fs::read_to_string(device.path().join("device")).is_ok_and(|found| found.trim_end() == id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_it() {
        assert_eq!(named("console=ttyS0 quiet\n").unwrap(), None);
        assert_eq!(named("quiet containervm.channel=serial\n").unwrap(), Some(Transport::Serial));
        assert_eq!(named("containervm.channel=vsock x").unwrap(), Some(Transport::Vsock));
        let failure = named("containervm.channel=usb").unwrap_err();
        assert!(failure.to_string().contains("channel=usb"), "{failure}");
    }
}

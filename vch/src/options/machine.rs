//! The machine, what it boots, and what follows from that where nothing else was said.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use super::RunOptions;
use crate::transport::{Channel, Transport};

/// How the guest's kernel gets into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Boot {
    /// By QEMU.
    Direct,
    /// By a boot loader on a CD.
    Iso,
}

/// Which kernel, with the initramfs that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kernel {
    /// Ours: all that it can do is built in.
    Own,
    /// Debian's, with modules.
    Debian,
    /// This one.
    File(PathBuf),
}

impl From<OsString> for Kernel {
    fn from(text: OsString) -> Self {
        match text.to_str() {
            Some("own") => Self::Own,
            Some("debian") => Self::Debian,
            _ => Self::File(text.into()),
        }
    }
}

/// What runs before the boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// The machine types that we know: see [`crate::qemu::machine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    /// The least that there is: no PCI, no ACPI. Needs our own kernel; boots fastest.
    Microvm,
    /// ICH9: PCI Express.
    Q35,
    /// PIIX3: PCI.
    Pc,
    /// As ESXi has it: PVSCSI disks, VMXNET3 interfaces, a serial port, a CD to boot from.
    Vmware,
}

impl RunOptions {
    /// How it boots.
    pub fn boot(&self) -> Boot {
        let usual = if self.machine == Some(Machine::Vmware) { Boot::Iso } else { Boot::Direct };
        self.boot.unwrap_or(usual)
    }

    /// How the guest is spoken to.
    pub fn channel(&self) -> Channel {
        let usual =
            if self.machine == Some(Machine::Vmware) { Channel::Serial } else { Channel::VirtioSerial };
        self.channel.channel.unwrap_or(usual)
    }

    /// The same, as this host can have it.
    ///
    /// # Errors
    /// It has nothing for vsock.
    pub fn transport(&self) -> Result<Transport> {
        self.channel.transport(self.channel())
    }
}

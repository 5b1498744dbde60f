//! A machine that is frozen where it waits for what to run, and thawed as many others.
//!
//! It has as many disks and network interfaces as each of them will have, but not theirs: blank disks, MAC addresses of nobody.
//! So no driver may have the disks when it is frozen; in each copy it finds them as they are there, as if they were plugged in. An
//! interface has its driver already, and in a copy gets its address; only if it is connected to more than most are, which its driver sees
//! when it begins, the driver begins anew.

use crate::boot::{self, INITRAMFS};
use crate::failure::{Context, Failure};
use crate::{cgroup, device_filter, modules, network};
use protocol::{MachineSpec, Stage};
use std::fs;
use std::path::Path;

/// How the kernel's command line says that the machine will be frozen.
const PARAMETER: &str = "containervm.template";
/// Devices of virtio, on whichever bus, and their drivers.
const DEVICES: &str = "/sys/bus/virtio/devices";
const DRIVERS: &str = "/sys/bus/virtio/drivers";
/// As the kernel shows a kind of device (virtio 1.2, section 5), and what drives it.
const NETWORK: (&str, &str) = ("0x0001", "virtio_net");
const BLOCK: (&str, &str) = ("0x0002", "virtio_blk");

/// Whether the machine is such a one, or a copy of one.
pub fn is_wanted() -> Result<bool, Failure> {
    let parameters = fs::read_to_string("/proc/cmdline").at(Stage::Boot, || "reading /proc/cmdline")?;
    Ok(parameters.split_ascii_whitespace().any(|word| word == PARAMETER))
}

/// Does once what each copy would have to, and takes from the drivers what will be another device.
pub fn prepare() -> Result<(), Failure> {
    let devices = devices()?;
    let of = |kind| devices.iter().filter(move |device| device.kind == kind);
    if of(NETWORK.0).next().is_some() {
        modules::load_network()?;
        let names: Vec<_> = of(NETWORK.0).filter_map(Device::interface).collect();
        network::fill_queues(&names)?;
    }
    for disk in of(BLOCK.0).filter(|disk| disk.is_driven()) {
        tell(BLOCK.1, "unbind", &disk.name)?;
    }
    cgroup::prepare()?;
    device_filter::prepare();
    if !Path::new(INITRAMFS).join("modules").exists() {
        boot::empty_the_initramfs();
    }
    Ok(())
}

/// Gives the drivers what this machine has: the interfaces, and the first disks, for those that no container wants are the last.
pub fn take_devices(machine: &MachineSpec) -> Result<(), Failure> {
    let disks = machine.disks.layers.len() + machine.volumes.len() + 1;
    let devices = devices()?;
    let of = |kind| devices.iter().filter(move |device| device.kind == kind);
    for disk in of(BLOCK.0).take(disks).filter(|disk| !disk.is_driven()) {
        tell(BLOCK.1, "bind", &disk.name)?;
    }
    let mut names = vec![];
    for (device, nic) in of(NETWORK.0).zip(&machine.network.nics) {
        if nic.offload && device.is_driven() {
            tell(NETWORK.1, "unbind", &device.name)?;
        }
        if !device.is_driven() {
            tell(NETWORK.1, "bind", &device.name)?;
        }
        names.extend(device.interface());
    }
    if names.is_empty() { Ok(()) } else { network::take_addresses(machine, &names) }
}

/// A virtio device.
struct Device {
    /// Such as `virtio7`.
    name: String,
    kind: String,
}

impl Device {
    fn is_driven(&self) -> bool {
        Path::new(DEVICES).join(&self.name).join("driver").exists()
    }

    /// The name of its network interface, if it is one and is driven.
    fn interface(&self) -> Option<String> {
        let mut names = fs::read_dir(Path::new(DEVICES).join(&self.name).join("net")).ok()?.flatten();
        names.next().map(|entry| entry.file_name().to_string_lossy().into_owned())
    }
}

/// All, as they were found: by their places on the bus.
fn devices() -> Result<Vec<Device>, Failure> {
    let mut devices = vec![];
    for entry in fs::read_dir(DEVICES).at(Stage::Boot, || format!("reading {DEVICES}"))?.flatten() {
        let kind = fs::read_to_string(entry.path().join("device")).unwrap_or_default();
        let name = entry.file_name().to_string_lossy().into_owned();
        devices.push((number(&name), Device { name, kind: kind.trim_end().to_owned() }));
    }
    devices.sort_unstable_by_key(|(number, _)| *number);
    Ok(devices.into_iter().map(|(_, device)| device).collect())
}

/// The number in a device's name.
fn number(name: &str) -> u32 {
    name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(u32::MAX)
}

fn tell(driver: &str, what: &str, device: &str) -> Result<(), Failure> {
    let path = format!("{DRIVERS}/{driver}/{what}");
    fs::write(&path, device).at(Stage::Boot, || format!("writing {device} to {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_in_the_order_of_their_numbers() {
        let mut names = ["virtio10", "virtio9", "odd", "virtio0"];
        names.sort_unstable_by_key(|name| number(name));
        assert_eq!(names, ["virtio0", "virtio9", "virtio10", "odd"]);
    }
}

//! QEMU's command line.
//!
//! Everything is handed over as an open descriptor: disks by `-add-fd`, lines by `-chardev socket,fd=`. There are no
//! paths to guess, no ports, and no files to leave behind.

pub mod machine;

use std::ffi::OsString;
use std::os::fd::RawFd;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::accel::Accel;
use crate::boot::Boot;
use crate::network;
use crate::options::RunOptions;
use crate::options::spec_from::SpecFrom;
use crate::size::MIB;
use crate::template::thaw::Frozen;
use crate::transport::Device;
use machine::{Places, Wanted};

/// Descriptors that QEMU needs for itself.
const SPARE: u64 = 256;

/// The descriptors that QEMU inherits.
#[derive(Debug)]
pub struct Descriptors {
    /// Whether the sockets listen, so that we can connect again and again.
    pub listening: bool,
    /// Those that are only held, for the locks on them; and the network's.
    pub held: Vec<RawFd>,
    /// The channel's device.
    pub channel: Device,
    /// The serial console's socket.
    pub console: RawFd,
    /// QMP's socket.
    pub monitor: RawFd,
    /// The scratch disk; a template has none.
    pub scratch: Option<RawFd>,
    /// The layer disks.
    pub layers: Vec<Disk>,
    /// The volumes' disks, and whether each is only read.
    pub volumes: Vec<(RawFd, bool)>,
    /// Lines to virtiofsd, and the tags by which the guest finds what is there.
    pub shares: Vec<(RawFd, String)>,
    /// The CD.
    pub cd: Option<RawFd>,
    /// The network interfaces; the descriptors that they name are among those held.
    pub nics: Vec<network::Device>,
    /// The machine spec, where the guest does not get it over the channel: [`RunOptions::spec`] says how.
    pub spec: Option<RawFd>,
    /// What it has in common with others, if it is a template, or a copy of one.
    pub frozen: Option<Frozen>,
}

impl Descriptors {
    /// All of them.
    pub fn all(&self) -> Vec<RawFd> {
        let fixed = [self.channel.descriptor(), self.console, self.monitor];
        let layers = self.layers.iter().flat_map(Disk::all);
        let volumes = self.volumes.iter().map(|(disk, _)| *disk);
        fixed
            .into_iter()
            .chain(self.scratch)
            .chain(layers)
            .chain(volumes)
            .chain(self.shares.iter().map(|(line, _)| *line))
            .chain(self.cd)
            .chain(self.spec)
            .chain(self.held.iter().copied())
            .collect()
    }

    /// What the machine must have room for.
    fn wanted(&self, options: &RunOptions) -> Wanted {
        let (layers, spec_from) = (self.layers.len(), options.spec.spec_from);
        let volumes = self.volumes.len() + usize::from(self.spec.is_some() && spec_from == SpecFrom::Disk);
        Wanted {
            layers,
            volumes: self.frozen.map_or(volumes, |frozen| frozen.instead_of(volumes, layers)),
            shares: self.shares.len(),
            nics: self.nics.len(),
            channel: self.channel.is_virtio(),
            fw_cfg: self.spec.is_some() && spec_from == SpecFrom::FwCfg,
        }
    }

    /// Lets QEMU have as many descriptors as may be had: for each it gets, it opens two more, and one for each connection to a published
    /// port. (Where none is left for one, it tries again and again, and the vCPUs wait.)
    ///
    /// # Errors
    /// The hard limit is too low for the machine.
    pub fn make_room(&self) -> Result<()> {
        let needed = 3 * self.all().len() as u64 + SPARE;
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        if hard < needed {
            bail!(
                "QEMU needs {needed} open files for a machine with so many disks, but the hard limit (ulimit -Hn) is {hard}"
            );
        }
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")?;
        }
        Ok(())
    }
}

/// The descriptors of a read-only disk.
#[derive(Debug, Clone)]
pub enum Disk {
    /// A raw image.
    Raw(RawFd),
    /// A VMDK descriptor that names the parts as `/dev/fdset/NUMBER`, and the parts.
    Vmdk(RawFd, Vec<RawFd>),
}

impl Disk {
    fn all(&self) -> Vec<RawFd> {
        match self {
            Self::Raw(file) => vec![*file],
            Self::Vmdk(descriptor, parts) => [&[*descriptor], &parts[..]].concat(),
        }
    }
}

/// The path by which QEMU opens a descriptor that it was given.
pub fn path(descriptor: RawFd) -> String {
    format!("/dev/fdset/{descriptor}")
}

/// The arguments for a VM named `name`.
///
/// # Errors
/// The machine type cannot be booted so, or there is more than fits.
pub fn arguments(
    name: &str,
    options: &RunOptions,
    accel: Accel,
    boot: &Boot,
    descriptors: &Descriptors,
) -> Result<Vec<OsString>> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    add(&["-name", &format!("guest={name}")]);
    add(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-rtc", "base=utc"]);
    // A guest that breaks out of its devices finds a process that can start nothing and become nobody.
    add(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    let machine = machine::choose(options.machine, boot, accel, &descriptors.wanted(options))?;
    let (mut places, value) = (Places::of(machine), machine.value(boot));
    let memory = options.memory.div_ceil(MIB);
    if let Some(frozen) = &descriptors.frozen {
        frozen.arguments(memory, &mut add);
        add(&["-machine", &format!("{value},memory-backend=memory")]);
    } else if descriptors.channel.shares_memory() || !descriptors.shares.is_empty() {
        add(&["-object", &format!("memory-backend-memfd,id=memory,size={memory}M,share=on")]);
        add(&["-machine", &format!("{value},memory-backend=memory")]);
    } else {
        add(&["-machine", value]);
    }
    add(machine.globals());
    // max: images built for x86-64-v3 run under TCG, too. Without ERMS and FSRM the kernel copies by words, where
    // TCG would step through `rep movsb` byte by byte: 12 % of a boot's instructions (measured).
    let (accelerator, cpu) = match accel {
        Accel::Kvm => ("kvm", "host"),
        Accel::Tcg => ("tcg", "max,erms=off,fsrm=off"),
    };
    add(&["-accel", accelerator, "-cpu", cpu, "-smp", &options.vcpus().to_string()]);
    add(&["-m", &format!("{memory}M")]);
    let server = if descriptors.listening { ",server=on,wait=off" } else { "" };
    for (id, descriptor) in [("console", descriptors.console), ("qmp", descriptors.monitor)] {
        add(&["-chardev", &format!("socket,id={id},fd={descriptor}{server}")]);
    }
    add(&["-mon", "chardev=qmp,mode=control", "-serial", "chardev:console"]);
    let channel = descriptors.channel.arguments(server, &mut places);
    add(&channel.iter().map(String::as_str).collect::<Vec<_>>());
    disks(descriptors, &mut places, &mut add);
    if let (Some(descriptor), SpecFrom::Disk) = (descriptors.spec, options.spec.spec_from) {
        file("spec", descriptor, true, Kept::No, &mut add);
        add(&places.disk("spec").iter().map(String::as_str).collect::<Vec<_>>());
    }
    shares(descriptors, &mut places, &mut add);
    nics(descriptors, &mut places, &mut add);
    if let Some(firmware) = machine.firmware(boot) {
        arguments.extend(["-bios".into(), firmware.into()]);
    }
    // What goes on from a template boots no kernel: it can be told anything.
    let counted = options.qemu_arg.iter().any(|argument| argument == "-icount")
        || descriptors.frozen.is_some_and(|frozen| frozen.copied);
    let words = machine.parameters(accel, options.vcpus(), counted);
    if let (Some(descriptor), SpecFrom::FwCfg) = (descriptors.spec, options.spec.spec_from) {
        let file = format!("name=opt/org.containervm/spec,file=/proc/self/fd/{descriptor}");
        arguments.extend(["-fw_cfg".into(), file.into()]);
    }
    start(boot, descriptors, &words, &mut arguments);
    arguments.extend(options.qemu_arg.iter().map(OsString::from));
    Ok(arguments)
}

fn disks(descriptors: &Descriptors, places: &mut Places, add: &mut impl FnMut(&[&str])) {
    let Descriptors { layers, volumes, .. } = descriptors;
    let count = layers.len() + volumes.len() + 1;
    for i in 0..descriptors.frozen.map_or(count, |frozen| count.max(frozen.disks)) {
        let node = format!("disk{i}");
        let layer = i.checked_sub(1).and_then(|i| layers.get(i));
        let volume = i.checked_sub(1 + layers.len()).and_then(|i| volumes.get(i));
        match (layer, volume) {
            (Some(Disk::Raw(descriptor)), _) => file(&node, *descriptor, true, Kept::No, add),
            (Some(Disk::Vmdk(descriptor, parts)), _) => vmdk(&node, *descriptor, parts, add),
            (_, Some((descriptor, read_only))) => file(&node, *descriptor, *read_only, Kept::Yes, add),
            _ => match descriptors.scratch.filter(|_| i == 0) {
                Some(scratch) => file(&node, scratch, false, Kept::No, add),
                None => blank(&node, add),
            },
        }
        add(&places.disk(&node).iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// Folders of the host's.
fn shares(descriptors: &Descriptors, places: &mut Places, add: &mut impl FnMut(&[&str])) {
    for (line, tag) in &descriptors.shares {
        let device = places.virtio("vhost-user-fs");
        add(&["-chardev", &format!("socket,id={tag},fd={line}")]);
        add(&["-device", &format!("{device},chardev={tag},tag={tag}")]);
    }
}

fn nics(descriptors: &Descriptors, places: &mut Places, add: &mut impl FnMut(&[&str])) {
    // A copy of a template has not moved, and need not tell networks so.
    let silent = if descriptors.frozen.is_some() { ",guest_announce=off" } else { "" };
    for (number, network::Device { backend, mac }) in descriptors.nics.iter().enumerate() {
        let mut connected = String::new();
        if !backend.is_empty() {
            add(&["-netdev", &format!("{backend},id=net{number}")]);
            connected = format!("netdev=net{number},");
        }
        add(&["-device", &format!("{},{connected}mac={mac}{silent}", places.nic())]);
    }
}

/// Whether what is written to a disk is of use when the VM is gone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Then flushes are not passed on.
    No,
    Yes,
}

/// Makes `descriptor` the block node `node`.
fn file(node: &str, descriptor: RawFd, read_only: bool, kept: Kept, add: &mut impl FnMut(&[&str])) {
    hand_over(descriptor, add);
    let node = json!({
        "driver": "file", "node-name": node, "filename": path(descriptor),
        "read-only": read_only, "discard": "unmap", "cache": {"no-flush": kept == Kept::No},
    });
    add(&["-blockdev", &node.to_string()]);
}

/// Makes the block node `node` of nothing: it reads as zeros.
fn blank(node: &str, add: &mut impl FnMut(&[&str])) {
    let node = json!({"driver": "null-co", "node-name": node, "read-zeroes": true});
    add(&["-blockdev", &node.to_string()]);
}

/// Makes a VMDK the block node `node`, read-only.
fn vmdk(node: &str, descriptor: RawFd, parts: &[RawFd], add: &mut impl FnMut(&[&str])) {
    for descriptor in parts.iter().chain([&descriptor]) {
        hand_over(*descriptor, add);
    }
    let file = json!({"driver": "file", "filename": path(descriptor), "read-only": true});
    let node = json!({"driver": "vmdk", "node-name": node, "read-only": true, "file": file});
    add(&["-blockdev", &node.to_string()]);
}

fn hand_over(descriptor: RawFd, add: &mut impl FnMut(&[&str])) {
    add(&["-add-fd", &format!("fd={descriptor},set={descriptor}")]);
}

/// `words` are the machine's own for the kernel.
fn start(boot: &Boot, descriptors: &Descriptors, words: &str, arguments: &mut Vec<OsString>) {
    if let Boot::Direct { kernel, initrd, parameters, .. } = boot {
        let parameters = format!("{parameters} {words}");
        arguments.extend(["-kernel".into(), kernel.into(), "-initrd".into(), initrd.into()]);
        arguments.extend(["-append".into(), parameters.into()]);
    }
    if let Some(cd) = descriptors.cd {
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
        file("cd", cd, true, Kept::No, &mut add);
        add(&["-device", "ide-cd,bus=ide.0,drive=cd,bootindex=0"]);
    }
}

#[cfg(test)]
mod tests {
    use super::machine::{FIRST_SLOT, PCI_DISKS, SLOTS};
    use super::*;
    use crate::options::Machine;
    use protocol::network::Mac;
    use std::collections::HashSet;
    use std::fs::File;

    fn lines(layers: usize, boot: &Boot, options: &RunOptions) -> Result<Vec<String>> {
        lines_with(|null| Device::Port(null.into()), layers, boot, options)
    }

    fn lines_with(
        channel: fn(File) -> Device,
        layers: usize,
        boot: &Boot,
        options: &RunOptions,
    ) -> Result<Vec<String>> {
        let descriptors = descriptors(channel, layers, boot)?;
        let arguments = arguments("x", options, Accel::Tcg, boot, &descriptors)?;
        Ok(arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect())
    }

    fn descriptors(channel: fn(File) -> Device, layers: usize, boot: &Boot) -> Result<Descriptors> {
        let layers = (100..).take(layers).map(Disk::Raw).collect();
        let cd = matches!(boot, Boot::Iso { .. }).then_some(7);
        Ok(Descriptors {
            listening: true,
            held: vec![8],
            channel: channel(File::open("/dev/null")?),
            console: 4,
            monitor: 5,
            scratch: Some(6),
            frozen: None,
            layers,
            volumes: vec![],
            shares: vec![],
            cd,
            nics: vec![network::Device { backend: "user".into(), mac: Mac([2; 6]) }; 2],
            spec: None,
        })
    }

    fn on(machine: Machine) -> RunOptions {
        RunOptions { machine: Some(machine), ..RunOptions::new("img") }
    }

    fn direct() -> Boot {
        Boot::Direct {
            kernel: "/k,1".into(),
            initrd: "/i".into(),
            parameters: "quiet x".into(),
            finds_mmio: true,
        }
    }

    #[test]
    fn every_disk_has_a_place_of_its_own() {
        let arguments = lines(200, &direct(), &on(Machine::Q35)).unwrap();
        let disks: Vec<_> =
            arguments.iter().filter(|argument| argument.starts_with("virtio-blk-pci,")).collect();
        assert_eq!(disks.len(), 201);
        let place =
            |device: &String| device.split("addr=").nth(1).unwrap().split(',').next().unwrap().to_owned();
        let places: HashSet<_> = arguments.iter().filter(|a| a.contains("addr=")).map(place).collect();
        assert_eq!(places.len(), 204);
        for place in &places {
            let slot = usize::from_str_radix(place.split('.').next().unwrap(), 16).unwrap();
            assert!((FIRST_SLOT..FIRST_SLOT + SLOTS).contains(&slot) && slot < 0x1f, "{place}");
            assert!(places.contains(&format!("{slot:x}.0")), "{place} without function 0");
        }
        let writable = arguments.iter().filter(|argument| argument.contains("\"read-only\":false")).count();
        assert_eq!(writable, 1);
        assert!(lines(PCI_DISKS - 1, &direct(), &on(Machine::Pc)).is_ok());
        let error = lines(PCI_DISKS, &direct(), &on(Machine::Q35)).unwrap_err().to_string();
        assert!(error.contains("223 layers"), "{error}");
    }

    #[test]
    fn volumes_are_flushed_and_shares_share_the_memory() {
        let mut descriptors = descriptors(|null| Device::Port(null.into()), 2, &direct()).unwrap();
        descriptors.volumes = vec![(200, false), (201, true)];
        descriptors.shares = vec![(202, "share0".into()), (203, "share1".into())];
        for descriptor in 200..=203 {
            assert!(descriptors.all().contains(&descriptor));
        }
        let options = on(Machine::Q35);
        let arguments = arguments("x", &options, Accel::Tcg, &direct(), &descriptors).unwrap();
        let arguments: Vec<_> =
            arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect();
        let has = |parts: &[&str]| arguments.iter().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(has(&["/dev/fdset/200", "\"no-flush\":false", "\"read-only\":false"]), "{arguments:?}");
        assert!(has(&["/dev/fdset/201", "\"read-only\":true"]), "{arguments:?}");
        assert!(has(&["/dev/fdset/6", "\"no-flush\":true", "\"read-only\":false"]), "{arguments:?}");
        assert!(has(&["memory-backend-memfd", "size=256M", "share=on"]), "{arguments:?}");
        assert!(has(&["vhost-user-fs-pci", "chardev=share1", "tag=share1"]), "{arguments:?}");
        let places: Vec<_> = arguments.iter().filter_map(|line| line.split("addr=").nth(1)).collect();
        let unique: HashSet<_> = places.iter().map(|place| place.split(',').next()).collect();
        assert_eq!(unique.len(), places.len(), "{places:?}");
    }

    #[test]
    fn a_channel_is_a_port_a_uart_or_a_socket() {
        let line = |channel| lines_with(channel, 1, &direct(), &on(Machine::Q35)).unwrap().join(" ");
        let port = line(|null| Device::Port(null.into()));
        assert!(port.contains("virtserialport") && !port.contains("vsock"), "{port}");
        let uart = line(|null| Device::Serial(null.into()));
        assert!(!uart.contains("virtio-serial") && uart.contains("addr=2.0"), "{uart}");
        let (console, channel) = (uart.find("chardev:console"), uart.find("chardev:channel"));
        assert!(console.unwrap() < channel.unwrap(), "the first UART is the console: {uart}");
        let vsock = line(|null| Device::Vhost(null, 70_000));
        assert!(
            vsock.contains("vhost-vsock-pci,addr=2.0,multifunction=on,guest-cid=70000,vhostfd=")
                && !vsock.contains("memfd"),
            "{vsock}"
        );
    }

    #[test]
    fn an_esxi_has_neither_virtio_nor_a_second_console() {
        let mut options = on(Machine::Vmware);
        options.cpus = 2.0;
        let cd = Boot::Iso { firmware: None, image: "/cd".into() };
        let line = lines_with(|null| Device::Serial(null.into()), 2, &cd, &options).unwrap().join(" ");
        assert!(!line.contains("virtio"), "{line}");
        assert_eq!((line.matches("scsi-hd,").count(), line.matches("pvscsi,").count()), (3, 1), "{line}");
        assert_eq!((line.matches("vmxnet3,").count(), line.matches("ide-cd,").count()), (2, 1), "{line}");
        assert_eq!(line.matches("-serial ").count(), 2, "{line}");
    }

    #[test]
    fn a_direct_boot_and_a_cd() {
        let after = |arguments: &[String], flag: &str| {
            arguments.iter().position(|argument| argument == flag).map(|at| arguments[at + 1].clone())
        };
        let mut options = on(Machine::Microvm);
        options.memory = 100 * MIB + 1;
        options.qemu_arg = vec!["-icount".into(), "shift=6".into()];
        let arguments = lines(1, &direct(), &options).unwrap();
        assert_eq!(after(&arguments, "-kernel").unwrap(), "/k,1");
        assert!(after(&arguments, "-append").unwrap().starts_with("quiet x "));
        assert_eq!(after(&arguments, "-m").unwrap(), "101M");
        assert_eq!(after(&arguments, "-icount").unwrap(), "shift=6");
        assert_eq!(after(&arguments, "-bios"), None);
        assert!(arguments.iter().any(|word| word == "virtio-mmio.force-legacy=false"));
        assert!(!arguments.iter().any(|word| word.contains("addr=")), "{arguments:?}");
        options.machine = Some(Machine::Q35);
        let cd = Boot::Iso { firmware: Some("/ovmf".into()), image: "/cd".into() };
        let arguments = lines(1, &cd, &options).unwrap();
        assert_eq!(after(&arguments, "-kernel"), None);
        assert_eq!(after(&arguments, "-bios").unwrap(), "/ovmf");
        assert!(!after(&arguments, "-machine").unwrap().contains("sata=off"));
    }
}

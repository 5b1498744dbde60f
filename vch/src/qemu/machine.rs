//! What the machine types differ in: how they start, what fits, where each device goes, what the kernel is told.
//!
//! | | microvm | q35 | pc | vmware |
//! |---|---|---|---|---|
//! | devices | virtio on MMIO | virtio on PCI Express | virtio on PCI | PVSCSI, VMXNET3, a UART |
//! | kernel | our own | any | any | any |
//! | from a CD | | yes | yes | yes, unless told otherwise |
//! | power-off | by a reset | ACPI | ACPI | ACPI |
//!
//! Without a word from the user it is [the best](choose) that can be.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::accel::Accel;
use crate::boot::Boot;
use crate::host_tsc;
use crate::options::Machine;

/// PCI slots that are free on q35 and pc, and functions in each.
pub(super) const SLOTS: usize = 29;
pub(super) const FUNCTIONS: usize = 8;
/// The first of them: on pc, slot 1 is the chipset's.
pub(super) const FIRST_SLOT: usize = 2;
/// The number of the first network interface, as a PCI device of ours: the last slot is theirs.
const NICS: usize = (SLOTS - 1) * FUNCTIONS;
/// The most disks on PCI: each is a function, and one is the channel's.
pub(super) const PCI_DISKS: usize = NICS - 1;
/// microvm's buses of one device each, in the order in which they are used. There are 8, with interrupts from 5 on; number 3 would
/// have that of the clock, which shares it with nobody.
const MMIO: [usize; 7] = [7, 6, 5, 4, 2, 1, 0];
/// SCSI controllers and disks on each, as ESXi has them: the number 7 is the controller's own.
const CONTROLLERS: usize = 4;
const SCSI_DISKS: usize = 15;
const SCSI_OWN: usize = 7;
/// The first of the controllers' slots.
const SCSI_SLOT: usize = 0x1a;
/// The second UART, on machines that have no word for it.
const COM2: &str = "isa-serial,iobase=0x2f8,irq=3";

/// A small firmware that goes straight to the kernel; 0.1 s faster than SeaBIOS. In Debian's qemu-system-data.
const QBOOT: &str = "/usr/share/qemu/qboot.rom";
/// TCG's timers are connected, whatever a check by their punctuality says on a busy host.
const TCG: &str = "no_timer_check";
/// What saves time under TCG with one CPU: 0.2 of 1.4 seconds (FINDINGS.md). Under KVM they are wrong.
const TCG_ALONE: &str = "noreplace-smp nolapic_timer";
/// There is no PCI, and no ACPI that could power off: to reset is to end. (And the kernel need not complain of what it does not find.)
/// A disk has as many requests, made beforehand, as its queue is long: 1024 here. QEMU serves 64 at once.
const MICROVM: &str = "reboot=t acpi=off pci=off virtio_blk.queue_depth=128";

/// What a VM is to have beside its scratch disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Disks of layers.
    pub layers: usize,
    /// Disks of volumes, and others.
    pub volumes: usize,
    /// Folders of the host's.
    pub shares: usize,
    /// Network interfaces.
    pub nics: usize,
    /// Whether the channel is a virtio device.
    pub channel: bool,
    /// Whether the guest reads fw_cfg.
    pub fw_cfg: bool,
}

impl Wanted {
    fn disks(&self) -> usize {
        self.layers + self.volumes + 1
    }
}

/// The machine that was asked for, if it can be; else the best that can be: microvm, which boots with a third less instructions
/// than q35 (README.md, "Promises in numbers"), or q35.
///
/// # Errors
/// What is asked for does not go together; the error names it, and what would work.
pub fn choose(asked: Option<Machine>, boot: &Boot, accel: Accel, wanted: &Wanted) -> Result<Machine> {
    let can = |machine: Machine| machine.boots(boot).and_then(|()| machine.has_room_for(wanted));
    match asked {
        Some(machine) => can(machine).map(|()| machine),
        None if can(Machine::Microvm).is_ok() && Machine::Microvm.keeps_time(accel) => Ok(Machine::Microvm),
        None => can(Machine::Q35).map(|()| Machine::Q35),
    }
}

impl Machine {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it can boot so.
    ///
    /// # Errors
    /// It cannot.
    pub fn boots(self, boot: &Boot) -> Result<()> {
        match (self, boot) {
            (Self::Microvm, Boot::Iso { .. }) => {
                bail!("--machine microvm has no CD-ROM: --boot iso goes with q35, pc and vmware")
            }
            (Self::Microvm, Boot::Direct { kernel, finds_mmio: false, .. }) => bail!(
                "--machine microvm needs an uncompressed kernel with CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES, and {} is none: \
                 --kernel own has it (`cargo xtask kernel` makes it), or --machine q35 boots this one",
                kernel.display()
            ),
            _ => Ok(()),
        }
    }

    /// Whether all of that fits.
    fn has_room_for(self, wanted: &Wanted) -> Result<()> {
        let Wanted { layers, volumes, shares, nics, channel, fw_cfg } = *wanted;
        let disks = wanted.disks();
        let (name, channel) = (self.name(), usize::from(channel));
        match self {
            Self::Microvm if fw_cfg => bail!(
                "--machine microvm has no ACPI, without which Linux does not read fw_cfg: --spec-from channel and disk work, \
                 or --machine q35"
            ),
            Self::Microvm if disks + shares + nics + channel > MMIO.len() => bail!(
                "--machine microvm has room for {} devices: these are {layers} layers, a scratch disk, {volumes} volumes, \
                 {shares} folders of the host's, {nics} network interfaces and {channel} for the channel; --machine q35 has more",
                MMIO.len()
            ),
            Self::Vmware if shares > 0 => bail!(
                "--machine vmware has no virtiofs for folders of the host's: --machine q35 has, or use volumes"
            ),
            Self::Vmware if disks > CONTROLLERS * SCSI_DISKS => bail!(
                "the image has {layers} layers and the container {volumes} volumes, but --machine vmware has room for {} disks; \
                 --machine q35 has more",
                CONTROLLERS * SCSI_DISKS - 1
            ),
            Self::Q35 | Self::Pc if disks > PCI_DISKS => bail!(
                "the image has {layers} layers and the container {volumes} volumes, but the VM has room for {} disks at most",
                PCI_DISKS - 1
            ),
            Self::Q35 | Self::Pc if channel + disks + shares > PCI_DISKS + 1 => {
                bail!("there is no room in the VM for {shares} folders of the host's")
            }
            _ if nics > FUNCTIONS => bail!("--machine {name} has room for {FUNCTIONS} network interfaces"),
            _ => Ok(()),
        }
    }

    /// Whether its clock is a fine one. microvm's, beside the PIT's ticks, is the CPU's counter alone.
    fn keeps_time(self, accel: Accel) -> bool {
        self != Self::Microvm || accel == Accel::Kvm || host_tsc::is_steady()
    }

    /// The value of `-machine`, without the devices that a guest would only wait for: SATA's link alone costs 0.3 s (FINDINGS.md).
    pub fn value(self, boot: &Boot) -> &'static str {
        match (self, boot) {
            (Self::Microvm, _) => "microvm,acpi=off",
            (Self::Q35, Boot::Direct { .. }) => "q35,usb=off,smbus=off,sata=off",
            (Self::Q35, Boot::Iso { .. }) => "q35,usb=off,smbus=off",
            (Self::Pc, _) => "pc,usb=off",
            (Self::Vmware, _) => "pc,usb=off,vmport=on",
        }
    }

    /// What else QEMU is to be told of it.
    pub fn globals(self) -> &'static [&'static str] {
        // Some devices are there in virtio 1 only.
        if self == Self::Microvm { &["-global", "virtio-mmio.force-legacy=false"] } else { &[] }
    }

    /// The firmware in place of QEMU's own.
    pub fn firmware(self, boot: &Boot) -> Option<PathBuf> {
        match boot {
            Boot::Iso { firmware, .. } => firmware.clone(),
            Boot::Direct { .. } => (self == Self::Q35 && Path::new(QBOOT).exists()).then(|| QBOOT.into()),
        }
    }

    /// Further words for the kernel. Where `counted`, QEMU counts instructions (`-icount`), and a CPU's counter their nanoseconds.
    pub fn parameters(self, accel: Accel, vcpus: u32, counted: bool) -> String {
        let mut words = Vec::new();
        if self == Self::Microvm {
            words.push(MICROVM.to_owned());
        }
        if accel == Accel::Tcg {
            words.push(TCG.to_owned());
            words.extend((vcpus == 1).then(|| TCG_ALONE.to_owned()));
            let clock =
                (self == Self::Microvm).then(|| if counted { Some(1_000_000) } else { host_tsc::khz() });
            // There is nothing to calibrate it by, and else time would pass by ticks.
            words.extend(clock.flatten().map(|khz| format!("tsc_early_khz={khz} tsc=reliable")));
        }
        words.join(" ")
    }
}

/// Where the devices of a machine go, one after the other.
#[derive(Debug)]
pub struct Places {
    machine: Machine,
    virtio: usize,
    disks: usize,
    nics: usize,
}

impl Places {
    /// Of a machine that has room for all that will be asked for.
    pub fn of(machine: Machine) -> Self {
        Self { machine, virtio: 0, disks: 0, nics: 0 }
    }

    /// A virtio device: its full name, and its place.
    pub fn virtio(&mut self, name: &str) -> String {
        let index = self.virtio;
        self.virtio += 1;
        if self.machine == Machine::Microvm {
            return format!("{name}-device,{}", mmio(index));
        }
        format!("{name}-pci,{}", address(index))
    }

    /// The second UART, at the character device `chardev`.
    pub fn uart(&self, chardev: &str) -> [String; 2] {
        if self.machine == Machine::Microvm {
            return ["-device".into(), format!("{COM2},chardev={chardev}")];
        }
        ["-serial".into(), format!("chardev:{chardev}")]
    }

    /// The arguments of a disk that is the block node `node`.
    pub fn disk(&mut self, node: &str) -> Vec<String> {
        // "stop": a host that cannot read or write is not the guest's business; we hear of it by QMP and end the VM.
        const RULES: &str = "rerror=stop,werror=stop";
        let index = self.disks;
        self.disks += 1;
        if self.machine != Machine::Vmware {
            let device = self.virtio("virtio-blk");
            return vec!["-device".into(), format!("{device},drive={node},num-queues=1,{RULES}")];
        }
        let (controller, unit) = (index / SCSI_DISKS, index % SCSI_DISKS);
        let unit = if unit < SCSI_OWN { unit } else { unit + 1 };
        let mut arguments = vec![];
        if unit == 0 {
            let slot = SCSI_SLOT + controller;
            arguments.extend(["-device".into(), format!("pvscsi,id=scsi{controller},addr={slot:x}")]);
        }
        let place = format!("bus=scsi{controller}.0,scsi-id={unit}");
        arguments.extend(["-device".into(), format!("scsi-hd,{place},drive={node},{RULES}")]);
        arguments
    }

    /// A network interface's device. No option ROM: the firmware boots from none of them.
    pub fn nic(&mut self) -> String {
        let index = self.nics;
        self.nics += 1;
        match self.machine {
            Machine::Microvm => self.virtio("virtio-net"),
            Machine::Q35 | Machine::Pc => format!("virtio-net-pci,romfile=,{}", address(NICS + index)),
            Machine::Vmware => format!("vmxnet3,romfile=,{}", address(NICS + index)),
        }
    }
}

fn mmio(index: usize) -> String {
    // More do not fit, which was looked at before.
    MMIO.get(index).map_or_else(String::new, |bus| format!("bus=virtio-mmio-bus.{bus}"))
}

/// The PCI address of our device number `index`: every slot's eight functions are used, and one whose first function is missing is
/// not looked at.
fn address(index: usize) -> String {
    let (slot, function) = (FIRST_SLOT + index / FUNCTIONS, index % FUNCTIONS);
    let multifunction = if function == 0 { ",multifunction=on" } else { "" };
    format!("addr={slot:x}.{function}{multifunction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(finds_mmio: bool) -> Boot {
        Boot::Direct { kernel: "/k".into(), initrd: "/i".into(), parameters: String::new(), finds_mmio }
    }

    fn cd() -> Boot {
        Boot::Iso { firmware: None, image: "/cd".into() }
    }

    const FEW: Wanted = Wanted { layers: 1, volumes: 0, shares: 0, nics: 1, channel: true, fw_cfg: false };

    #[test]
    fn the_best_that_can_be() {
        let best = |boot: &Boot, wanted: &Wanted| choose(None, boot, Accel::Kvm, wanted).unwrap();
        assert_eq!(best(&direct(true), &FEW), Machine::Microvm);
        assert_eq!(best(&direct(false), &FEW), Machine::Q35);
        assert_eq!(best(&cd(), &FEW), Machine::Q35);
        assert_eq!(best(&direct(true), &Wanted { volumes: 3, ..FEW }), Machine::Microvm);
        assert_eq!(best(&direct(true), &Wanted { volumes: 4, ..FEW }), Machine::Q35);
        let tcg = choose(None, &direct(true), Accel::Tcg, &FEW).unwrap();
        assert_eq!(tcg == Machine::Microvm, host_tsc::is_steady());
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let refused = |machine, boot: &Boot, wanted: Wanted, parts: &[&str]| {
            let error = choose(Some(machine), boot, Accel::Tcg, &wanted).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "{error}");
            }
        };
        refused(Machine::Microvm, &direct(false), FEW, &["/k is none", "--kernel own", "--machine q35"]);
        refused(Machine::Microvm, &cd(), FEW, &["no CD-ROM", "q35, pc and vmware"]);
        let many = Wanted { volumes: 2, shares: 2, ..FEW };
        refused(Machine::Microvm, &direct(true), many, &["room for 7 devices", "2 volumes", "--machine q35"]);
        let fw_cfg = Wanted { fw_cfg: true, ..FEW };
        refused(Machine::Microvm, &direct(true), fw_cfg, &["fw_cfg", "--spec-from channel and disk"]);
        refused(Machine::Vmware, &cd(), Wanted { shares: 1, ..FEW }, &["no virtiofs", "--machine q35"]);
        refused(Machine::Vmware, &cd(), Wanted { layers: 60, ..FEW }, &["60 layers", "59 disks"]);
        refused(Machine::Q35, &cd(), Wanted { layers: 223, ..FEW }, &["223 layers", "222 disks"]);
        refused(Machine::Pc, &cd(), Wanted { layers: 200, shares: 24, ..FEW }, &["24 folders"]);
        refused(Machine::Pc, &cd(), Wanted { nics: 9, ..FEW }, &["--machine pc", "8 network"]);
        assert!(choose(Some(Machine::Vmware), &cd(), Accel::Tcg, &Wanted { layers: 59, ..FEW }).is_ok());
    }

    #[test]
    fn every_device_of_a_microvm_has_a_bus_and_none_the_clocks() {
        let mut places = Places::of(Machine::Microvm);
        let mut all = vec![places.virtio("virtio-serial")];
        assert_eq!(all[0], "virtio-serial-device,bus=virtio-mmio-bus.7");
        all.extend((1..MMIO.len()).map(|disk| places.disk(&format!("disk{disk}")).join(" ")));
        all.sort_by_key(|device| device.split("bus.").nth(1).map(|rest| rest[..1].to_owned()));
        all.dedup_by_key(|device| device.split("bus.").nth(1).map(|rest| rest[..1].to_owned()));
        assert_eq!(all.len(), 7);
        assert!(all.iter().all(|device| !device.contains("bus.3")), "{all:?}");
    }

    #[test]
    fn scsi_disks_stand_as_on_esxi() {
        let mut places = Places::of(Machine::Vmware);
        let all: Vec<_> = (0..60).map(|disk| places.disk(&format!("disk{disk}"))).collect();
        assert_eq!(all.iter().filter(|disk| disk.len() == 4).count(), 4);
        assert_eq!(all[0][1], "pvscsi,id=scsi0,addr=1a");
        assert!(all[6][1].contains("scsi0.0,scsi-id=6,") && all[7][1].contains("scsi0.0,scsi-id=8,"));
        assert!(
            all[14][1].contains("scsi0.0,scsi-id=15,drive=disk14,")
                && all[59][1].contains("scsi3.0,scsi-id=15,")
        );
        assert!(all.iter().flatten().all(|word| !word.contains("scsi-id=7,")));
        assert!(places.nic().starts_with("vmxnet3,romfile=,addr=1e.0,"));
    }

    #[test]
    fn the_kernel_is_told_what_is_right_for_the_accelerator() {
        let words = |machine: Machine, accel, vcpus| format!(" {} ", machine.parameters(accel, vcpus, false));
        assert!(words(Machine::Q35, Accel::Tcg, 1).contains(" nolapic_timer "));
        assert!(!words(Machine::Q35, Accel::Tcg, 2).contains(" nolapic_timer "));
        assert!(words(Machine::Q35, Accel::Tcg, 2).contains(" no_timer_check "));
        assert_eq!(words(Machine::Q35, Accel::Kvm, 1), "  ");
        assert_eq!(words(Machine::Microvm, Accel::Kvm, 1), format!(" {MICROVM} "));
        assert!(
            Machine::Microvm.parameters(Accel::Tcg, 1, true).ends_with("tsc_early_khz=1000000 tsc=reliable")
        );
    }
}

//! The description of a VM for VMware's hypervisors that boots `bootstrap.iso`: a `.vmx` beside it. Not tried on a real ESXi.
//!
//! It has what `vch run --machine vmware` has: PVSCSI disks, a VMXNET3 interface, an IDE CD-ROM, two serial ports. Its disks are for whoever
//! uses it to name; tether finds them by what is on them.

use clap::ValueEnum;

/// What boots the CD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    /// The CD's isolinux
    Bios,
    /// The CD's unified kernel image
    Efi,
}

/// Its text, for the ISO of this name in the same folder.
pub fn text(iso: &str, firmware: Firmware) -> String {
    let firmware = match firmware {
        Firmware::Bios => "bios",
        Firmware::Efi => "efi",
    };
    format!(
        r##"# A containerVM for VMware's hypervisors, which boots {iso} beside it. Not tried on a real ESXi.
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "14"
displayName = "containervm"
guestOS = "other4xlinux-64"
firmware = "{firmware}"
memSize = "256"
numvcpus = "1"
powerType.powerOff = "soft"

pciBridge0.present = "TRUE"
pciBridge4.present = "TRUE"
pciBridge4.virtualDev = "pcieRootPort"
pciBridge4.functions = "8"

# The CD that is booted. Nothing of it is needed afterwards.
bios.bootOrder = "cdrom"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-image"
ide1:0.fileName = "{iso}"
ide1:0.startConnected = "TRUE"

# The disks, in any order: the image's layers (raw, from vch's store, by `qemu-img convert -O vmdk`), an ext4 to write on, volumes.
# tether finds them by the UUIDs in the spec.
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "scratch.vmdk"
scsi0:1.present = "TRUE"
scsi0:1.fileName = "layers.vmdk"

ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "generated"
ethernet0.startConnected = "TRUE"

# The kernel's console.
serial0.present = "TRUE"
serial0.fileType = "file"
serial0.fileName = "console.log"
serial0.yieldOnMsrRead = "TRUE"

# The channel: streams, signals and exit status, by protocol/PROTOCOL.md, for whoever connects.
serial1.present = "TRUE"
serial1.fileType = "network"
serial1.network.endPoint = "server"
serial1.fileName = "tcp://:5000"
serial1.yieldOnMsrRead = "TRUE"

# What to run: protocol/src/stored.rs as JSON on one line, where |22 stands for each quotation mark and |7C for each |. Empty, it is
# taken from a config disk or the channel.
guestinfo.containervm.spec = ""
"##
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Each line is a comment, empty, or `key = "value"`; no key stands twice.
    fn parse(text: &str) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{line:?}"));
            let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap();
            assert!(!value.contains('"') && !key.contains(' '), "{line:?}");
            assert_eq!(all.insert(key.to_owned(), value.to_owned()), None, "{key} stands twice");
        }
        all
    }

    #[test]
    fn it_has_the_machine_that_is_tested_in_qemu() {
        let text = text("bootstrap.iso", Firmware::Bios);
        assert!(text.contains("Not tried on a real ESXi"));
        let all = parse(&text);
        for (key, value) in [
            ("config.version", "8"),
            ("firmware", "bios"),
            ("scsi0.virtualDev", "pvscsi"),
            ("ethernet0.virtualDev", "vmxnet3"),
            ("ide1:0.deviceType", "cdrom-image"),
            ("ide1:0.fileName", "bootstrap.iso"),
            ("serial0.present", "TRUE"),
            ("serial1.present", "TRUE"),
            ("guestinfo.containervm.spec", ""),
        ] {
            assert_eq!(all.get(key).map(String::as_str), Some(value), "{key}");
        }
        // Each device has a kind, or a file.
        for device in ["scsi0:0", "scsi0:1", "serial0", "serial1", "ide1:0"] {
            assert!(all.contains_key(&format!("{device}.fileName")), "{device}");
            assert_eq!(all.get(&format!("{device}.present")).map(String::as_str), Some("TRUE"));
        }
        assert_eq!(parse(&super::text("x.iso", Firmware::Efi))["firmware"], "efi");
    }
}

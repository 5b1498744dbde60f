//! Kernel modules: those in the initramfs, in the order of their names.
//!
//! Each costs the start of every containerVM, so those that few need stand in folders of their own and are loaded when the
//! machine spec asks for what they do.

use crate::boot::INITRAMFS;
use crate::failure::{Context, Failure};
use nix::errno::Errno;
use nix::libc;
use protocol::Stage::Modules;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// VMware's vendor ID on PCI, and its disk controller's and network interface's: PVSCSI and VMXNET3 (Linux, drivers/scsi/vmw_pvscsi.h,
/// drivers/net/vmxnet3/vmxnet3_defs.h).
const VMWARE: (&str, [&str; 2]) = ("0x15ad", ["0x07c0", "0x07b0"]);

/// Loads the modules that every machine needs, `/modules/*.ko` of the initramfs; and on one that has VMware's devices those for them,
/// `/modules/vmware/*.ko`.
pub fn load_always() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules"))?;
    let vmware = format!("{INITRAMFS}/modules/vmware");
    // The kernel may have them built in.
    if Path::new(&vmware).exists() && has_pci_device(Path::new("/sys/bus/pci/devices"), VMWARE) {
        load_folder(&vmware)?;
    }
    Ok(())
}

/// Whether there is a PCI device of this vendor that is one of these.
fn has_pci_device(devices: &Path, (vendor, models): (&str, [&str; 2])) -> bool {
    let Ok(devices) = fs::read_dir(devices) else { return false };
    let id = |device: &Path, name: &str| fs::read_to_string(device.join(name)).unwrap_or_default();
    devices.flatten().map(|device| device.path()).any(|device| {
        id(&device, "vendor").trim_end() == vendor && models.contains(&id(&device, "device").trim_end())
    })
}

/// Loads those for dm-verity: `/modules/verity/*.ko`.
pub fn load_verity() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules/verity"))
}

/// Those for folders of the host's: `/modules/virtiofs/*.ko`.
pub fn load_virtiofs() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules/virtiofs"))
}

/// Those for folders of NFS servers: `/modules/nfs/*.ko`.
pub fn load_nfs() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules/nfs"))
}

/// Those for network interfaces: `/modules/network/*.ko`.
pub fn load_network() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules/network"))
}

/// Those for a vsock line to the host: `/modules/vsock/*.ko`.
pub fn load_vsock() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules/vsock"))
}

/// Those for QEMU's fw_cfg: `/modules/fw_cfg/*.ko`.
pub fn load_fw_cfg() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules/fw_cfg"))
}

/// Those for a firewall: `/modules/firewall/*.ko`.
pub fn load_firewall() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules/firewall"))
}

/// Whoever made the initramfs has put them into dependency order. A kernel with everything built in has no such folder.
fn load_folder(folder: &str) -> Result<(), Failure> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.at(Modules, || format!("reading {folder}"))?,
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .at(Modules, || format!("reading {folder}"))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "ko"));
    paths.sort();
    paths.iter().try_for_each(|path| load(path))
}

fn load(path: &Path) -> Result<(), Failure> {
    if is_loaded(path) {
        return Ok(());
    }
    let file = File::open(path).at(Modules, || format!("opening {}", path.display()))?;
    // SAFETY: finit_module(2) takes an open file, a C string and flags; all three outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(Failure::system(Modules, format!("loading {}", path.display()), errno)),
    }
}

/// Whether the module of a file `NUMBER-NAME.ko` is there already: to find that out by loading it costs as much as loading it.
fn is_loaded(path: &Path) -> bool {
    let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.split_once('-'));
    name.is_some_and(|(_, name)| Path::new("/sys/module").join(name.replace('-', "_")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vmwares_devices_are_known_by_vendor_and_model() {
        let dir = std::env::temp_dir().join(format!("tether-pci-{}", std::process::id()));
        let has = |vendor: &str, device: &str| {
            let function = dir.join("0000:00:1a.0");
            fs::create_dir_all(&function).unwrap();
            fs::write(function.join("vendor"), format!("{vendor}\n")).unwrap();
            fs::write(function.join("device"), format!("{device}\n")).unwrap();
            has_pci_device(&dir, VMWARE)
        };
        assert!(has("0x15ad", "0x07c0") && has("0x15ad", "0x07b0"));
        assert!(!has("0x15ad", "0x0405") && !has("0x1af4", "0x07c0") && !has("", ""));
        fs::remove_dir_all(&dir).unwrap();
        assert!(!has_pci_device(&dir, VMWARE));
    }
}

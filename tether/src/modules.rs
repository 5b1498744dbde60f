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

/// Loads the modules that every machine needs: `/modules/*.ko` of the initramfs.
pub fn load_always() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules"))
}

/// Loads those for dm-verity: `/modules/verity/*.ko`.
pub fn load_verity() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules/verity"))
}

/// Those for folders of the host's: `/modules/virtiofs/*.ko`.
pub fn load_virtiofs() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules/virtiofs"))
}

/// Those for network interfaces: `/modules/network/*.ko`.
pub fn load_network() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules/network"))
}

/// Those for a vsock line to the host: `/modules/vsock/*.ko`.
pub fn load_vsock() -> Result<(), Failure> {
    load_folder(&format!("{INITRAMFS}/modules/vsock"))
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

//! Kernel modules: those in the initramfs, in the order of their names.

use crate::boot::INITRAMFS;
use crate::failure::{Context, Failure};
use nix::errno::Errno;
use nix::libc;
use protocol::Stage::Modules;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Loads `/modules/*` of the initramfs. Whoever made it has put them into dependency order. A kernel with
/// everything built in has no such folder.
pub fn load_all() -> Result<(), Failure> {
    let folder = format!("{INITRAMFS}/modules");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.at(Modules, || format!("reading {folder}"))?,
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .at(Modules, || format!("reading {folder}"))?;
    paths.sort();
    paths.iter().try_for_each(|path| load(path))
}

fn load(path: &Path) -> Result<(), Failure> {
    let file = File::open(path).at(Modules, || format!("opening {}", path.display()))?;
    // SAFETY: finit_module(2) takes an open file, a C string and flags; all three outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(Failure::system(Modules, format!("loading {}", path.display()), errno)),
    }
}

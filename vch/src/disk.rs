//! A disk made of pieces of files, as QEMU gets it: descriptors, and a VMDK descriptor file that names them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use image_builder::extents::Extents;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::qemu::{self, Disk};

/// The files of a disk; they must stay open until QEMU has inherited them.
#[derive(Debug)]
pub enum DiskFiles {
    /// A file that is the disk from its start, whatever follows.
    Raw(Arc<File>),
    /// The VMDK descriptor, and the files it names, each once.
    Vmdk(File, Vec<Arc<File>>),
}

impl DiskFiles {
    /// Of the disk `extents`.
    ///
    /// # Errors
    /// The system has no room for the VMDK descriptor.
    pub fn open(extents: &Extents) -> Result<Self> {
        if let [extent] = &extents.0[..]
            && extent.offset == 0
        {
            return Ok(Self::Raw(extent.file.clone()));
        }
        let text = extents.vmdk(|extent| qemu::path(extent.file.as_raw_fd()))?;
        let descriptor = in_memory("vmdk", text.as_bytes()).context("cannot make a VMDK descriptor")?;
        let mut files: Vec<_> = extents.0.iter().map(|extent| extent.file.clone()).collect();
        files.sort_by_key(|file| file.as_raw_fd());
        files.dedup_by_key(|file| file.as_raw_fd());
        Ok(Self::Vmdk(descriptor, files))
    }

    /// Their numbers.
    pub fn descriptors(&self) -> Disk {
        let number = |file: &Arc<File>| -> RawFd { file.as_raw_fd() };
        match self {
            Self::Raw(file) => Disk::Raw(number(file)),
            Self::Vmdk(descriptor, files) => {
                Disk::Vmdk(descriptor.as_raw_fd(), files.iter().map(number).collect())
            }
        }
    }
}

/// A file in memory, open for reading only: QEMU takes no others for read-only disks.
///
/// # Errors
/// The system's.
pub fn in_memory(name: &str, bytes: &[u8]) -> Result<File> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(OpenOptions::new().read(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_builder::extents::Extent;
    use std::io::read_to_string;

    #[test]
    fn pieces_are_named_by_their_descriptors() {
        let [one, two] = [1, 2].map(|_| Arc::new(tempfile::tempfile().unwrap()));
        let piece = |file: &Arc<File>, offset| Extent { file: file.clone(), offset, length: 4096 };
        let whole = Extents(vec![piece(&one, 0)]);
        assert!(matches!(DiskFiles::open(&whole).unwrap(), DiskFiles::Raw(file) if Arc::ptr_eq(&file, &one)));

        let disk =
            DiskFiles::open(&Extents(vec![piece(&two, 0), piece(&one, 512), piece(&two, 4096)])).unwrap();
        let DiskFiles::Vmdk(descriptor, files) = disk else { panic!("{disk:?}") };
        assert_eq!(files.len(), 2);
        let text = read_to_string(descriptor).unwrap();
        let line =
            |file: &Arc<File>, offset| format!("RW 8 FLAT \"/dev/fdset/{}\" {offset}\n", file.as_raw_fd());
        assert!(text.contains(&[line(&two, 0), line(&one, 1), line(&two, 8)].concat()), "{text}");
    }
}

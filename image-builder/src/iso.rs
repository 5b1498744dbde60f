//! bootstrap.iso: kernel and initramfs on a CD that BIOS and UEFI machines start from.
//!
//! BIOS: isolinux, which loads `/vmlinuz` and `/initrd`. UEFI: a FAT image with one file in it,
//! `EFI/BOOT/BOOTX64.EFI`, a unified kernel image (systemd's stub with kernel, initramfs and command line
//! as its sections), which the firmware starts by itself: no boot loader, no configuration. What both need is on the CD
//! once: `/vmlinuz` and `/initrd` are files that lie within the FAT image.
//!
//! Promises: the same inputs give the same bytes, wherever and whenever it is built. All times are 1980-01-01 (the first
//! day that FAT knows); the volume's name and serial number come from what is in it. The ISO appears under its name
//! only when it is whole.

mod fat;
mod iso9660;
mod uki;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::digest::Digest;
use iso9660::{Boot, Content, File, SECTOR};

/// Debian's isolinux and syslinux-common.
const ISOLINUX: &str = "/usr/lib/ISOLINUX/isolinux.bin";
const LDLINUX: &str = "/usr/lib/syslinux/modules/bios/ldlinux.c32";
/// Debian's systemd-boot-efi.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// Before eight digits of the digest of what is in it.
const VOLUME: &str = "CONTAINERVM_";

/// What the ISO is made of.
#[derive(Debug)]
pub struct Iso<'a> {
    /// A bzImage with the EFI stub in it.
    pub kernel: &'a Path,
    /// An initramfs, such as [`crate::initramfs::tether`] gives.
    pub initrd: &'a Path,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// isolinux.cfg, with `@CMDLINE@` where the command line goes.
    pub isolinux_cfg: &'a str,
}

impl Iso<'_> {
    /// The programs of others' that are in every ISO.
    pub const LOADERS: [&'static str; 3] = [ISOLINUX, LDLINUX, STUB];

    /// Writes the ISO to `out`, by way of a temporary file beside it.
    ///
    /// # Errors
    /// A part is missing, too large, or not what it should be.
    pub fn build(&self, out: &Path) -> Result<()> {
        let iso = self.image()?;
        let beside = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let readable = fs::Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new()
            .permissions(readable)
            .tempfile_in(beside)
            .with_context(|| format!("making a file in {}", beside.display()))?;
        file.write_all(&iso).with_context(|| format!("writing the ISO in {}", beside.display()))?;
        let persisted = file.persist(out).map(drop).map_err(|error| error.error);
        persisted.with_context(|| format!("moving the ISO to {}", out.display()))
    }

    fn image(&self) -> Result<Vec<u8>> {
        let (isolinux, ldlinux) = (read(Path::new(ISOLINUX))?, read(Path::new(LDLINUX))?);
        let config = self.isolinux_cfg.replace("@CMDLINE@", self.cmdline.trim());
        let (stub, initrd, kernel) = (read(Path::new(STUB))?, read(self.initrd)?, read(self.kernel)?);
        let cmdline = self.cmdline.trim().as_bytes();
        let sections = [(".cmdline", cmdline), (".initrd", &initrd), (".linux", &kernel)];
        let (program, places) = uki::unify(&stub, &sections, SECTOR)
            .with_context(|| format!("making a unified kernel image of {STUB}"))?;

        let digest = Digest::of(&[&program[..], &isolinux, &ldlinux, config.as_bytes()].concat()).hex();
        let volume = format!("{VOLUME}{}", digest[..8].to_ascii_uppercase());
        let serial = u32::from_str_radix(&digest[..8], 16).context("reading a digest")?;
        let (efi, begin) = fat::image(&program, serial, SECTOR)?;
        let within = |name, section: usize, length| File {
            name,
            content: Content::Within { file: "EFI.IMG", offset: begin + places[section], length },
        };
        let file = |name, bytes| File { name, content: Content::Bytes(bytes) };
        let files = vec![
            file("ISOLINUX.BIN", isolinux),
            file("ISOLINUX.CFG", config.into_bytes()),
            file("LDLINUX.C32", ldlinux),
            file("EFI.IMG", efi),
            within("INITRD", 1, initrd.len()),
            within("VMLINUZ", 2, kernel.len()),
        ];
        iso9660::image(&volume, files, &Boot { bios: "ISOLINUX.BIN", uefi: "EFI.IMG" })
    }
}

/// The files of an ISO that [`Iso::build`] made, with what is in them.
///
/// # Errors
/// It is no such ISO.
pub fn files(iso: &[u8]) -> Result<Vec<(String, &[u8])>> {
    Ok(iso9660::files(iso)?.into_iter().map(|(name, place)| (name, &iso[place])).collect())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}

#[cfg(test)]
mod tests;

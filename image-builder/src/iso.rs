//! bootstrap.iso: kernel and initramfs on a CD that BIOS and UEFI machines start from.
//!
//! BIOS: isolinux, which loads `/vmlinuz` and `/initrd`. UEFI: a FAT image with one file in it,
//! `EFI/BOOT/BOOTX64.EFI`, a unified kernel image (systemd's stub with kernel, initramfs and command line
//! as its sections), which the firmware starts by itself: no boot loader, no configuration.
//!
//! Promises: the same inputs give the same bytes, wherever and whenever it is built with the same tools
//! (xorriso, mtools). All times are `SOURCE_DATE_EPOCH`, or 1980-01-01 (the first day that FAT knows);
//! names and serial numbers are fixed. The ISO appears under its name only when it is whole.

mod uki;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Debian's isolinux and syslinux-common.
const ISOLINUX: &str = "/usr/lib/ISOLINUX/isolinux.bin";
const LDLINUX: &str = "/usr/lib/syslinux/modules/bios/ldlinux.c32";
/// Debian's systemd-boot-efi.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

const VOLUME: &str = "CONTAINERVM";
const FAT_SERIAL: &str = "c0a7a1e5";
/// 1980-01-01 00:00 UTC.
const EPOCH: &str = "315532800";
const SECTOR: u64 = 512;

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
    /// Writes the ISO to `out`. Works in a temporary directory beside it, which it removes.
    pub fn build(&self, out: &Path) -> Result<()> {
        let beside = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let work = tempfile::Builder::new().prefix(".iso-").tempdir_in(beside);
        let work = work.with_context(|| format!("making a directory in {}", beside.display()))?;
        let tree = work.path().join("tree");
        self.bios_files(&tree)?;
        self.efi_image(work.path(), &tree.join("efi.img"))?;
        let iso = work.path().join("iso");
        master(&tree, &iso)?;
        fs::rename(&iso, out).with_context(|| format!("moving the ISO to {}", out.display()))
    }

    fn bios_files(&self, tree: &Path) -> Result<()> {
        let isolinux = tree.join("isolinux");
        fs::create_dir_all(&isolinux).with_context(|| format!("making {}", isolinux.display()))?;
        copy(self.kernel, &tree.join("vmlinuz"))?;
        copy(self.initrd, &tree.join("initrd"))?;
        copy(Path::new(ISOLINUX), &isolinux.join("isolinux.bin"))?;
        copy(Path::new(LDLINUX), &isolinux.join("ldlinux.c32"))?;
        let config = self.isolinux_cfg.replace("@CMDLINE@", self.cmdline.trim());
        fs::write(isolinux.join("isolinux.cfg"), config).context("writing isolinux.cfg")
    }

    /// The FAT image that UEFI firmware looks into, just large enough for its one file.
    fn efi_image(&self, work: &Path, image: &Path) -> Result<()> {
        let loader = work.join("BOOTX64.EFI");
        let program = self.unified_kernel_image()?;
        fs::write(&loader, &program).with_context(|| format!("writing {}", loader.display()))?;
        // 1/64 more for the FATs (two of 2 bytes per cluster of 2 KiB or more), and room for the directories.
        let size = program.len() as u64;
        let size = (size + size / 64 + (256 << 10)).next_multiple_of(1 << 20);
        let file = fs::File::create(image).with_context(|| format!("creating {}", image.display()))?;
        file.set_len(size).with_context(|| format!("sizing {}", image.display()))?;
        let sectors = (size / SECTOR).to_string();
        let geometry = ["-T", &sectors, "-h", "64", "-s", "32"];
        run(tool("mformat")
            .arg("-i")
            .arg(image)
            .args(geometry)
            .args(["-v", VOLUME, "-N", FAT_SERIAL, "::"]))?;
        run(tool("mmd").arg("-i").arg(image).args(["::/EFI", "::/EFI/BOOT"]))?;
        run(tool("mcopy").arg("-i").arg(image).arg(&loader).arg("::/EFI/BOOT/BOOTX64.EFI"))
    }

    fn unified_kernel_image(&self) -> Result<Vec<u8>> {
        let (stub, initrd, kernel) = (read(Path::new(STUB))?, read(self.initrd)?, read(self.kernel)?);
        let cmdline = self.cmdline.trim().as_bytes();
        let sections = [(".cmdline", cmdline), (".initrd", &initrd), (".linux", &kernel)];
        uki::unify(&stub, &sections).with_context(|| format!("making a unified kernel image of {STUB}"))
    }
}

/// Makes the ISO 9660 image of `tree`, with El Torito entries for BIOS and UEFI.
fn master(tree: &Path, iso: &Path) -> Result<()> {
    let mut xorriso = tool("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-r", "-V", VOLUME]);
    xorriso.args(["--set_all_file_dates", &format!("={}", epoch())]);
    xorriso.args(["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat"]);
    xorriso.args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]);
    xorriso.args(["-eltorito-alt-boot", "-e", "efi.img", "-no-emul-boot"]);
    run(xorriso.arg("-o").arg(iso).arg(tree))
}

/// A command whose output does not depend on when and where it runs.
fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("SOURCE_DATE_EPOCH", epoch()).env("TZ", "UTC").env("LC_ALL", "C");
    command
}

/// The time of everything in the ISO, in seconds since 1970.
fn epoch() -> String {
    std::env::var("SOURCE_DATE_EPOCH").unwrap_or(EPOCH.into())
}

/// Runs a command; when it fails, what it said on stderr becomes the error.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        bail!("{name} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::write(to, read(from)?).with_context(|| format!("writing {}", to.display()))
}

#[cfg(test)]
mod tests;

//! From `bootstrap.iso`, by both kinds of firmware.

use crate::harness::{Test, run, shell};
use crate::tests;
use anyhow::{Result, ensure};
use vch::options::{Boot, Firmware};

pub fn tests() -> Vec<Test> {
    tests![bios, uefi]
}

fn boots_by(firmware: Firmware) -> Result<String> {
    let mut options = shell("echo from a CD; ls -d /sys/firmware/efi 2>/dev/null; exit 3");
    (options.boot, options.firmware) = (Boot::Iso, firmware);
    (options.kernel, options.initrd) = (None, None);
    let ran = run(&options)?;
    ensure!(ran.code() == 3, "{ran:?}");
    Ok(ran.out())
}

fn bios() -> Result<()> {
    let text = boots_by(Firmware::Bios)?;
    ensure!(text == "from a CD\n", "{text}");
    Ok(())
}

fn uefi() -> Result<()> {
    let text = boots_by(Firmware::Uefi)?;
    ensure!(text == "from a CD\n/sys/firmware/efi\n", "{text}");
    Ok(())
}

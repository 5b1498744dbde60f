//! From `bootstrap.iso`, by both kinds of firmware.

use crate::harness::{Test, run, shell};
use crate::tests;
use anyhow::{Result, ensure};
use vch::options::{Boot, Firmware};

pub fn tests() -> Vec<Test> {
    tests![bios, uefi]
}

fn boots_by(firmware: Firmware) -> Result<String> {
    let mut options = shell("echo from a CD; cat /proc/cmdline; exit 3");
    (options.boot, options.firmware) = (Some(Boot::Iso), firmware);
    (options.kernel, options.initrd) = (None, None);
    let ran = run(&options)?;
    ensure!(ran.code() == 3, "{ran:?}");
    Ok(ran.out())
}

fn bios() -> Result<()> {
    let text = boots_by(Firmware::Bios)?;
    ensure!(
        text.starts_with("from a CD\nBOOT_IMAGE=/vmlinuz "), // isolinux says this
        "{text}"
    );
    Ok(())
}

fn uefi() -> Result<()> {
    let text = boots_by(Firmware::Uefi)?;
    ensure!(text.starts_with("from a CD\nconsole=ttyS0 ") && !text.contains("BOOT_IMAGE"), "{text}");
    Ok(())
}

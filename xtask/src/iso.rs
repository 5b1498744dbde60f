//! `target/bootstrap/bootstrap.iso`, and `bootstrap.signed.iso` whose modules keep their signatures.

use anyhow::{Context, Result};
use image_builder::iso::Iso;
use image_builder::kernel::KernelTree;

use crate::build::{Signatures, initrd, whole_initrd};
use crate::kernel;
use crate::process::say;
use crate::workspace::{Workspace, is_stale};

/// Makes the ISO if it is out of date; everything else is built.
pub fn build(workspace: &Workspace, signatures: Signatures) -> Result<()> {
    let bootstrap = workspace.bootstrap();
    let iso = match signatures {
        Signatures::Kept => {
            initrd(workspace, &KernelTree::open(&kernel::tree(workspace, true)?)?, signatures)?;
            "bootstrap.signed.iso"
        }
        Signatures::Cut => "bootstrap.iso",
    };
    let initrd = whole_initrd(workspace, signatures)?;
    let (kernel, iso) = (bootstrap.join("vmlinuz"), bootstrap.join(iso));
    let data = workspace.root.join("iso");
    let (cmdline, config) = (data.join("cmdline"), data.join("isolinux.cfg"));
    if !is_stale(&iso, &[&kernel, &initrd, &cmdline, &config])? {
        return Ok(());
    }
    say(&format!("making {}", iso.display()));
    let (cmdline, config) = (workspace.iso_data("cmdline")?, workspace.iso_data("isolinux.cfg")?);
    let parts = Iso { kernel: &kernel, initrd: &initrd, cmdline: &cmdline, isolinux_cfg: &config };
    parts.build(&iso).context("making the boot ISO")
}

//! The boot ISO of each kernel, and what is told of it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use image_builder::digest::Digest;
use image_builder::initramfs;
use image_builder::iso::{self, Iso};
use image_builder::kernel::KernelTree;

use crate::build::{Signatures, initrd, whole_initrd};
use crate::process::say;
use crate::workspace::{Workspace, is_stale, write};
use crate::{kernel, own_kernel, sbom, vmx};

/// Which kernel is on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Edition {
    /// Our own: `own/bootstrap.iso`
    Own,
    /// Debian's, with modules: `bootstrap.iso`
    Debian,
    /// Debian's, with modules that keep their signatures, as UEFI Secure Boot wants them: `bootstrap.signed.iso`
    DebianSigned,
}

impl Edition {
    /// Our own kernel, where it is built.
    pub fn usual(workspace: &Workspace) -> Self {
        if own_kernel::is_built(workspace) { Self::Own } else { Self::Debian }
    }

    /// With its initramfs made, where it is one for the CD alone.
    fn paths(self, workspace: &Workspace) -> Result<Paths> {
        let path = |name: &str| workspace.bootstrap().join(name);
        ensure!(
            self != Self::Own || own_kernel::is_built(workspace),
            "there is no kernel of our own: `cargo xtask kernel` builds it; --kernel debian needs none"
        );
        let (kernel, initrd, iso) = match self {
            Self::Own => (path("own/vmlinuz"), path("own/initrd"), path("own/bootstrap.iso")),
            Self::Debian => {
                (path("vmlinuz"), whole_initrd(workspace, Signatures::Cut)?, path("bootstrap.iso"))
            }
            Self::DebianSigned => {
                initrd(workspace, &KernelTree::open(&kernel::tree(workspace, true)?)?, Signatures::Kept)?;
                (path("vmlinuz"), whole_initrd(workspace, Signatures::Kept)?, path("bootstrap.signed.iso"))
            }
        };
        Ok(Paths { kernel, initrd, iso })
    }
}

struct Paths {
    kernel: PathBuf,
    initrd: PathBuf,
    iso: PathBuf,
}

/// Makes the ISO if it is out of date, and beside it its bill of materials; everything else is built. Gives its path.
///
/// # Errors
/// Something it is made of is missing, or it cannot be written.
pub fn build(workspace: &Workspace, edition: Edition) -> Result<PathBuf> {
    let Paths { kernel, initrd, iso } = edition.paths(workspace)?;
    let data = workspace.root.join("iso");
    let (cmdline, config) = (data.join("cmdline"), data.join("isolinux.cfg"));
    let lock = workspace.root.join("Cargo.lock");
    let mut inputs = vec![&*kernel, &*initrd, &*cmdline, &*config, &*lock];
    // Where they are not installed, an ISO that is there may stay.
    inputs.extend(Iso::LOADERS.map(Path::new).into_iter().filter(|loader| loader.exists()));
    if !is_stale(&iso, &inputs)? {
        return Ok(iso);
    }
    say(&format!("making {}", iso.display()));
    let (cmdline, config) = (workspace.iso_data("cmdline")?, workspace.iso_data("isolinux.cfg")?);
    let parts = Iso { kernel: &kernel, initrd: &initrd, cmdline: &cmdline, isolinux_cfg: &config };
    parts.build(&iso).context("making the boot ISO")?;
    let bytes = fs::read(&iso).with_context(|| format!("reading {}", iso.display()))?;
    let bill = sbom::of(workspace, edition, &bytes).context("making the bill of materials")?;
    write(&iso.with_extension("iso.cdx.json"), format!("{bill:#}\n").as_bytes())?;
    Ok(iso)
}

/// Writes beside the ISO the description of a VM that boots it. Gives its path.
///
/// # Errors
/// It cannot be written.
pub fn vmx(iso: &Path, firmware: vmx::Firmware) -> Result<PathBuf> {
    let name = iso.file_name().unwrap_or_default().to_string_lossy();
    let path = iso.with_extension("vmx");
    write(&path, vmx::text(&name, firmware).as_bytes())?;
    Ok(path)
}

/// Prints what is in the ISO, and in its initramfs: bytes, SHA-256, path.
///
/// # Errors
/// It is no ISO of ours.
pub fn list(iso: &PathBuf) -> Result<()> {
    let bytes = fs::read(iso).with_context(|| format!("reading {}", iso.display()))?;
    let mut stdout = io::stdout().lock();
    let mut line = |name: &str, bytes: &[u8]| {
        let line = writeln!(stdout, "{:>9}  {}  {name}", bytes.len(), Digest::of(bytes).hex());
        line.context("writing to stdout")
    };
    line(&iso.display().to_string(), &bytes)?;
    for (name, content) in iso::files(&bytes)? {
        line(&format!("/{name}"), content)?;
        if name == "initrd" {
            for (inner, content) in initramfs::files(content)? {
                line(&format!("/{name}: /{inner}"), content)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_kernel_of_our_own_it_is_said_how_to_have_one() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace { root: dir.path().into(), target: dir.path().into() };
        let error = build(&workspace, Edition::Own).unwrap_err().to_string();
        assert!(error.contains("cargo xtask kernel") && error.contains("--kernel debian"), "{error}");
    }
}

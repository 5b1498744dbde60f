//! What the VM boots: a kernel and an initramfs, or a CD with both.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::accel::Accel;
use crate::options::{self, Firmware, Kernel, Machine, RunOptions};
use crate::template;

/// The kernel's parameters, one line, the same from a CD: silence on the slow console, a panic ends the VM.
const PARAMETERS: &str = include_str!("../../iso/cmdline");
/// What saves time under TCG with one CPU: 0.2 of 1.4 seconds (FINDINGS.md). Under KVM they are wrong.
const TCG_PARAMETERS: &str = "noreplace-smp no_timer_check nolapic_timer";
/// A small firmware that goes straight to the kernel; 0.1 s faster than SeaBIOS. In Debian's qemu-system-data.
const QBOOT: &str = "/usr/share/qemu/qboot.rom";
/// In Debian's package ovmf.
const OVMF: &str = "/usr/share/ovmf/OVMF.fd";
/// Where a package puts the boot files.
const INSTALLED: &str = "/usr/share/containervm";

/// What QEMU is to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// QEMU loads the kernel.
    Direct {
        /// Firmware in place of QEMU's own.
        firmware: Option<PathBuf>,
        /// bzImage or PVH vmlinux.
        kernel: PathBuf,
        /// Initramfs.
        initrd: PathBuf,
        /// The kernel's command line.
        parameters: String,
    },
    /// The firmware starts the CD's boot loader.
    Iso {
        /// Firmware in place of QEMU's own.
        firmware: Option<PathBuf>,
        /// The CD.
        image: PathBuf,
    },
}

impl Boot {
    /// Finds what `options` ask for, or the defaults.
    ///
    /// # Errors
    /// Something is not there; the error says where it was looked for.
    pub fn find(options: &RunOptions, accel: Accel) -> Result<Self> {
        match options.boot {
            options::Boot::Direct => {
                let (kernel, initrd) = kernel(options)?;
                let qboot = options.machine == Machine::Q35 && Path::new(QBOOT).exists();
                Ok(Self::Direct {
                    firmware: qboot.then(|| QBOOT.into()),
                    kernel,
                    initrd,
                    parameters: parameters(options, accel),
                })
            }
            options::Boot::Iso => Ok(Self::Iso {
                firmware: match options.firmware {
                    Firmware::Bios => None,
                    Firmware::Uefi => Some(ovmf()?),
                },
                image: file("iso", options.iso.as_ref(), &["bootstrap.iso"], "iso")?,
            }),
        }
    }
}

/// The kernel, and the initramfs that has the modules for it.
fn kernel(options: &RunOptions) -> Result<(PathBuf, PathBuf)> {
    const OWN: [&str; 2] = ["own/vmlinux", "own/vmlinuz"];
    const DEBIAN: [&str; 2] = ["vmlinux", "vmlinuz"];
    let initrd = |name, command| file("initrd", options.initrd.as_ref(), &[name], command);
    let own = || Ok((file("kernel", None, &OWN, "kernel")?, initrd("own/initrd", "kernel")?));
    let debian = || Ok((file("kernel", None, &DEBIAN, "build")?, initrd("initrd", "build")?));
    match &options.kernel {
        Some(Kernel::Own) => own(),
        Some(Kernel::Debian) => debian(),
        Some(Kernel::File(path)) => {
            Ok((file("kernel", Some(path), &[], "build")?, initrd("initrd", "build")?))
        }
        None if options.initrd.is_none() => own().or_else(|_| debian()),
        None => debian(),
    }
}

fn ovmf() -> Result<PathBuf> {
    if !Path::new(OVMF).exists() {
        bail!("--firmware uefi needs {OVMF}, which is in Debian's package ovmf");
    }
    Ok(OVMF.into())
}

fn parameters(options: &RunOptions, accel: Accel) -> String {
    let mut words: Vec<_> = PARAMETERS.split_ascii_whitespace().collect();
    if accel == Accel::Tcg && options.vcpus() == 1 {
        words.extend(TCG_PARAMETERS.split_ascii_whitespace());
    }
    let channel = options.channel.channel.parameter();
    words.push(&channel);
    if options.template.from_template.is_some() {
        words.push(template::PARAMETER);
    }
    if options.debug {
        words.retain(|word| *word != "quiet");
        words.push("loglevel=7");
    }
    words.join(" ")
}

/// The file that option `--what` names, or the first of `names` beside our executable or where a package puts it.
fn file(what: &str, given: Option<&PathBuf>, names: &[&str], command: &str) -> Result<PathBuf> {
    if let Some(path) = given {
        std::fs::metadata(path).with_context(|| format!("--{what} {}", path.display()))?;
        return Ok(path.clone());
    }
    let exe = std::env::current_exe().context("cannot find out where this program is")?;
    let beside = exe.parent().and_then(Path::parent).map(|dir| dir.join("bootstrap"));
    search(what, beside.into_iter().chain([INSTALLED.into()]), names, command)
}

fn search(what: &str, dirs: impl Iterator<Item = PathBuf>, names: &[&str], command: &str) -> Result<PathBuf> {
    let candidates: Vec<_> = dirs.flat_map(|dir| names.iter().map(move |name| dir.join(name))).collect();
    if let Some(found) = candidates.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let looked: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
    bail!(
        "no {what}: looked for {}; `cargo xtask {command}` makes it, --{what} names another",
        looked.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_fit_the_accelerator() {
        let mut options = RunOptions::new("img");
        let of = |options: &RunOptions, accel| format!(" {} ", parameters(options, accel));
        assert!(of(&options, Accel::Tcg).contains(" nolapic_timer "));
        assert!(!of(&options, Accel::Kvm).contains(" nolapic_timer "));
        assert!(
            of(&options, Accel::Kvm).contains(" quiet ") && of(&options, Accel::Kvm).contains(" panic=-1 ")
        );
        assert!(of(&options, Accel::Kvm).contains(" containervm.channel=virtio-serial "));
        options.cpus = 2.0;
        options.debug = true;
        options.channel.channel = crate::transport::Channel::Serial;
        assert!(of(&options, Accel::Tcg).contains(" containervm.channel=serial "));
        assert!(!of(&options, Accel::Tcg).contains(" noreplace-smp "));
        assert!(
            !of(&options, Accel::Tcg).contains(" quiet ")
                && of(&options, Accel::Tcg).contains(" loglevel=7 ")
        );
    }

    #[test]
    fn the_first_that_is_there_or_all_that_were_tried() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = || [dir.path().join("a"), dir.path().join("b")].into_iter();
        let error = search("kernel", dirs(), &["vmlinux", "vmlinuz"], "build").unwrap_err().to_string();
        for part in
            ["a/vmlinux,", "a/vmlinuz,", "b/vmlinux,", "b/vmlinuz;", "`cargo xtask build`", "--kernel"]
        {
            assert!(error.contains(part), "{error}");
        }
        std::fs::create_dir(dir.path().join("b")).unwrap();
        std::fs::write(dir.path().join("b/vmlinuz"), "").unwrap();
        assert_eq!(
            search("kernel", dirs(), &["vmlinux", "vmlinuz"], "build").unwrap(),
            dir.path().join("b/vmlinuz")
        );
        std::fs::write(dir.path().join("b/vmlinux"), "").unwrap();
        assert_eq!(
            search("kernel", dirs(), &["vmlinux", "vmlinuz"], "build").unwrap(),
            dir.path().join("b/vmlinux")
        );
    }
}

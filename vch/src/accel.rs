//! Which accelerator runs the VM: KVM, or TCG, QEMU's translator.
//!
//! A `/dev/kvm` that opens proves nothing: on some nested hosts stock guest kernels crawl under it. KVM is used where
//! `KVM_CREATE_VM` works and `/proc/cpuinfo` shows `vmx` or `svm`.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Result, anyhow};
use nix::errno::Errno;

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// KVM if it is usable, else TCG.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// TCG.
    Tcg,
}

/// What the VM runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The kernel's virtual machines.
    Kvm,
    /// QEMU's translator: slow, and everywhere.
    Tcg,
}

/// The accelerator for `choice` on this host.
///
/// # Errors
/// KVM was asked for and is not usable; the error says why.
pub fn choose(choice: Choice) -> Result<Accel> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    decide(choice, &cpuinfo, create_vm)
}

/// As [`choose`], with `/proc/cpuinfo`'s text and a probe that makes a virtual machine.
fn decide(choice: Choice, cpuinfo: &str, probe: impl FnOnce() -> Result<(), String>) -> Result<Accel> {
    let usable = || {
        probe()?;
        if has_virtualization(cpuinfo) {
            Ok(())
        } else {
            Err("/proc/cpuinfo shows neither vmx nor svm".to_owned())
        }
    };
    match choice {
        Choice::Tcg => Ok(Accel::Tcg),
        Choice::Auto => Ok(usable().map_or(Accel::Tcg, |()| Accel::Kvm)),
        Choice::Kvm => usable()
            .map(|()| Accel::Kvm)
            .map_err(|why| anyhow!("KVM is not usable here: {why}; --accel tcg works anywhere")),
    }
}

fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// Makes a virtual machine, and drops it.
fn create_vm() -> Result<(), String> {
    /// `_IO(KVMIO, 0x01)`, `linux/kvm.h`.
    const KVM_CREATE_VM: libc::Ioctl = 0xae01;
    let kvm: File =
        OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => "there is no /dev/kvm".to_owned(),
            std::io::ErrorKind::PermissionDenied => "no permission to open /dev/kvm (group kvm)".to_owned(),
            _ => format!("/dev/kvm: {e}"),
        })?;
    // SAFETY: KVM_CREATE_VM takes a number and touches no memory of ours.
    let vm = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_CREATE_VM, 0) };
    let vm = Errno::result(vm).map_err(|e| format!("KVM_CREATE_VM: {}", e.desc()))?;
    // SAFETY: the ioctl has just given us this descriptor, and nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(vm) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEL: &str = "processor\t: 0\nflags\t\t: fpu vme vmx sse\n\nprocessor\t: 1\nflags\t\t: fpu\n";
    const AMD: &str = "flags\t\t: fpu svm\n";
    const NESTED: &str = "flags\t\t: fpu sse hypervisor svm_lock\nvmx flags\t: none\n";

    fn yes() -> Result<(), String> {
        Ok(())
    }

    fn no() -> Result<(), String> {
        Err("there is no /dev/kvm".into())
    }

    #[test]
    fn auto_wants_both_the_ioctl_and_the_flag() {
        assert_eq!(decide(Choice::Auto, INTEL, yes).unwrap(), Accel::Kvm);
        assert_eq!(decide(Choice::Auto, AMD, yes).unwrap(), Accel::Kvm);
        assert_eq!(decide(Choice::Auto, NESTED, yes).unwrap(), Accel::Tcg);
        assert_eq!(decide(Choice::Auto, INTEL, no).unwrap(), Accel::Tcg);
        assert_eq!(decide(Choice::Tcg, INTEL, yes).unwrap(), Accel::Tcg);
    }

    #[test]
    fn kvm_or_a_reason() {
        assert_eq!(decide(Choice::Kvm, AMD, yes).unwrap(), Accel::Kvm);
        let why = |cpuinfo, probe: fn() -> Result<(), String>| {
            decide(Choice::Kvm, cpuinfo, probe).unwrap_err().to_string()
        };
        assert!(why(NESTED, yes).contains("neither vmx nor svm"));
        assert!(why(INTEL, no).contains("no /dev/kvm"));
    }
}

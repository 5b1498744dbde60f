//! Seccomp: docker's profiles and the OCI config's `linux.seccomp`, compiled here to the program that the guest's kernel
//! runs before each system call.
//!
//! What the runtime-spec leaves open follows runc and libseccomp: names that no architecture has are skipped; a call of an architecture that
//! the filter does not cover kills the thread; a call newer than all that the profile names gives ENOSYS, not the default
//! action, so that programs fall back to an older one.

mod calls;
mod filter;
pub mod profile;
mod program;

use std::fmt::Write;

use anyhow::{Context, Result};
use protocol::MachineSpec;
use protocol::oci::Seccomp;

/// Compiles the machine's `linux.seccomp`, if it has one.
///
/// # Errors
/// It cannot be, with the name of the field.
pub fn lower(machine: &mut MachineSpec) -> Result<()> {
    if let Some(seccomp) = machine.config.linux.seccomp.take() {
        machine.seccomp = Some(compile(&seccomp)?);
    }
    Ok(())
}

/// Compiles a filter.
///
/// # Errors
/// It has values that mean nothing, or is too long.
pub fn compile(seccomp: &Seccomp) -> Result<protocol::Seccomp> {
    let flags = flags(seccomp.flags.as_deref())?;
    let program = filter::compile(seccomp)?;
    let mut text = String::with_capacity(16 * program.len());
    for program::Instruction { code, jt, jf, k } in program {
        for byte in code.to_le_bytes().into_iter().chain([jt, jf]).chain(k.to_le_bytes()) {
            write!(text, "{byte:02x}")?;
        }
    }
    Ok(protocol::Seccomp { flags, program: text })
}

/// `SECCOMP_FILTER_FLAG_*`, include/uapi/linux/seccomp.h. Those about listeners are not here.
fn flags(names: Option<&[String]>) -> Result<u32> {
    const SPEC_ALLOW: u32 = 4;
    const FLAGS: [(&str, u32); 3] = [
        ("SECCOMP_FILTER_FLAG_TSYNC", 1),
        ("SECCOMP_FILTER_FLAG_LOG", 2),
        ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", SPEC_ALLOW),
    ];
    let Some(names) = names else { return Ok(SPEC_ALLOW) };
    names.iter().try_fold(0, |flags, name| {
        let found = FLAGS.iter().find(|(known, _)| known == name);
        let (_, bit) = found.with_context(|| format!("linux.seccomp.flags: {name:?} is not supported"))?;
        Ok(flags | bit)
    })
}

#[cfg(test)]
mod tests;

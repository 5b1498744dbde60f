//! New ext4 filesystems, by mke2fs, in files that are all holes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use anyhow::{Result, anyhow, bail};
use protocol::Uuid;

use crate::child;
use crate::text::harmless;

/// What the filesystem is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// A machine's life. No journal: nobody mounts it a second time. No checksums, but of what says that the rest of a new filesystem is
    /// empty: they cost each start 700,000 instructions.
    Scratch,
    /// As long as the user wants it, or for several VMs, one after the other.
    Volume,
}

/// Makes a filesystem with `uuid` in `file`, as large as it is.
///
/// # Errors
/// mke2fs is not there or fails.
pub fn format(file: &File, uuid: Uuid, what: For) -> Result<()> {
    let (features, name) = match what {
        For::Scratch => ("^has_journal,^resize_inode,^metadata_csum,uninit_bg", "the scratch disk"),
        For::Volume => ("has_journal", "the disk"),
    };
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        // Nothing is zeroed, for a new file is all zeroes: the guest's kernel believes it too, and spares itself the
        // background zeroing.
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-O", features, "-E"])
        .arg("nodiscard,lazy_itable_init=1,lazy_journal_init=1,assume_storage_prezeroed=1,root_owner=0:0")
        .args(["-U", &uuid.to_string()]);
    let output = run(mke2fs, file)?;
    if !output.status.success() {
        bail!("mke2fs could not format {name} ({}): {}", output.status, harmless(&output.stderr, 500));
    }
    Ok(())
}

/// Runs a program of e2fsprogs on `file`.
fn run(mut program: Command, file: &File) -> Result<Output> {
    let name = program.get_program().to_string_lossy().into_owned();
    program
        .arg(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .env("PATH", path_with_sbin())
        .stdin(Stdio::null());
    // A process group of its own: ^C at the terminal is for us to act on.
    program.process_group(0);
    child::bind(&mut program, vec![file.as_raw_fd()], false);
    program.output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => anyhow!("{name} is not installed: it is in Debian's package e2fsprogs"),
        _ => anyhow!("cannot start {name}: {e}"),
    })
}

/// They are in sbin, which users' PATHs often lack.
fn path_with_sbin() -> String {
    match std::env::var("PATH") {
        Ok(path) if !path.is_empty() => format!("{path}:/usr/sbin:/sbin"),
        _ => "/usr/sbin:/sbin".to_owned(),
    }
}

//! What makes the kernel's bytes, and nothing else: a kernel is built anew when this text has changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{command, run, say};
use crate::tools::SOURCE;

/// Whatever else would differ from one build to the next (the kernel's Documentation/kbuild/reproducible-builds.rst), and make's
/// language: some generated files are sorted by it.
const REPRODUCIBLE: [(&str, &str); 6] = [
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01"),
    ("KBUILD_BUILD_USER", "containervm"),
    ("KBUILD_BUILD_HOST", "containervm"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
];
const BZIMAGE: &str = "arch/x86/boot/bzImage";

/// What of a kernel is ours.
pub struct Changes {
    /// Its configuration, as far as it is not `n`.
    pub fragment: String,
    /// To its source, by their files' names.
    pub patches: BTreeMap<String, String>,
}

/// Builds it in `folder`, which is removed, and gives the folder of the results: its sibling `NAME.out`.
///
/// # Errors
/// A tool fails, or an option or a patch is not taken.
pub fn make(changes: &Changes, folder: &Path) -> Result<PathBuf> {
    let Changes { fragment, patches } = changes;
    ensure!(
        !folder.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b' ' | b':')),
        "the kernel cannot be built in {}, for its makefiles do not take spaces or colons: set CARGO_TARGET_DIR to a folder without",
        folder.display()
    );
    for old in [folder, &folder.with_extension("out")] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("removing {}", old.display()))?;
        }
        fs::create_dir_all(old).with_context(|| format!("making {}", old.display()))?;
    }
    say(&format!("building a kernel from {SOURCE}: some 6 minutes on 2 cores, once"));
    run(command("tar").args(["-x", "--strip-components=1", "-f", SOURCE, "-C"]).arg(folder))?;
    for (name, patch) in patches {
        let file = folder.join(name);
        fs::write(&file, patch).with_context(|| format!("writing {name}"))?;
        let mut patch = command("patch");
        patch.args(["--silent", "--strip=1", "--fuzz=0", "--no-backup-if-mismatch", "--input"]).arg(&file);
        run(patch.current_dir(folder))
            .with_context(|| format!("iso/patches/{name} does not fit {SOURCE}"))?;
    }
    fs::write(folder.join("fragment"), fragment).context("writing the kernel's configuration")?;
    run(make_in(folder).args(["-s", "allnoconfig", "KCONFIG_ALLCONFIG=fragment"]))?;
    let config = fs::read_to_string(folder.join(".config")).context("reading the kernel's configuration")?;
    check_config(fragment, &config)?;
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    run(make_in(folder).args(["-s", &format!("-j{jobs}"), "vmlinux", "bzImage"]))?;
    let out = folder.with_extension("out");
    run(command("strip").arg("-o").arg(out.join("vmlinux")).arg(folder.join("vmlinux")))?;
    for (from, to) in [(BZIMAGE, "vmlinuz"), (".config", "config")] {
        fs::copy(folder.join(from), out.join(to)).with_context(|| format!("copying {from}"))?;
    }
    fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    Ok(out)
}

fn make_in(folder: &Path) -> Command {
    let mut make = command("make");
    // Not told of the jobs and variables of a make that we may run under.
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").envs(REPRODUCIBLE).current_dir(folder);
    make
}

/// Whether all that the fragment asks for is in the configuration.
fn check_config(fragment: &str, config: &str) -> Result<()> {
    let (asked, got) = (options(fragment), options(config));
    let missing: Vec<_> = asked
        .into_iter()
        .filter(|(name, value)| got.get(name).copied().unwrap_or("n") != *value)
        .map(|(name, value)| format!("{name}={value} (it is {})", got.get(name).copied().unwrap_or("n")))
        .collect();
    if !missing.is_empty() {
        bail!("the kernel does not take of iso/kernel.config: {}", missing.join(", "));
    }
    Ok(())
}

/// `CONFIG_NAME=VALUE`, a line each.
fn options(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter(|line| line.starts_with("CONFIG_")).filter_map(|line| line.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_take_is_named() {
        let fragment = "# core\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=\"x=y\"\n";
        check_config(fragment, "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x=y\"\nCONFIG_D=y\n").unwrap();
        let error = check_config(fragment, "CONFIG_B=y\nCONFIG_C=\"x\"\n").unwrap_err().to_string();
        for part in ["CONFIG_A=y (it is n)", "CONFIG_B=n (it is y)", "CONFIG_C=\"x=y\" (it is \"x\")"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

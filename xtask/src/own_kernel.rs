//! A kernel of our own: Debian's source, and of it only what a containerVM needs (`iso/kernel.config`), nothing as a module.
//!
//! Promises: it is built again when one of its inputs has changed (the source's version, the fragment, the compiler), and only
//! then; the same inputs give the same bytes, in any folder and at any time; an option of the fragment that the kernel's
//! configuration does not take is an error, not a surprise in the guest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use image_builder::digest::Digest;
use image_builder::initramfs::{self, Modules};

use crate::process::{command, output_of, run, say};
use crate::tools::{MUSL, SOURCE};
use crate::workspace::{Workspace, is_stale, write};

/// The package of [`SOURCE`].
pub const PACKAGE: &str = "linux-source-6.1";
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

/// Makes `target/bootstrap/own/{vmlinux,vmlinuz,initrd}`: the kernel, and an initramfs with nothing but tether.
///
/// # Errors
/// A tool fails, or an option is not taken.
pub fn build(workspace: &Workspace) -> Result<()> {
    let built = cached(workspace)?;
    let own = own(workspace);
    fs::create_dir_all(&own).with_context(|| format!("making {}", own.display()))?;
    for name in ["vmlinux", "vmlinuz"] {
        let (from, to) = (built.join(name), own.join(name));
        if is_stale(&to, &[&from])? {
            write(&to, &fs::read(&from).with_context(|| format!("reading {}", from.display()))?)?;
        }
    }
    initrd(workspace)
}

/// Its initramfs anew, where there is such a kernel.
///
/// # Errors
/// It cannot be written.
pub fn initrd(workspace: &Workspace) -> Result<()> {
    let (own, tether) = (own(workspace), workspace.target.join(MUSL).join("release/tether"));
    let initrd = own.join("initrd");
    if !own.exists() || !is_stale(&initrd, &[&tether])? {
        return Ok(());
    }
    let tether = fs::read(&tether).with_context(|| format!("reading {}", tether.display()))?;
    write(&initrd, &initramfs::tether(&tether, &Modules::default())?)
}

/// Builds it twice, in two folders, and compares.
///
/// # Errors
/// The bytes differ.
pub fn check(workspace: &Workspace) -> Result<()> {
    let first = cached(workspace)?;
    let second = make(workspace, &workspace.target.join("kernel/a folder of another name"))?;
    for name in ["vmlinux", "vmlinuz", "config"] {
        let read = |dir: &Path| fs::read(dir.join(name)).with_context(|| format!("reading {name}"));
        ensure!(read(&first)? == read(&second)?, "{name} is not the same in {}", second.display());
    }
    say("the kernel is the same, bit for bit");
    fs::remove_dir_all(&second).with_context(|| format!("removing {}", second.display()))
}

/// Whether there is one.
pub fn is_built(workspace: &Workspace) -> bool {
    own(workspace).join("vmlinuz").exists()
}

/// The version of the source's package.
///
/// # Errors
/// It is not installed.
pub fn source_version() -> Result<String> {
    output_of(command("dpkg-query").args(["-W", "-f", "${Version}", PACKAGE]))
}

fn own(workspace: &Workspace) -> PathBuf {
    workspace.bootstrap().join("own")
}

/// The folder of the built kernel, made if these inputs were not built yet.
fn cached(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target.join("kernel");
    let built = folder.join(key(&workspace.iso_data("kernel.config")?)?);
    if !built.exists() {
        let draft = make(workspace, &folder.join("build"))?;
        fs::rename(&draft, &built).with_context(|| format!("moving the kernel to {}", built.display()))?;
    }
    Ok(built)
}

/// What the result depends on.
fn key(fragment: &str) -> Result<String> {
    let version = source_version()?;
    let compiler = output_of(command("gcc").arg("--version"))?;
    let linker = output_of(command("ld").arg("--version"))?;
    let recipe = include_str!("own_kernel.rs");
    let all = [fragment, &version, &compiler, &linker, recipe]
        .map(|part| format!("{}\n{part}", part.len()))
        .concat();
    Ok(Digest::of(all.as_bytes()).hex()[..16].to_owned())
}

/// Builds in `folder`, which is removed, and gives the folder of the results: its sibling `NAME.out`.
fn make(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    for old in [folder, &folder.with_extension("out")] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("removing {}", old.display()))?;
        }
        fs::create_dir_all(old).with_context(|| format!("making {}", old.display()))?;
    }
    say(&format!("building a kernel from {SOURCE}: some 6 minutes on 2 cores, once"));
    run(command("tar").args(["-x", "--strip-components=1", "-f", SOURCE, "-C"]).arg(folder))?;
    let fragment = workspace.iso_data("kernel.config")?;
    fs::write(folder.join("fragment"), &fragment).context("writing the kernel's configuration")?;
    run(make_in(folder).args(["-s", "allnoconfig", "KCONFIG_ALLCONFIG=fragment"]))?;
    let config = fs::read_to_string(folder.join(".config")).context("reading the kernel's configuration")?;
    check_config(&fragment, &config)?;
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

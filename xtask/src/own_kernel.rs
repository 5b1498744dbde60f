//! A kernel of our own: Debian's source with few changes (`iso/patches`), and of it only what a containerVM needs
//! (`iso/kernel.config`), nothing as a module.
//!
//! Promises: it is built again when one of its inputs has changed (the source's version, the changes, the compiler), and only
//! then; the same inputs give the same bytes, in any folder and at any time; an option of the fragment that the kernel's
//! configuration does not take is an error, not a surprise in the guest.

mod recipe;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_builder::digest::Digest;
use image_builder::initramfs::{self, Modules};

use recipe::Changes;

use crate::process::{command, output_of, say};
use crate::tools::MUSL;
use crate::workspace::{Workspace, is_stale, write};

/// The package of the source.
pub const PACKAGE: &str = "linux-source-6.1";

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
        let kernel = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
        // Which of those that were built is wanted is no matter of times.
        if fs::read(&to).ok().as_ref() != Some(&kernel) {
            write(&to, &kernel)?;
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
    let second = recipe::make(&changes(workspace)?, &workspace.target.join("kernel/another-folder"))?;
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
    let changes = changes(workspace)?;
    let built = folder.join(key(&changes)?);
    if !built.exists() {
        let draft = recipe::make(&changes, &folder.join("build"))?;
        fs::rename(&draft, &built).with_context(|| format!("moving the kernel to {}", built.display()))?;
    }
    Ok(built)
}

fn changes(workspace: &Workspace) -> Result<Changes> {
    Ok(Changes { fragment: workspace.iso_data("kernel.config")?, patches: patches(workspace)? })
}

/// What is changed of the source, by the names of the patches.
///
/// # Errors
/// They cannot be read.
pub fn patches(workspace: &Workspace) -> Result<BTreeMap<String, String>> {
    let folder = workspace.root.join("iso/patches");
    let files = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut patches = BTreeMap::new();
    for file in files {
        let name = file?.file_name().to_string_lossy().into_owned();
        patches.insert(name.clone(), workspace.iso_data(&format!("patches/{name}"))?);
    }
    Ok(patches)
}

/// What the result depends on.
fn key(changes: &Changes) -> Result<String> {
    let version = source_version()?;
    let compiler = output_of(command("gcc").arg("--version"))?;
    let linker = output_of(command("ld").arg("--version"))?;
    let recipe = include_str!("own_kernel/recipe.rs");
    let fixed = [&*changes.fragment, &version, &compiler, &linker, recipe];
    let patches = changes.patches.values().map(String::as_str);
    let all: String =
        fixed.into_iter().chain(patches).map(|part| format!("{}\n{part}", part.len())).collect();
    Ok(Digest::of(all.as_bytes()).hex()[..16].to_owned())
}

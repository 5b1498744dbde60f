//! The kernel: Debian's `linux-image-cloud-amd64`, downloaded and unpacked below the target directory, never
//! installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{command, output_of, run, say};
use crate::tools;
use crate::workspace::Workspace;

/// Depends on the package of the newest kernel.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// The unpacked package; fetched if it is not there. It appears under its name only when it is whole.
pub fn tree(workspace: &Workspace, no_install: bool) -> Result<PathBuf> {
    let tree = workspace.bootstrap().join("kernel");
    if tree.exists() {
        return Ok(tree);
    }
    if no_install {
        bail!("missing: the kernel in {}; to get it: cargo xtask build", tree.display());
    }
    let work = workspace.bootstrap().join("kernel.new");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    }
    let unpacked = work.join("unpacked");
    fs::create_dir_all(&unpacked).with_context(|| format!("making {}", unpacked.display()))?;
    let package = download(&work)?;
    run(command("dpkg-deb").arg("-x").arg(package).arg(&unpacked))?;
    fs::rename(&unpacked, &tree).with_context(|| format!("moving the kernel to {}", tree.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    Ok(tree)
}

/// Downloads the kernel's package into `directory`.
fn download(directory: &Path) -> Result<PathBuf> {
    if !tools::is_known(METAPACKAGE) {
        tools::update_lists()?;
    }
    if fetch(directory).is_err() {
        // Old lists name a package that the mirror has replaced.
        tools::update_lists()?;
        fetch(directory)?;
    }
    let files = fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let mut packages = files.filter_map(|file| Some(file.ok()?.path()));
    let package = packages.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    package.with_context(|| format!("apt-get download left no package in {}", directory.display()))
}

fn fetch(directory: &Path) -> Result<()> {
    let shown = output_of(command("apt-cache").args(["show", "--no-all-versions", METAPACKAGE]))?;
    let package = dependency(&shown)
        .with_context(|| format!("finding which package {METAPACKAGE} depends on in apt-cache show"))?;
    say(&format!("fetching {package} with apt-get download"));
    let mut apt = command("apt-get");
    // apt's own user may not write where we are; checking the signatures does not depend on it.
    apt.args(["download", "-q", "-o", "APT::Sandbox::User=root", &package]);
    run(apt.current_dir(directory))
}

/// `Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)` as `name=version`.
fn dependency(shown: &str) -> Option<String> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let first = depends.split(',').find(|one| one.trim().starts_with("linux-image-"))?.trim();
    match first.split_once(" (= ") {
        Some((name, version)) => Some(format!("{name}={}", version.strip_suffix(')')?)),
        None => Some(first.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metapackage_names_the_kernel() {
        let shown = "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\nSize: 1\n";
        assert_eq!(dependency(shown).unwrap(), "linux-image-6.1.0-56-cloud-amd64=6.1.192-2");
        let other = "Depends: linux-base, linux-image-7-cloud-amd64\n";
        assert_eq!(dependency(other).unwrap(), "linux-image-7-cloud-amd64");
        assert_eq!(dependency("Package: x\n"), None);
    }
}

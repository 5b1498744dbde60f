//! Everything that `vch run` needs: the programs, what a containerVM boots from, a default image.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image_builder::initramfs::Modules;
use image_builder::kernel::KernelTree;
use image_builder::{initramfs, kernel as kernel_image, testimage};

use crate::kernel;
use crate::own_kernel;
use crate::process::{cargo_build, say};
use crate::tools::{BUSYBOX, MUSL};
use crate::workspace::{Workspace, is_stale, write};

/// Builds what is missing or out of date; `no_install`: without fetching the kernel.
pub fn all(workspace: &Workspace, no_install: bool) -> Result<()> {
    let bootstrap = workspace.bootstrap();
    fs::create_dir_all(&bootstrap).with_context(|| format!("making {}", bootstrap.display()))?;
    let tree = KernelTree::open(&kernel::tree(workspace, no_install)?)?;
    cargo_build(&workspace.root, &["--release", "-p", "vch", "-p", "image-builder"])?;
    cargo_build(&workspace.root, &["--release", "-p", "tether", "--target", MUSL])?;
    kernels(&tree, &bootstrap)?;
    initrd(workspace, &tree, Signatures::Cut)?;
    own_kernel::initrd(workspace)?;
    default_image(workspace)
}

/// `vmlinuz`, and where its compression is known `vmlinux`, which QEMU starts faster.
fn kernels(tree: &KernelTree, bootstrap: &Path) -> Result<()> {
    let (vmlinuz, vmlinux) = (bootstrap.join("vmlinuz"), bootstrap.join("vmlinux"));
    if !is_stale(&vmlinuz, &[tree.vmlinuz()])? {
        return Ok(());
    }
    let image = fs::read(tree.vmlinuz()).with_context(|| format!("reading {}", tree.vmlinuz().display()))?;
    match kernel_image::vmlinux(&image) {
        Ok(elf) => write(&vmlinux, &elf)?,
        Err(error) => {
            say(&format!("no vmlinux, containerVMs boot from vmlinuz: {error:#}"));
            if vmlinux.exists() {
                fs::remove_file(&vmlinux).with_context(|| format!("removing {}", vmlinux.display()))?;
            }
        }
    }
    // Last: it is what tells that both are done.
    write(&vmlinuz, &image)
}

/// Whether the modules in an initramfs keep their signatures. Checking one costs 15 million guest instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signatures {
    /// For UEFI Secure Boot, where the kernel insists on them.
    Kept,
    /// For everything else.
    Cut,
}

impl Signatures {
    /// The initramfs in the bootstrap directory with such modules.
    pub fn initrd(self) -> &'static str {
        match self {
            Signatures::Kept => "initrd.signed",
            Signatures::Cut => "initrd",
        }
    }
}

/// The folders of modules that have an initramfs of their own, `initrd.FOLDER`, for they are large: vch appends it where it is
/// wanted.
const APART: [&str; 1] = ["nfs"];

/// The initramfs, from tether and the modules that `iso/modules` and the files `iso/modules.FOLDER` name. Where signatures are kept,
/// which is for a CD, all are in it.
pub fn initrd(workspace: &Workspace, tree: &KernelTree, signatures: Signatures) -> Result<()> {
    let tether = workspace.target.join(MUSL).join("release/tether");
    let initrd = workspace.bootstrap().join(signatures.initrd());
    let lists = module_lists(workspace)?;
    let files: Vec<_> = lists.values().map(PathBuf::as_path).collect();
    if !is_stale(&initrd, &[&[&*tether, tree.vmlinuz()], &files[..]].concat())? {
        return Ok(());
    }
    let (mut modules, mut apart) = (Modules::default(), BTreeMap::new());
    for (folder, list) in &lists {
        let list = fs::read_to_string(list).with_context(|| format!("reading {}", list.display()))?;
        let mut named = tree.modules(&module_names(&list))?;
        if signatures == Signatures::Cut {
            named.iter_mut().for_each(kernel_image::Module::strip_signature);
        }
        // The first list is the one without a folder.
        if folder.is_empty() {
            modules.always = named;
        } else {
            named.retain(|module| !modules.always.contains(module));
            let is_apart = signatures == Signatures::Cut && APART.contains(&folder.as_str());
            let of = if is_apart { &mut apart } else { &mut modules.wanted };
            of.insert(folder.clone(), named);
        }
    }
    for (folder, named) in apart {
        let more = Modules { always: vec![], wanted: [(folder.clone(), named)].into() };
        write(&bootstrap_more(workspace, &folder), &initramfs::more(&more)?)?;
    }
    let tether = fs::read(&tether).with_context(|| format!("reading {}", tether.display()))?;
    write(&initrd, &initramfs::tether(&tether, &modules)?)
}

fn bootstrap_more(workspace: &Workspace, folder: &str) -> PathBuf {
    workspace.bootstrap().join(format!("{}.{folder}", Signatures::Cut.initrd()))
}

/// The initramfs of a CD, which nobody appends to.
pub fn whole_initrd(workspace: &Workspace, signatures: Signatures) -> Result<PathBuf> {
    let initrd = workspace.bootstrap().join(signatures.initrd());
    if signatures == Signatures::Kept {
        return Ok(initrd);
    }
    let whole = workspace.bootstrap().join("initrd.iso");
    let parts: Vec<_> =
        [initrd].into_iter().chain(APART.map(|folder| bootstrap_more(workspace, folder))).collect();
    if is_stale(&whole, &parts.iter().map(PathBuf::as_path).collect::<Vec<_>>())? {
        let read = |path: &PathBuf| fs::read(path).with_context(|| format!("reading {}", path.display()));
        write(&whole, &parts.iter().map(read).collect::<Result<Vec<_>>>()?.concat())?;
    }
    Ok(whole)
}

/// The lists of modules, by their folders in the initramfs; that of `iso/modules` is the empty one.
fn module_lists(workspace: &Workspace) -> Result<BTreeMap<String, PathBuf>> {
    let dir = workspace.root.join("iso");
    let entries = fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut lists = BTreeMap::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let folder = name.strip_prefix("modules").map(|rest| (rest, rest.strip_prefix('.')));
        match folder {
            Some(("", _)) => drop(lists.insert(String::new(), entry.path())),
            Some((_, Some(folder))) => drop(lists.insert(folder.to_owned(), entry.path())),
            _ => {}
        }
    }
    Ok(lists)
}

/// The names in a list with `#` comments.
fn module_names(list: &str) -> Vec<&str> {
    let names = list.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    names.filter(|name| !name.is_empty()).collect()
}

fn default_image(workspace: &Workspace) -> Result<()> {
    let image = workspace.image();
    if !is_stale(&image.join("index.json"), &[Path::new(BUSYBOX)])? {
        return Ok(());
    }
    if image.exists() {
        fs::remove_dir_all(&image).with_context(|| format!("removing {}", image.display()))?;
    }
    testimage::busybox_image(&image, Path::new(BUSYBOX)).context("making the default image")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_list_has_comments() {
        let list = "# all\nvirtio_blk   # disks\n\n  erofs\n#overlay\n";
        assert_eq!(module_names(list), ["virtio_blk", "erofs"]);
    }
}

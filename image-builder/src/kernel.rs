//! Reading a kernel package: which modules a machine needs and in which order, and the kernel itself.
//!
//! Promises: a package is only read, never installed or run; files that are cut short or made to harm end in an
//! error, not in a panic or an endless allocation.

mod module;
mod vmlinux;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

pub use module::Module;
pub use vmlinux::vmlinux;

/// An unpacked kernel package: `boot/vmlinuz-RELEASE` and `lib/modules/RELEASE` below one directory, as in
/// Debian's `linux-image-*`.
#[derive(Debug)]
pub struct KernelTree {
    release: String,
    vmlinuz: PathBuf,
    /// Module files by their name with underscores.
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl KernelTree {
    /// Looks through `dir`; fails unless it holds exactly one kernel and its modules.
    pub fn open(dir: &Path) -> Result<Self> {
        let (release, vmlinuz) = the_kernel(&dir.join("boot"))?;
        let lib = dir.join("lib/modules").join(&release);
        let builtin = lib.join("modules.builtin");
        let builtin =
            fs::read_to_string(&builtin).with_context(|| format!("reading {}", builtin.display()))?;
        let builtin = builtin.lines().filter_map(|line| module_name(Path::new(line))).collect();
        let mut files = BTreeMap::new();
        find_modules(&lib, &mut files)?;
        Ok(Self { release, vmlinuz, files, builtin })
    }

    /// The kernel's release, as `uname -r` says it: `6.1.0-56-cloud-amd64`.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The kernel image (on x86 a bzImage).
    pub fn vmlinuz(&self) -> &Path {
        &self.vmlinuz
    }

    /// The modules `names` and all that they depend on, each once, in an order in which they can be loaded.
    ///
    /// `-` and `_` in a name are the same, as for modprobe. What is built into the kernel needs no loading
    /// and is left out. Dependencies are the `depends=` of each module's `.modinfo`: the package has no
    /// modules.dep, depmod makes that when it is installed. A `softdep=` is only a wish and is not followed;
    /// list such a module yourself.
    pub fn modules(&self, names: &[impl AsRef<str>]) -> Result<Vec<Module>> {
        let mut loaded = Vec::new();
        for name in names {
            self.load(name.as_ref(), &mut BTreeSet::new(), &mut loaded)?;
        }
        Ok(loaded)
    }

    /// Appends `name` to `loaded`, its dependencies first. `waiting` holds the modules that asked for it.
    fn load(&self, name: &str, waiting: &mut BTreeSet<String>, loaded: &mut Vec<Module>) -> Result<()> {
        let name = name.replace('-', "_");
        if self.builtin.contains(&name) || loaded.iter().any(|module| module.name == name) {
            return Ok(());
        }
        ensure!(waiting.insert(name.clone()), "module {name} depends on itself");
        let Some(file) = self.files.get(&name) else {
            bail!("kernel {} has no module {name}, neither as a file nor built in", self.release);
        };
        let module = Module::read(&name, file)?;
        let depends = module.depends().with_context(|| format!("reading module {}", file.display()))?;
        for needed in depends {
            self.load(&needed, waiting, loaded).with_context(|| format!("module {name} needs {needed}"))?;
        }
        loaded.push(module);
        Ok(())
    }
}

/// The one `vmlinuz-RELEASE` in `boot`.
fn the_kernel(boot: &Path) -> Result<(String, PathBuf)> {
    let mut kernels = Vec::new();
    for entry in read_dir(boot)? {
        let path = entry.with_context(|| format!("reading {}", boot.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            kernels.push((release.to_owned(), path));
        }
    }
    let found = kernels.len();
    match kernels.pop() {
        Some(kernel) if found == 1 => Ok(kernel),
        _ => bail!("{} holds {found} files vmlinuz-*, not one", boot.display()),
    }
}

fn find_modules(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in read_dir(dir)? {
        let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
        let path = entry.path();
        // The type of the entry itself: a link (Debian's `build`, `source`) is not followed out of the tree.
        if entry.file_type().with_context(|| format!("looking at {}", path.display()))?.is_dir() {
            find_modules(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

fn read_dir(dir: &Path) -> Result<fs::ReadDir> {
    fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))
}

/// `kernel/drivers/virtio/virtio-rng.ko` (or `.ko.xz`) is the module `virtio_rng`; other files are none.
fn module_name(path: &Path) -> Option<String> {
    let (name, after) = path.file_name()?.to_str()?.split_once(".ko")?;
    (after.is_empty() || after.starts_with('.')).then(|| name.replace('-', "_"))
}

#[cfg(test)]
mod tests;

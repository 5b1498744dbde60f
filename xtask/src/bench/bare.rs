//! The same machine as vch's, with another init.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image_builder::initramfs::Initramfs;
use image_builder::kernel::Module;
use vch::RunOptions;
use vch::options::{Kernel, Machine};
use vch::vm::{Vm, Wires};

use crate::tools::MUSL;
use crate::workspace::{Workspace, write};

/// What it boots.
pub struct Bare {
    name: &'static str,
    /// The kernel.
    pub kernel: PathBuf,
    /// `None`: the one that vch takes.
    machine: Option<Machine>,
    initrd: PathBuf,
    folder: PathBuf,
}

/// Such a machine, running. Dropping it kills it.
pub struct Running {
    vm: Vm,
    /// The lines to it.
    pub wires: Wires,
    /// Held as long as the VM lives.
    _network: vch::network::Host,
}

impl Bare {
    /// Makes an initramfs of the program `name` of package tether, and of `modules` of `kernel`, which it is to load.
    pub fn prepare(
        workspace: &Workspace,
        name: &'static str,
        kernel: PathBuf,
        machine: Option<Machine>,
        modules: &[Module],
    ) -> Result<Self> {
        let init = program(workspace, name);
        let init = fs::read(&init).with_context(|| format!("reading {}", init.display()))?;
        let mut initramfs = archive(&init);
        for (number, module) in (1..).zip(modules) {
            initramfs.file(&format!("modules/{number:02}-{}.ko", module.name), 0o644, &module.bytes);
        }
        Self::of(workspace, name, kernel, machine, &initramfs)
    }

    /// Of this initramfs.
    pub fn of(
        workspace: &Workspace,
        name: &'static str,
        kernel: PathBuf,
        machine: Option<Machine>,
        initramfs: &Initramfs,
    ) -> Result<Self> {
        let folder = workspace.target.join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let mut bytes = vec![];
        initramfs.finish(&mut bytes)?;
        let initrd = folder.join(name).with_extension("initrd");
        write(&initrd, &bytes)?;
        Ok(Self { name, kernel, machine, initrd, folder })
    }

    /// Starts it, with further arguments for QEMU.
    pub fn start(&self, qemu: &[String]) -> Result<Running> {
        let mut options = RunOptions::new("");
        options.kernel = Some(Kernel::File(self.kernel.clone()));
        options.initrd = Some(self.initrd.clone());
        options.machine = self.machine;
        options.qemu_arg = qemu.to_vec();
        let accel = vch::accel::choose(options.accel)?;
        let boot = vch::boot::Boot::find(&options)?;
        let scratch: File = tempfile::tempfile().context("making a temporary file")?;
        // The interface is a part of the machine that every kernel looks at.
        let network = vch::network::Host::open(&options.network, "", &[], &self.folder)?;
        let (vm, wires) =
            Vm::start(self.name, None, &options, accel, &boot, &scratch, &[], &[], &[], &network, None)?;
        Ok(Running { vm, wires, _network: network })
    }

    /// Runs it to its end, and gives what it has said on the console.
    pub fn run(&self, qemu: &[String]) -> Result<String> {
        let mut machine = self.start(qemu)?;
        machine.wait()?;
        let mut said = vec![];
        machine.wires.console.read_to_end(&mut said).context("reading the console")?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

impl Running {
    /// Waits for its end.
    pub fn wait(&mut self) -> Result<()> {
        match self.vm.wait()? {
            Some(trouble) => bail!("a VM of the bench: {trouble}"),
            None => Ok(()),
        }
    }
}

/// A program of package tether.
pub fn program(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.target.join(MUSL).join("release").join(name)
}

/// An initramfs with this init.
pub fn archive(init: &[u8]) -> Initramfs<'_> {
    let mut initramfs = Initramfs::new();
    for mount_point in ["dev", "proc", "sys"] {
        initramfs.dir(mount_point, 0o755);
    }
    initramfs.node("dev/console", 0o600, 5, 1);
    initramfs.node("dev/null", 0o666, 1, 3);
    initramfs.file("init", 0o755, init);
    initramfs
}

/// The kernel in `folder`, in the form that `vch` prefers; `None`: there is none.
pub fn kernel(folder: &Path) -> Option<PathBuf> {
    ["vmlinux", "vmlinuz"].map(|name| folder.join(name)).into_iter().find(|kernel| kernel.exists())
}

//! The same container on the same kernel and machine, started by others than tether: by a shell script that does what it must, and
//! by an init that does next to nothing, as libkrun's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use image_builder::initramfs::Initramfs;
use vch::options::Machine;

use super::bare::{self, Bare};
use crate::process::{command, run};
use crate::tools::BUSYBOX;
use crate::workspace::Workspace;

/// What tether does for a container by default, in busybox's words; without what the OCI config asks for.
const SCRIPT: &str = "#!/bin/sh
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
mount -t erofs -o ro /dev/vdb /layer; mount -t ext4 /dev/vdc /scratch; mkdir /scratch/upper /scratch/work
mount -t overlay -o lowerdir=/layer,upperdir=/scratch/upper,workdir=/scratch/work overlay /root
mount -t proc proc /root/proc; mount -t sysfs -o ro sys /root/sys; mount -t tmpfs -o mode=755 dev /root/dev
mkdir /root/dev/pts /root/dev/shm /root/dev/mqueue
mount -t devpts -o newinstance devpts /root/dev/pts; mount -t tmpfs shm /root/dev/shm
mount -t mqueue mqueue /root/dev/mqueue; mount -t cgroup2 cgroup /root/sys/fs/cgroup
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    IFS=:; set -- $node; mknod -m 666 /root/dev/$1 c $2 $3
done
IFS=' '
read uptime rest < /proc/uptime
chroot /root true
echo \"shell: $uptime $?\"; stty sane < /dev/console
umount /root/dev/pts /root/dev/shm /root/dev/mqueue /root/dev /root/sys/fs/cgroup /root/sys /root/proc /root /scratch /layer
poweroff -f
";

/// Another way to start the container.
pub struct Peer {
    /// What it is.
    pub title: &'static str,
    name: &'static str,
    bare: Bare,
}

/// What one run of it took.
pub struct Cost {
    /// From the kernel's first instruction to the start of the program, in nanoseconds of the guest's clock.
    pub at: u64,
    /// Of the whole run.
    pub wall: Duration,
}

/// Both, with the disks that they need.
pub struct Peers {
    pub all: [Peer; 2],
    layer: PathBuf,
    folder: PathBuf,
}

impl Peers {
    /// Makes what they boot on q35, where disks can be added, with a kernel without modules.
    ///
    /// # Errors
    /// Something is missing, or cannot be written.
    pub fn prepare(workspace: &Workspace, kernel: &Path) -> Result<Self> {
        let folder = workspace.target.join("bench");
        let store = folder.join("store");
        let mut vch = command(workspace.vch());
        run(vch.args(["run", "--rm", "--store"]).arg(&store).arg(workspace.image()).arg("true"))?;
        let layers = store.join("layers/sha256");
        let disks = fs::read_dir(&layers).with_context(|| format!("reading {}", layers.display()))?;
        let mut disks = disks.filter_map(|disk| Some(disk.ok()?.path()));
        let layer = disks.find(|disk| disk.extension().is_some_and(|extension| extension == "erofs"));

        let busybox = fs::read(BUSYBOX).with_context(|| format!("reading {BUSYBOX}"))?;
        let mut archive = Initramfs::new();
        for folder in ["dev", "proc", "sys", "layer", "scratch", "root"] {
            archive.dir(folder, 0o755);
        }
        for applet in ["sh", "mount", "umount", "mkdir", "mknod", "chroot", "poweroff", "stty"] {
            archive.symlink(&format!("bin/{applet}"), "busybox");
        }
        archive.file("bin/busybox", 0o755, &busybox).file("init", 0o755, SCRIPT.as_bytes());
        archive.node("dev/console", 0o600, 5, 1).node("dev/null", 0o666, 1, 3);
        let shell = Bare::of(workspace, "shell", kernel.into(), Some(Machine::Q35), &archive)?;

        let direct = fs::read(bare::program(workspace, "direct")).context("reading the program direct")?;
        let mut archive = bare::archive(&direct);
        archive.dir("root", 0o755);
        let direct = Bare::of(workspace, "direct", kernel.into(), Some(Machine::Q35), &archive)?;
        Ok(Self {
            all: [
                Peer { title: "busybox sh as init", name: "shell", bare: shell },
                Peer { title: "an init as libkrun's: no overlay", name: "direct", bare: direct },
            ],
            layer: layer.with_context(|| format!("there is no layer in {}", layers.display()))?,
            folder,
        })
    }

    /// Runs it once, with further arguments for QEMU.
    ///
    /// # Errors
    /// It does not come to its end.
    pub fn run(&self, peer: &Peer, qemu: &[String]) -> Result<Cost> {
        let scratch = self.folder.join("scratch");
        let start = Instant::now();
        File::create(&scratch).and_then(|file| file.set_len(1 << 30)).context("making a scratch disk")?;
        run(command("mke2fs").args(["-q", "-F", "-t", "ext4", "-O", "^has_journal"]).arg(&scratch))?;
        let mut arguments = qemu.to_vec();
        for (number, disk, read_only) in [(0, &self.layer, "on"), (1, &scratch, "off")] {
            let place = format!("virtio-blk-pci,addr=1c.{number},multifunction=on");
            let drive =
                format!("file={},id=peer{number},if=none,format=raw,read-only={read_only}", disk.display());
            arguments.extend([
                "-drive".into(),
                drive,
                "-device".into(),
                format!("{place},drive=peer{number}"),
            ]);
        }
        let said = peer.bare.run(&arguments)?;
        let wall = start.elapsed();
        let line = said.lines().find_map(|line| line.split_once(&format!("{}: ", peer.name)));
        let (_, line) = line.with_context(|| format!("{} says only {said:?}", peer.title))?;
        let (at, status) = line.trim().split_once(' ').context("there is no status")?;
        ensure!(status.ends_with('0'), "{}: {status}", peer.title);
        // Seconds of /proc/uptime, or nanoseconds.
        let at = match at.split_once('.') {
            Some((seconds, hundredths)) => {
                (seconds.parse::<u64>()? * 100 + hundredths.parse::<u64>()?) * 10_000_000
            }
            None => at.parse()?,
        };
        Ok(Cost { at, wall })
    }
}

//! The root filesystem: layer disks below, the scratch disk on top, overlayfs over both.

use crate::attributes;
use crate::disks::{Disk, Disks};
use crate::failure::{Context, Failure};
use crate::user_namespace::UserNamespace;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protocol::Stage;
use std::fs;
use std::path::Path;

/// Where the root filesystem is, in tether's own root.
pub const PATH: &str = "/root";

/// No thread shall fill in the inode tables of a disk that is thrown away soon, or read its bitmaps before they are needed.
const WITHOUT_THREAD: &str = "noinit_itable,no_prefetch_block_bitmaps";

/// Where the scratch disk is.
const SCRATCH: &str = "/scratch";

/// The root filesystem, mounted.
pub struct Root(());

impl Root {
    /// Mounts the disks and stacks them at [`PATH`]; their files are whose they are in the user namespace, if one is given.
    pub fn assemble(disks: &Disks, user: Option<&UserNamespace>) -> Result<Self, Failure> {
        for (number, layer) in disks.layers.iter().enumerate() {
            let target = format!("/layers/{number}");
            fs::create_dir(&target).at(Stage::Root, || format!("making {target}"))?;
            let name = format!("layer {}", number + 1);
            mount_disk(&name, layer, &target, MsFlags::MS_RDONLY, None)?;
        }
        mount_disk("the scratch disk", &disks.scratch, SCRATCH, MsFlags::empty(), Some(WITHOUT_THREAD))?;
        let layers = disks.layers.len();
        prepare_scratch(layers.saturating_sub(1))?;
        match user {
            Some(user) => {
                let mounted = (0..layers).map(|number| format!("/layers/{number}")).chain([SCRATCH.into()]);
                mounted.into_iter().try_for_each(|target: String| user.map_files(&target))?;
                user.as_root(|| mount_overlay(layers))?;
            }
            None => mount_overlay(layers)?,
        }
        Ok(Self(()))
    }

    /// Unmounts it, and the disk that it writes to. The layers stay: nothing waits to be written to them, and to forget all that was read
    /// of them would be the most of the work.
    pub fn disassemble(self) -> Result<(), Failure> {
        [PATH, SCRATCH].into_iter().try_for_each(|target| {
            umount2(target, MntFlags::UMOUNT_NOFOLLOW).at(Stage::Run, || format!("unmounting {target}"))
        })
    }
}

fn mount_disk(
    name: &str,
    disk: &Disk,
    target: &str,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), Failure> {
    let Disk { device, filesystem } = disk;
    mount(Some(device), target, Some(*filesystem), flags, data)
        .at(Stage::Root, || format!("mounting {name}, {} ({filesystem}) on {target}", device.display()))
}

/// The overlay's root folder shows the upper folder's attributes: take them from the top layer.
fn prepare_scratch(top_layer: usize) -> Result<(), Failure> {
    let exists = |path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    // A container that is started again goes on with what it has written.
    if exists("/scratch/upper") {
        return Ok(());
    }
    for folder in ["/scratch/work", "/scratch/new"] {
        if !exists(folder) {
            fs::create_dir(folder).at(Stage::Root, || format!("making {folder}"))?;
        }
    }
    let top = format!("/layers/{top_layer}");
    attributes::copy(Path::new(&top), Path::new("/scratch/new"))
        .at(Stage::Root, || "giving the root folder its layer's attributes")?;
    fs::rename("/scratch/new", "/scratch/upper").at(Stage::Root, || "making /scratch/upper")
}

/// mount(2) cuts options at one page without a word, so the paths are short: relative to `/layers`.
fn mount_overlay(layers: usize) -> Result<(), Failure> {
    let lower: Vec<String> = (0..layers).rev().map(|number| number.to_string()).collect();
    let options = format!("lowerdir={},upperdir=/scratch/upper,workdir=/scratch/work", lower.join(":"));
    if options.len() >= 4096 {
        return Err(Failure::new(Stage::Root, format!("{layers} layers are more than overlayfs takes")));
    }
    nix::unistd::chdir("/layers").at(Stage::Root, || "entering /layers")?;
    mount(Some("overlay"), PATH, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .at(Stage::Root, || format!("stacking {layers} layers"))?;
    nix::unistd::chdir("/").at(Stage::Root, || "entering /")
}

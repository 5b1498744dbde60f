//! Folders of the host's, by virtiofs.

use crate::failure::{Context, Failure};
use crate::uevents::{DEADLINE, Uevents};
use nix::errno::Errno;
use nix::mount::MsFlags;
use protocol::{Share, Stage::Root};
use std::fs;

/// The name of a file that is shared, in its folder.
const FILE: &str = "file";

/// Where share number `index` is mounted, in tether's own root.
pub fn place(index: usize) -> String {
    format!("/shares/{index}")
}

/// What of it the container sees.
pub fn shown(share: &Share, index: usize) -> String {
    if share.file { format!("{}/{FILE}", place(index)) } else { place(index) }
}

/// Mounts a share at `target`, as soon as its device is there.
pub fn mount(share: &Share, target: &str) -> Result<(), Failure> {
    let tag = share.tag.as_str();
    let what = || format!("mounting share {tag:?}");
    fs::create_dir(target).at(Root, what)?;
    let flags = if share.readonly { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let mounted = Uevents::open()?.wait_for(|| {
        match nix::mount::mount(Some(tag), target, Some("virtiofs"), flags, None::<&str>) {
            // The driver knows no such tag (yet).
            Err(Errno::EINVAL) => Ok(None),
            Err(Errno::ENODEV) => Err(Failure::new(Root, format!("{}: the kernel has no virtiofs", what()))),
            result => result.map(Some).at(Root, what),
        }
    })?;
    let late = || format!("{}: there is no such device within {} s", what(), DEADLINE.as_secs());
    mounted.ok_or_else(|| Failure::new(Root, late()))
}

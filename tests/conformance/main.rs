//! Layer disks against other implementations, entry by entry with every attribute: a corpus of layers with every corner of the
//! format, each checked by `fsck.erofs` and mounted by this machine's kernel, must be what GNU tar unpacks; and images of
//! several layers, stacked by overlayfs, what umoci unpacks.
//!
//! Needs root and what [`host`] says; what cannot run is counted as ignored, and says why.

mod corpus;
mod host;
mod listing;
mod stacks;

use std::path::Path;

use anyhow::{Context, Result};
use corpus::Layer;
use host::{Mounted, run};
use image_builder::testimage::{self, Tar};
use libtest_mimic::{Arguments, Failed, Trial};
use listing::{LINKS, Listing, MTIME, PATH};
use oci_spec::image::Config;
use stacks::Stack;

fn main() -> Result<()> {
    let arguments = Arguments::from_args();
    let needed = host::enter()
        .and_then(|()| host::has(&["fsck.erofs", "tar", "umoci", "mke2fs", "mkfs.xfs", "mount"]));
    let trials = match needed {
        Ok(()) => {
            let layers = corpus::layers()?.into_iter().map(against_tar);
            let stacks = stacks::stacks().into_iter().map(against_umoci);
            layers.chain(stacks).collect()
        }
        Err(why) => {
            eprintln!("SKIPPED conformance: {why:#}");
            vec![Trial::test("conformance", || Ok(())).with_ignored_flag(true)]
        }
    };
    libtest_mimic::run(&arguments, trials).exit()
}

fn against_tar(layer: Layer) -> Trial {
    Trial::test(format!("tar_x::{}", layer.name), move || failed(tar_x(&layer)))
}

fn against_umoci(stack: Stack) -> Trial {
    Trial::test(format!("umoci_unpack::{}", stack.name), move || failed(umoci_unpack(stack)))
}

fn failed(result: Result<()>) -> Result<(), Failed> {
    result.map_err(|error| Failed::from(format!("{error:#}")))
}

/// The layer's disk, mounted.
fn mounted(tar: &[u8]) -> Result<Mounted> {
    let mut disk = tempfile::NamedTempFile::new()?;
    image_builder::erofs::write_layer(tar, [7; 16], disk.as_file_mut())?;
    run("fsck.erofs", &[disk.path()]).context("the disk is not clean")?;
    Mounted::image(disk.path(), "erofs", "loop,ro")
}

fn tar_x(layer: &Layer) -> Result<()> {
    let ours = mounted(&layer.tar)?;
    let unpacked = if layer.name == "many_xattrs" { Mounted::xfs() } else { Mounted::ext4() }?;
    let theirs = unpacked.folder("tree")?;
    host::unpack(&layer.tar, &theirs)?;
    let implied = |line: &[String]| layer.implied.contains(&line[PATH].as_str());
    let ours = Listing::of(ours.path())?.without("trusted.overlay.").blank(MTIME, implied);
    ours.must_equal(&Listing::of(&theirs)?.blank(MTIME, implied), "ours", "tar")
}

fn umoci_unpack(stack: Stack) -> Result<()> {
    let layers: Vec<_> = stack.layers.into_iter().map(Tar::finish).collect();
    let ext4 = Mounted::ext4()?;
    let (image, bundle) = (ext4.path().join("image"), ext4.path().join("bundle"));
    testimage::write(&image, &layers, Config::default())?;
    let reference = format!("{}:latest", image.display());
    run("umoci", &["unpack".as_ref(), "--image".as_ref(), reference.as_ref(), bundle.as_os_str()])?;
    let disks = layers.iter().map(|tar| mounted(tar)).collect::<Result<Vec<_>>>()?;
    let overlay = Mounted::overlay(&disks.iter().collect::<Vec<_>>())?;
    let listing = |root: &Path| -> Result<_> {
        let listing = Listing::of(root)?.blank(MTIME, |line| stack.touched.contains(&line[PATH].as_str()));
        // Overlayfs gives every directory one link, and counts names of a file that a layer above hides.
        Ok(listing.blank(LINKS, |_| true))
    };
    listing(overlay.path())?.must_equal(&listing(&bundle.join("rootfs"))?, "ours", "umoci")
}

//! Layer disks against other implementations, entry by entry with every attribute: a corpus of layers with every corner of the
//! format, each checked by `fsck.erofs` and mounted by this machine's kernel, must be what GNU tar unpacks; and images of
//! several layers, stacked by overlayfs, what umoci unpacks.
//!
//! Needs root and what [`host`] says; what cannot run is counted as ignored, and says why.

mod corpus;
mod host;
mod listing;
mod stacks;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
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
            let numbers = Trial::test("large_numbers", || failed(large_numbers()));
            layers.chain(stacks).chain([numbers]).collect()
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

/// By what the kernel says: no other program unpacks this in seconds, and few filesystems count so far.
fn large_numbers() -> Result<()> {
    let scale = mounted(&corpus::scale())?;
    let meta = |path: &str| fs::symlink_metadata(scale.path().join(path)).with_context(|| path.to_owned());
    let links = ["file", "links/1", "links/65999", "dirs"].map(|path| meta(path).map(|meta| meta.nlink()));
    ensure!(matches!(links, [Ok(66_000), Ok(66_000), Ok(66_000), Ok(70_002)]), "{links:?}");
    ensure!(meta("links/65999")?.ino() == meta("file")?.ino());
    for (dir, count) in [("links", 65_999), ("dirs", 70_000), ("files", 100_000)] {
        let listed = fs::read_dir(scale.path().join(dir))?.count();
        ensure!(listed == count, "{listed} of {count} in {dir}");
    }
    for i in (0..100_000).step_by(997) {
        meta(&format!("files/{i}"))?;
        ensure!(meta(&format!("files/{i}x")).is_err());
    }
    let large = mounted(&corpus::large()?)?;
    let file = fs::File::open(large.path().join("large"))?;
    let mut end = [0xff; 4101];
    file.read_exact_at(&mut end, (9 << 30) - 4096)?;
    ensure!(file.metadata()?.len() == (9 << 30) + 5 && end == *[&[0; 4096][..], b"data\n"].concat());
    Ok(())
}

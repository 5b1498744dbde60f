//! The corpus of layers (`tests/conformance`) as the guest's kernel shows it, entry by entry with every attribute.

use std::fs;

use anyhow::{Result, ensure};
use image_builder::testimage::{self, Tar};
use oci_spec::image::Config;

use crate::harness::{Test, options, probe, run, temporary};
use crate::listing::{LINKS, Listing, MTIME, PATH};
use crate::{corpus, host};

pub fn tests() -> Vec<Test> {
    let needed = || {
        ensure!(nix::unistd::geteuid().is_root(), "only root can unpack owners and devices to compare with");
        host::has(&["tar", "mke2fs", "mount"])
    };
    vec![Test::new("corpus_in_a_vm::equals_tar_x", equals_tar_x).needs(needed())]
}

/// Each layer of the corpus above the others, against `tar -x` of one after the other.
fn equals_tar_x() -> Result<()> {
    host::enter()?;
    // What ext4 cannot hold.
    let layers: Vec<_> = corpus::layers()?.into_iter().filter(|layer| layer.name != "many_xattrs").collect();
    let ext4 = host::Mounted::ext4()?;
    let tree = ext4.folder("tree")?;
    layers.iter().try_for_each(|layer| host::unpack(&layer.tar, &tree))?;

    let base = Tar::new().file("probe", 0o755, &fs::read(probe())?).finish();
    let tars: Vec<_> = [base].into_iter().chain(layers.iter().map(|layer| layer.tar.clone())).collect();
    let image = temporary()?;
    testimage::write(image.path(), &tars, Config::default())?;
    let ran = run(&options(&image.path().display().to_string(), &["/probe", "tree", "/corpus"]))?;
    ensure!(ran.code() == 0, "{}", String::from_utf8_lossy(&ran.stderr));

    let implied: Vec<_> = layers
        .iter()
        .flat_map(|layer| layer.implied)
        .filter_map(|path| path.strip_prefix("corpus/"))
        .collect();
    let comparable = |listing: Listing| {
        // A container without CAP_SYS_ADMIN sees no `trusted.`; links that another layer hides are counted or not.
        let listing = listing.without("trusted.").blank(LINKS, |_| true);
        listing.blank(MTIME, |line| implied.contains(&line[PATH].as_str()))
    };
    let ours = comparable(Listing::parse(&ran.stdout)?);
    ours.must_equal(&comparable(Listing::of(&tree.join("corpus"))?), "the VM", "tar")
}

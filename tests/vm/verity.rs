//! `--verity`: layers that are read through their hash trees, whole and damaged.

use crate::harness::{Ran, Test, machine, run, temporary};
use crate::layers::image;
use crate::tests;
use anyhow::{Context, Result, ensure};
use image_builder::digest::Digest;
use image_builder::store::{LayerDisk, LayerStore};
use image_builder::testimage::Tar;
use image_builder::{source, verity};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use tempfile::TempDir;
use vch::RunOptions;

pub fn tests() -> Vec<Test> {
    tests![whole, damaged_file, damaged_metadata_and_trees, damaged_superblocks, refused_by_the_guest_alone,]
}

/// An image of two layers in a store of its own, whose disks a test may damage.
struct Fixture {
    _dir: TempDir,
    options: RunOptions,
    layers: Vec<LayerDisk>,
}

fn data() -> Vec<u8> {
    let mut data = vec![b'x'; 600 * 4096];
    data[..4].copy_from_slice(b"DATA");
    data
}

/// Runs `script` above a layer that has the file `/data`.
fn fixture(script: &str) -> Result<Fixture> {
    let dir = temporary()?;
    let layer = Tar::new().file("data", 0o644, &data());
    let mut options = image(&dir.path().join("image"), vec![layer], script)?;
    options.verity = true;
    options.store = Some(dir.path().join("store"));
    let store = LayerStore::open(dir.path().join("store"))?;
    let image = source::open(&options.image, &source::Options::default())?;
    let layers = image.layers.iter().map(|layer| store.layer_disk(layer, &mut |_, _| {}));
    let layers = layers.collect::<Result<_>>()?;
    Ok(Fixture { _dir: dir, options, layers })
}

impl Fixture {
    /// Flips a bit at `offset` of block `block` of layer `layer`.
    fn flip(&self, layer: usize, block: u64, offset: u64) -> Result<()> {
        let path = &self.layers[layer].path;
        let mut permissions = fs::metadata(path)?.permissions();
        #[expect(clippy::permissions_set_readonly_false, reason = "a file of the test's own")]
        permissions.set_readonly(false);
        fs::set_permissions(path, permissions)?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, block * verity::BLOCK + offset)?;
        Ok(file.write_all_at(&[byte[0] ^ 4], block * verity::BLOCK + offset)?)
    }

    /// The warning that must be the run's whole stderr.
    fn warning(&self, layer: usize, what: &str) -> String {
        let LayerDisk { diff_id, path, .. } = &self.layers[layer];
        format!(
            "vch: warning: layer {} of 2 ({diff_id}), {}: {what}; without the file, the next run makes it anew\n",
            layer + 1,
            path.display()
        )
    }
}

/// Without what the guest's console said last, which is shown when a start fails for the guest's sake.
fn stderr(ran: &Ran) -> String {
    let said = String::from_utf8_lossy(&ran.stderr);
    said.split_inclusive('\n').filter(|line| !line.starts_with("[guest] ")).collect()
}

fn whole() -> Result<()> {
    let it = fixture("cat /sys/block/dm-1/dm/name; sha256sum /data")?;
    run(&it.options)?.gives(&format!("layer-1\n{}  /data\n", Digest::of(&data()).hex()))
}

/// The read fails, the container goes on, and the user is told once, however often it is read.
fn damaged_file() -> Result<()> {
    let it = fixture(
        "head -c 4 /data; cat /data > /dev/null && echo read; cat /data > /dev/null; tail -c 4096 /data | wc -c",
    )?;
    // The file's data begin in block 1: these are bytes of its 301st block.
    it.flip(1, 301, 1234)?;
    let ran = run(&it.options)?;
    ensure!(ran.out() == "DATA4096\n" && ran.code() == 0, "{ran:?}");
    let said = stderr(&ran);
    let warning = it.warning(1, "block 301 is damaged");
    ensure!(said.matches(&warning).count() == 1 && said.matches("warning").count() == 1, "{said}");
    ensure!(said.matches("read error: Input/output error").count() == 2, "{said}");
    Ok(())
}

/// What is needed for the mount is damaged: there is no start, and the layer is named.
fn damaged_metadata_and_trees() -> Result<()> {
    let geometry = fixture("true")?.layers[1].verity.geometry.clone();
    let (metadata, top) = (geometry.data_blocks() - 1, geometry.hash_start());
    let leaves = format!("block {}, of the hash tree, is damaged", top + 1);
    for (block, what) in [
        (metadata, format!("block {metadata} is damaged")),
        (top + 1, leaves.clone()),
        // vch takes the root hash from the disk, so it is what stands below that does not fit.
        (top, leaves),
    ] {
        let it = fixture("true")?;
        it.flip(1, block, 17)?;
        let ran = run(&it.options)?;
        ensure!(stderr(&ran) == it.warning(1, &what), "{ran:?}");
        refused(ran)?;
    }
    Ok(())
}

/// What the store itself looks at is made anew without a word.
fn damaged_superblocks() -> Result<()> {
    let it = fixture("cat /data | wc -c")?;
    it.flip(1, 0, 3000)?;
    it.flip(0, it.layers[0].verity.geometry.data_blocks(), 100)?;
    run(&it.options)?.gives("2457600\n")
}

/// The guest does not trust the store: it has the root hash from the spec.
fn refused_by_the_guest_alone() -> Result<()> {
    let it = fixture("true")?;
    let disks = [0, 1].map(|n| {
        let LayerDisk { path, uuid, .. } = &it.layers[n];
        (path.as_path(), protocol::Uuid::from_bytes(*uuid))
    });
    let ran = machine(&it.options, &disks, |spec| {
        let verity = spec.disks.layers[0].verity.as_mut().expect("asked for");
        verity.root_hash = protocol::RootHash::try_from("0a".repeat(32)).expect("64 digits");
    })?;
    ensure!(
        stderr(&ran).contains(": its hash tree does not have the root hash that is expected; "),
        "{ran:?}"
    );
    ensure!(stderr(&ran).contains(&it.layers[0].diff_id.hex()), "{ran:?}");
    ensure!(refused(ran)?.contains("layer 1, "), "another layer's name");
    it.flip(1, 0, 3000)?;
    let ran = machine(&it.options, &disks, |_| {})?;
    ensure!(stderr(&ran).contains(": block 0 is damaged; "), "{ran:?}");
    refused(ran).map(drop)
}

fn refused(ran: Ran) -> Result<String> {
    ensure!(ran.code() == 125, "{ran:?}");
    let sentence = ran.outcome.sentence().context("it ran")?;
    ensure!(
        sentence.contains("assembling the root filesystem: ") && sentence.contains("layer "),
        "{sentence}"
    );
    Ok(sentence)
}

//! An image's layers as disks: built where the store lacks them, and opened.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use image_builder::image::Layer;
use image_builder::store::{LayerDisk, LayerFs, LayerStore};
use image_builder::verity;
use nix::sys::signal::Signal;
use protocol::{RootHash, Uuid, Verity};

use crate::progress::Progress;
use crate::stdio::Stdio;

/// How often signals are looked for while a layer is being built.
const TICK: Duration = Duration::from_millis(50);

/// A layer disk, open for reading.
#[derive(Debug)]
pub struct OpenLayer {
    /// What the guest finds it by.
    pub uuid: Uuid,
    /// The disk.
    pub file: File,
    /// What it is for people: the layer's place and diffID, the disk's path.
    pub name: String,
    /// Its hash tree, if it has one.
    pub verity: Option<verity::Info>,
}

impl OpenLayer {
    /// What the guest is told of it: with its hash tree if the guest is to check it.
    ///
    /// # Errors
    /// It has no hash tree.
    pub fn spec(&self, check: bool) -> Result<protocol::Layer> {
        let verity = check.then(|| {
            let tree = self.verity.as_ref().with_context(|| format!("{} has no hash tree", self.name))?;
            let root_hash = RootHash::try_from(tree.root_hash.hex()).map_err(Error::msg)?;
            anyhow::Ok(Verity {
                num_data_blocks: tree.geometry.data_blocks(),
                hash_start_block: tree.geometry.hash_start(),
                root_hash,
            })
        });
        Ok(protocol::Layer { uuid: self.uuid, verity: verity.transpose()? })
    }

    /// The words for a block of it that the guest has found damaged.
    pub fn damage(&self, block: u64) -> String {
        let what = self.verity.as_ref().map(|tree| tree.geometry.damage(block).to_string());
        format!("{}: {}", self.name, what.unwrap_or_else(|| format!("block {block} is damaged")))
    }
}

/// What came of preparing the layers.
#[derive(Debug)]
pub enum Prepared {
    /// The disks, lowest first, each once.
    Layers(Vec<OpenLayer>),
    /// A signal came first.
    Killed(Signal),
}

/// Makes the disks of `layers`, with `fs` on them, in the store `dir` and opens them.
///
/// A build is work for a thread of its own, so that a signal ends the wait at once. The thread is then left to
/// itself: what it writes has no name until it is whole.
///
/// # Errors
/// The store's, with the layer's name.
pub fn prepare(dir: &Path, layers: &[Layer], fs: LayerFs, stdio: &Stdio) -> Result<Prepared> {
    let store = LayerStore::open(dir)?;
    let layers = topmost(layers);
    let (done, progress) = channel();
    let worker = thread::spawn(move || -> Result<Vec<OpenLayer>> {
        layers
            .iter()
            .enumerate()
            .map(|(i, layer)| {
                // Nobody listens after a signal; that is no reason to fail.
                let mut report = |bytes, all| {
                    let _ = done.send((i + 1, layers.len(), bytes, all));
                };
                let disk = store.layer_disk_as(&store.hold(layer, &mut report)?, fs)?;
                open(&disk, &format!("layer {} of {}", i + 1, layers.len()))
            })
            .collect()
    });
    let mut shown = Progress::new(Instant::now());
    loop {
        match progress.recv_timeout(TICK) {
            Ok((layer, layers, bytes, all)) => shown.building(stdio, layer, layers, bytes, all),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(signal) = stdio.signal()? {
            shown.clear(stdio);
            return Ok(Prepared::Killed(signal));
        }
    }
    shown.clear(stdio);
    worker.join().map_err(|_| anyhow!("the thread that builds layer disks panicked"))?.map(Prepared::Layers)
}

fn open(disk: &LayerDisk, place: &str) -> Result<OpenLayer> {
    let file =
        File::open(&disk.path).with_context(|| format!("cannot open layer disk {}", disk.path.display()))?;
    Ok(OpenLayer {
        uuid: Uuid::from_bytes(disk.uuid),
        file,
        name: format!("{place} ({}), {}", disk.diff_id, disk.path.display()),
        verity: Some(disk.verity.clone()),
    })
}

/// Each layer once. Where one stands several times (empty layers do), only its topmost place counts: overlayfs refuses
/// the same lower directory twice, and what is below is hidden by it anyway.
fn topmost(layers: &[Layer]) -> Vec<Layer> {
    let mut seen = HashSet::new();
    let mut kept: Vec<_> = layers.iter().rev().filter(|layer| seen.insert(layer.diff_id)).cloned().collect();
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_builder::digest::Digest;
    use image_builder::source::BlobFile;
    use std::sync::Arc;

    #[test]
    fn the_topmost_place_counts() {
        let layer = |name: &str| Layer {
            diff_id: Digest::of(name.as_bytes()),
            digest: None,
            size: None,
            blob: Arc::new(BlobFile(name.into())),
        };
        let kept = topmost(&["a", "empty", "b", "empty", "c", "a"].map(layer));
        let names: Vec<_> = kept.iter().map(|layer| layer.diff_id).collect();
        assert_eq!(names, ["b", "empty", "c", "a"].map(|name| Digest::of(name.as_bytes())));
    }
}

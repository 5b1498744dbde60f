//! Brings an image into a store and says which disks a virtual machine of it needs: `cargo run --example pull -- IMAGE DIR`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use image_builder::disk::Disk;
use image_builder::source::{self, Options};
use image_builder::store::{Event, ImageStore};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (image, dir) = arguments.next().zip(arguments.next()).context("usage: pull IMAGE DIR")?;

    // Where the image is: a registry, an archive, a layout. Only manifest and config have been read when this returns.
    let image = source::open(&image, &Options::default())?;
    let store = ImageStore::open(Path::new(&dir))?;
    let (stored, layers) = store.pull(&image, None, &mut |event| {
        if let Event::Done { layer, held } = event {
            println!("layer {layer}: {}", held.disk.path.display());
        }
    })?;
    println!("image {}", stored.id);

    // One disk for each layer, checked by its hash tree ...
    for layer in &layers {
        println!("verity root hash of {}: {}", layer.disk.diff_id, layer.disk.verity.root_hash);
    }
    // ... or one for all of them: give QEMU the descriptor as a vmdk, or lay the extents end to end.
    let chain = store.layers().chain_disk(&layers)?;
    println!("one disk of {} parts, {} bytes", chain.extents.0.len(), chain.extents.length());

    // No mount is needed to look into it.
    let disk = Disk::new(Arc::new(chain.extents))?;
    for entry in disk.entries(&disk.root()?)? {
        println!("/{}", entry.name.escape_ascii());
    }
    Ok(())
}

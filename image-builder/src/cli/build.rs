//! `build IMAGE`: the layer disks of an image, without a record of it.

use anyhow::{Context, Result};
use image_builder::image::Platform;
use image_builder::source;
use image_builder::store::LayerStore;
use serde_json::json;

use super::Common;
use super::progress::Progress;

#[derive(clap::Args)]
pub struct Args {
    /// OCI image layout folder: PATH, PATH:TAG or PATH@sha256:...
    image: String,
}

impl Args {
    pub fn run(&self, common: &Common) -> Result<()> {
        let image = source::open(&self.image, &Platform::default())?;
        let store = LayerStore::open(common.store_dir()?)?;
        for (i, layer) in image.layers.iter().enumerate() {
            let mut progress = Progress::new(format!("layer {} of {}", i + 1, image.layers.len()));
            let disk = store
                .layer_disk(layer, &mut |done, total| progress.show(done, total))
                .with_context(|| format!("image {:?}", self.image))?;
            let (diff_id, path, size) = (disk.diff_id.to_string(), disk.path.display(), disk.length);
            let value = json!({ "diffID": diff_id, "path": path.to_string(), "size": size });
            common.print(&format!("{diff_id} {path} {size}"), &value)?;
        }
        Ok(())
    }
}

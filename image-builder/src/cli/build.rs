//! `build IMAGE`: the layer disks of an image, without a record of it.

use anyhow::{Context, Result};
use image_builder::store::{LayerFs, LayerStore};
use serde_json::json;

use super::Common;
use super::progress::Progress;
use super::source::Source;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Filesystem of the layer disks: erofs, or ext4 for guests without EROFS
    #[arg(long, value_name = "FILESYSTEM", default_value = "erofs")]
    fs: LayerFs,
}

impl Args {
    pub fn run(&self, common: &Common) -> Result<()> {
        let image = self.source.open(common)?;
        let store = LayerStore::open(common.store_dir()?)?;
        for (i, layer) in image.layers.iter().enumerate() {
            let mut progress = Progress::new(format!("layer {} of {}", i + 1, image.layers.len()));
            let disk = store
                .layer_disk(layer, &mut |done, total| progress.show(done, total))
                .and_then(|disk| store.layer_disk_as(disk, self.fs))
                .with_context(|| format!("image {:?}", self.source.image))?;
            let (diff_id, path, size) = (disk.diff_id.to_string(), disk.path.display(), disk.length);
            let value = json!({ "diffID": diff_id, "path": path.to_string(), "size": size });
            common.print(&format!("{diff_id} {path} {size}"), &value)?;
        }
        Ok(())
    }
}

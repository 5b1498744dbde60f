//! `build IMAGE`: the layer disks of an image. It is kept in the store like a pulled one.

use anyhow::{Context, Result};
use image_builder::store::LayerFs;
use serde_json::json;

use super::Common;
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
        let (image, name) = self.source.open(common)?;
        let store = self.source.how.store(common)?;
        let (_, held) = self.source.how.pull(common, &image, name.as_ref(), &self.source.image)?;
        for layer in &image.layers {
            let held = held.iter().find(|held| held.disk.diff_id == layer.diff_id);
            let held = held.context("a layer has no disk")?;
            let disk = store.layers().layer_disk_as(held, self.fs)?;
            let (path, size) = (disk.path.display(), disk.length);
            let text = format!("{} {path} {size}", disk.diff_id);
            let value = json!({
                "diffID": disk.diff_id, "path": path.to_string(), "size": size, "rootHash": disk.verity.root_hash,
            });
            common.print(&text, &value)?;
        }
        Ok(())
    }
}

//! `pull NAME`: an image from a registry into the store.

use anyhow::Result;
use serde_json::json;

use super::Common;
use super::source::Source;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
}

impl Args {
    pub fn run(&self, common: &Common) -> Result<()> {
        let (image, name) = self.source.open(common)?;
        let (stored, _held) = self.source.how.pull(common, &image, name.as_ref(), &self.source.image)?;
        let name = name.map(|name| name.to_string());
        let digest = image.registry_digest.or(image.manifest_digest);
        let value = json!({ "name": name, "id": stored.id, "digest": digest });
        common.print(name.as_ref().unwrap_or(&stored.id.to_string()), &value)
    }
}

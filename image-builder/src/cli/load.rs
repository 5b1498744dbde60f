//! `load [-i FILE]`: all images of an archive or a layout into the store, with the names that they have there.

use anyhow::Result;
use image_builder::source;
use serde_json::json;

use super::Common;
use super::source::How;

#[derive(clap::Args)]
pub struct Args {
    /// An archive of docker save or an OCI one (also gzip or zstd), or an OCI layout folder: PATH[:NAME][@DIGEST]; stdin by default
    #[arg(short, long, value_name = "PATH", default_value = "-", allow_hyphen_values = true)]
    input: String,
    #[command(flatten)]
    how: How,
}

impl Args {
    pub fn run(&self, common: &Common) -> Result<()> {
        for (names, image) in source::open_all(&self.input, &self.how.options(common)?)? {
            let (stored, _held) = self.how.pull(common, &image, names.first(), &self.input)?;
            for name in names.iter().skip(1) {
                self.how.store(common)?.tag(&stored.id, name)?;
            }
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            let text = if names.is_empty() { stored.id.to_string() } else { names.join("\n") };
            common
                .print(&text, &json!({ "names": names, "id": stored.id, "digest": image.manifest_digest }))?;
        }
        Ok(())
    }
}

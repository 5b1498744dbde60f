//! `inspect IMAGE`: an image's config.

use anyhow::Result;
use image_builder::image::Platform;
use image_builder::source;

use super::Common;

#[derive(clap::Args)]
pub struct Args {
    /// OCI image layout folder: PATH, PATH:TAG or PATH@sha256:...
    image: String,
}

impl Args {
    pub fn run(&self, _common: &Common) -> Result<()> {
        let image = source::open(&self.image, &Platform::default())?;
        super::print(&image.config.to_string_pretty()?)
    }
}

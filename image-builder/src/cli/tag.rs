//! `tag IMAGE NAME`: a further name for an image.

use anyhow::{Context, Result};
use image_builder::source::Name;

use super::Common;

#[derive(clap::Args)]
pub struct Args {
    /// Name or ID
    image: String,
    /// The new name, taken from any other image that has it
    name: Name,
}

impl Args {
    pub fn run(&self, common: &Common) -> Result<()> {
        let store = common.store()?;
        let image = store.find(&self.image)?;
        let image = image.with_context(|| format!("there is no image {:?}", self.image))?;
        store.tag(&image.id, &self.name)
    }
}

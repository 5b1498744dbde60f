//! `inspect IMAGE`: an image's config.

use anyhow::Result;

use super::Common;
use super::source::Source;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
}

impl Args {
    pub fn run(&self, common: &Common) -> Result<()> {
        let image = self.source.open(common)?;
        super::print(&image.config.to_string_pretty()?)
    }
}

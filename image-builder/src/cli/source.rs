//! Which image, and how it is opened: what the commands that read images from elsewhere have in common.

use anyhow::Result;
use image_builder::image::{Image, Platform};
use image_builder::source::{self, Options};

use super::Common;

#[derive(clap::Args)]
pub struct Source {
    /// A registry's image by its name; an OCI layout folder or an archive (OCI, docker save; also gzip or zstd) as PATH[:NAME][@DIGEST]; `-` is an archive on stdin
    pub image: String,
    /// The platform to choose where there are several, as in linux/arm64/v8
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", default_value_t)]
    platform: Platform,
    /// Of the registry, take plain http where it has no https, and do not check its certificate (always so on loopback addresses)
    #[arg(long)]
    insecure: bool,
}

impl Source {
    /// Opens the image.
    pub fn open(&self, common: &Common) -> Result<Image> {
        let options = Options {
            platform: self.platform.clone(),
            spool: Some(common.store_dir()?),
            insecure: self.insecure,
            ..Options::default()
        };
        source::open(&self.image, &options)
    }
}

//! Which image, how it is opened, and how its layers come into the store: what the commands that read images from elsewhere have in
//! common.

use anyhow::{Context, Result};
use image_builder::erofs::WriteOptions;
use image_builder::image::{Image, Platform};
use image_builder::size;
use image_builder::source::{self, Name, Options, Reference};
use image_builder::store::{HeldLayer, ImageStore, StoredImage, topmost};

use super::Common;
use super::progress::Progress;

#[derive(clap::Args)]
pub struct Source {
    /// A registry's image by its name; an OCI layout folder or an archive (OCI, docker save; also gzip or zstd) as PATH[:NAME][@DIGEST]; `-` is an archive on stdin
    pub image: String,
    #[command(flatten)]
    pub how: How,
}

#[derive(clap::Args)]
pub struct How {
    /// The platform to choose where there are several, as in linux/arm64/v8
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", default_value_t)]
    platform: Platform,
    /// Of the registry, take plain http where it has no https, and do not check its certificate (always so on loopback addresses)
    #[arg(long)]
    insecure: bool,
    /// The most that a layer's disk, or an archive unpacked, may have; 64g by default
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_size: Option<u64>,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
}

impl Source {
    /// Opens the image; with it comes the name that it gets in the store.
    pub fn open(&self, common: &Common) -> Result<(Image, Option<Name>)> {
        let name = match Reference::parse(&self.image) {
            Ok(Reference::Name(name)) => Some(name),
            _ => None,
        };
        Ok((source::open(&self.image, &self.how.options(common)?)?, name))
    }
}

impl How {
    /// For [`source`].
    pub fn options(&self, common: &Common) -> Result<Options> {
        Ok(Options {
            platform: self.platform.clone(),
            spool: Some(common.store_dir()?),
            insecure: self.insecure,
            max_size: self.max_size.unwrap_or(Options::MAX_SIZE),
        })
    }

    /// The store, with the bound that was asked for.
    pub fn store(&self, common: &Common) -> Result<ImageStore> {
        let store = ImageStore::open(common.store_dir()?)?;
        Ok(store.with_max_size(self.max_size.unwrap_or(WriteOptions::MAX_SIZE)))
    }

    /// Brings `image`, which messages call `shown`, into the store.
    pub fn pull(
        &self,
        common: &Common,
        image: &Image,
        name: Option<&Name>,
        shown: &str,
    ) -> Result<(StoredImage, Vec<HeldLayer>)> {
        let layers = topmost(&image.layers, |layer| layer.diff_id);
        let mut progress = Progress::new(common.json, self.quiet, &layers);
        let pulled = self.store(common)?.pull(image, name, &mut |event| progress.event(event));
        progress.clear();
        pulled.with_context(|| format!("image {shown:?}"))
    }
}

//! `rm IMAGE...` and `prune`: names, images and layers leave the store.

use anyhow::{Context, Result};
use image_builder::store::Removed;
use serde_json::json;

use super::Common;
use super::human::bytes;

#[derive(clap::Args)]
pub struct Args {
    /// Names, IDs, or the first digits of IDs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// An image by ID even if it has names in several repositories
    #[arg(short, long)]
    force: bool,
}

impl Args {
    /// One that cannot be removed does not keep the others.
    pub fn run(&self, common: &Common) -> Result<()> {
        let store = common.store()?;
        let mut failed = Vec::new();
        for image in &self.images {
            match store.remove(image, self.force) {
                Ok(removed) => {
                    show(common, &removed)?;
                    failed.extend(kept(&removed).err().map(|error| format!("{error:#}")));
                }
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        super::all(&failed)
    }
}

#[derive(clap::Args)]
pub struct PruneArgs {
    /// All images that no containerVM runs, not only those without a name
    #[arg(short, long)]
    all: bool,
}

impl PruneArgs {
    pub fn run(&self, common: &Common) -> Result<()> {
        let removed = common.store()?.prune(self.all)?;
        show(common, &removed)?;
        if !common.json {
            super::print(&format!("Total reclaimed space: {}", bytes(removed.bytes)))?;
        }
        kept(&removed)
    }
}

/// Why layers were not removed that nobody may need.
fn kept(removed: &Removed) -> Result<()> {
    super::damaged(&removed.damaged)
        .context("all layers are kept, for an image that is not known may need them")
}

/// In docker's words.
fn show(common: &Common, removed: &Removed) -> Result<()> {
    if common.json {
        let names: Vec<_> = removed.names.iter().map(|name| name.familiar()).collect();
        let value = json!({
            "untagged": names, "images": removed.images, "layers": removed.layers,
            "inUse": removed.held, "bytes": removed.bytes,
        });
        return super::print(&value.to_string());
    }
    for name in &removed.names {
        super::print(&format!("Untagged: {}", name.familiar()))?;
    }
    for id in removed.images.iter().chain(&removed.layers) {
        super::print(&format!("Deleted: {id}"))?;
    }
    for id in &removed.held {
        super::say(&format!("layer {id} is in use: `image-builder prune` removes it later"));
    }
    Ok(())
}

//! `verify [IMAGE...]`: every byte of the layers in the store.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use image_builder::digest::Digest;
use image_builder::store::{DamagedRecord, ImageStore, StoredImage};
use serde_json::json;

use super::Common;

#[derive(clap::Args)]
pub struct Args {
    /// Names or IDs [default: all images, and layers of none]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove damaged layers and records, so that the next pull makes them anew
    #[arg(long)]
    repair: bool,
}

/// A layer to look at.
#[derive(Default)]
struct Layer {
    /// Its disk's root hash, by the records of the images that have it.
    root_hash: Option<Digest>,
    images: Vec<String>,
}

impl Args {
    pub fn run(&self, common: &Common) -> Result<()> {
        let store = common.store()?;
        let records = if self.repair { store.discard_damaged() } else { store.damaged() }?;
        let layers = self.layers(&store)?;
        let mut damaged = 0;
        for (diff_id, layer) in &layers {
            let result = store.verify_layer(diff_id, layer.root_hash.as_ref());
            if result.is_err() && is_gone(&store, diff_id)? {
                continue;
            }
            let of = if layer.images.is_empty() { "no image".into() } else { layer.images.join(", ") };
            let why = result.as_ref().err().map(|error| format!("{error:#}"));
            let text = why.as_ref().map_or(format!("{diff_id}: good"), |why| format!("{why} (of {of})"));
            common.print(&text, &json!({ "layer": diff_id, "images": layer.images, "damage": why }))?;
            if result.is_err() {
                damaged += 1;
                if self.repair {
                    store.discard_layer(diff_id)?;
                }
            }
        }
        let mut failed: Vec<_> = records.iter().map(|record| self.record(record)).collect();
        if damaged > 0 {
            let count = layers.len();
            failed.push(if self.repair {
                format!("{damaged} of {count} layers were damaged, and are removed: pull their images again")
            } else {
                format!("{damaged} of {count} layers are damaged; --repair removes them, for the next pull to make anew")
            });
        }
        super::all(&failed)
    }

    fn record(&self, record: &DamagedRecord) -> String {
        match self.repair {
            true => format!("{} was damaged, and is removed: pull its image again", record.path.display()),
            false => record.to_string(),
        }
    }

    fn layers(&self, store: &ImageStore) -> Result<BTreeMap<Digest, Layer>> {
        let mut layers = BTreeMap::<_, Layer>::new();
        for image in self.images(store)? {
            for record in &image.record.layers {
                let layer = layers.entry(record.diff_id).or_default();
                layer.root_hash = Some(record.root_hash);
                if layer.images.last() != Some(&image.shown()) {
                    layer.images.push(image.shown());
                }
            }
        }
        if self.images.is_empty() {
            for diff_id in store.layer_ids()? {
                layers.entry(diff_id).or_default();
            }
        }
        Ok(layers)
    }

    fn images(&self, store: &ImageStore) -> Result<Vec<StoredImage>> {
        if self.images.is_empty() {
            return store.images();
        }
        let find = |text: &String| store.find(text)?.with_context(|| format!("there is no image {text:?}"));
        self.images.iter().map(find).collect()
    }
}

/// Removed since we began, as it should be: nobody has it any more.
fn is_gone(store: &ImageStore, diff_id: &Digest) -> Result<bool> {
    let has = |image: StoredImage| image.record.layers.iter().any(|layer| layer.diff_id == *diff_id);
    Ok(!store.layers().path(diff_id).exists() && !store.images()?.into_iter().any(has))
}

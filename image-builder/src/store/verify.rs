//! Reading every byte of a layer in the store.

use std::io;

use anyhow::{Context, Result, bail, ensure};

use super::ImageStore;
use crate::digest::Digest;
use crate::verity;

impl ImageStore {
    /// Checks the layer `diff_id`: superblocks and length, every block of its disk against the hash tree, the tree's root
    /// against `root_hash`, which its image's record has, and that disk and recipe give back the tar stream that is the
    /// layer's.
    ///
    /// # Errors
    /// What is wrong first. [`ImageStore::discard_layer`] then makes room for a new one.
    pub fn verify_layer(&self, diff_id: &Digest, root_hash: Option<&Digest>) -> Result<()> {
        let Some(held) = self.layers().get(diff_id)? else { bail!("layer {diff_id} is missing") };
        let check = || {
            let found = &held.disk.verity.root_hash;
            if let Some(expected) = root_hash {
                ensure!(
                    found == expected,
                    "the hash tree's root is {found}, the image's record says {expected}"
                );
            }
            if let Some(damage) = verity::check(&held.file, found)? {
                bail!("{damage}");
            }
            Ok(())
        };
        check().with_context(|| format!("layer {diff_id} is damaged"))?;
        held.write_tar(io::sink()).map(drop)
    }

    /// The layers in the store, be they of an image or not, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn layer_ids(&self) -> Result<Vec<Digest>> {
        let mut ids: Vec<_> = self.stored_layers()?.into_iter().collect();
        ids.retain(|diff_id| self.layers().path(diff_id).exists());
        ids.sort();
        Ok(ids)
    }
}

//! Reading every byte of a layer in the store.

use std::fs::File;
use std::io;

use anyhow::{Context, Result, bail, ensure};

use super::ImageStore;
use crate::digest::Digest;
use crate::verity;

impl ImageStore {
    /// Checks the layer `diff_id`: superblocks and length, every block of its disk against the hash tree, the tree's root
    /// against `root_hash`, which its image's record has, and that disk and recipe give back the tar stream that is the
    /// layer's. Of its ext4 disk, if there is one, every block against the tree of its own.
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
            check_blocks(&held.file, found)?;
            self.check_ext4(diff_id).context("its ext4 disk")
        };
        check().with_context(|| format!("layer {diff_id} is damaged"))?;
        held.write_tar(io::sink()).map(drop)
    }

    fn check_ext4(&self, diff_id: &Digest) -> Result<()> {
        match File::open(self.layers().path(diff_id).with_extension("ext4")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            opened => {
                let file = opened.context("cannot open it")?;
                check_blocks(&file, &verity::read(&file)?.root_hash)
            }
        }
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

fn check_blocks(disk: &File, root_hash: &Digest) -> Result<()> {
    match verity::check(disk, root_hash)? {
        Some(damage) => bail!("{damage}"),
        None => Ok(()),
    }
}

//! `inspect IMAGE`: an image of the store, or one that is not in it, as docker has it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use image_builder::image::Platform;
use image_builder::source::{self, Options, Reference};
use image_builder::store::{ImageStore, StoredImage};
use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};

use super::Common;

#[derive(clap::Args)]
pub struct Args {
    /// Names or IDs of images in the store; or OCI layout folders and archives
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The platform to choose where there are several, as in linux/arm64/v8
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", default_value_t)]
    platform: Platform,
}

impl Args {
    /// As with docker, what is found is shown even if something else is not.
    pub fn run(&self, common: &Common) -> Result<()> {
        let (mut found, mut failed) = (Vec::new(), Vec::new());
        for image in &self.images {
            match self.inspect(common, image) {
                Ok(value) => found.push(value),
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        let found = Value::Array(found);
        super::print(&if common.json { found.to_string() } else { serde_json::to_string_pretty(&found)? })?;
        super::all(&failed)
    }

    fn inspect(&self, common: &Common, reference: &str) -> Result<Value> {
        if let Some(store) = ImageStore::existing(common.store_dir()?)?
            && let Some(image) = store.find(reference)?
        {
            return stored(&store, &image);
        }
        if let Ok(Reference::Name(_)) = Reference::parse(reference) {
            bail!("image {reference:?} is not in the store: pull it");
        }
        let options = Options {
            platform: self.platform.clone(),
            spool: Some(common.store_dir()?),
            ..Options::default()
        };
        let image = source::open(reference, &options)?;
        let layers = image
            .layers
            .iter()
            .map(|layer| json!({ "DiffID": layer.diff_id, "Blob": layer.digest, "BlobSize": layer.size }));
        let mut value = config(&image.config, &image.config_json)?;
        value["Id"] = json!(image.id());
        value["Layers"] = layers.collect();
        Ok(value)
    }
}

/// All that is known of an image in the store.
fn stored(store: &ImageStore, image: &StoredImage) -> Result<Value> {
    let layers = image.record.layers.iter().map(|layer| {
        let disk = store.layers().path(&layer.diff_id);
        let uuid = uuid(&layer.diff_id.uuid());
        json!({
            "DiffID": layer.diff_id, "Blob": layer.blob, "BlobSize": layer.blob_size,
            "Disk": disk, "DiskSize": layer.disk_size, "UUID": uuid, "VerityRootHash": layer.root_hash.hex(),
        })
    });
    let tags = image.names.iter().filter(|it| it.name.tag.is_some()).map(|it| it.name.familiar());
    // Each once, though several tags may have it.
    let digests = image.names.iter().filter_map(|it| {
        let digest = it.digest?;
        let name = source::Name { tag: None, digest: Some(digest), ..it.name.clone() };
        Some(name.familiar())
    });
    let digests: BTreeSet<_> = digests.collect();
    let mut value =
        config(&image.config, image.record.config.as_bytes()).context("cannot show the config")?;
    value["Id"] = json!(image.id);
    value["RepoTags"] = tags.collect();
    value["RepoDigests"] = json!(digests);
    value["Layers"] = layers.collect();
    Ok(value)
}

/// The config's fields under the names that docker gives them. What is for containers is shown as it stands in `bytes`, for
/// there is more (`Healthcheck`, `Shell`) than the specification knows.
fn config(config: &ImageConfiguration, bytes: &[u8]) -> Result<Value> {
    let mut whole: Value = serde_json::from_slice(bytes)?;
    Ok(json!({
        "Id": null, "RepoTags": [], "RepoDigests": [],
        "Created": config.created(), "Author": config.author(),
        "Architecture": config.architecture(), "Variant": config.variant(), "Os": config.os(),
        "Config": whole["config"].take(),
        "RootFS": { "Type": "layers", "Layers": config.rootfs().diff_ids() },
    }))
}

/// A filesystem's UUID as blkid(8) shows it.
fn uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

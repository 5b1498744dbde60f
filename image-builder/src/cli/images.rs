//! `ls` without a disk: the store's images.

use std::collections::HashMap;

use anyhow::Result;
use image_builder::digest::Digest;
use image_builder::source::Name;
use image_builder::store::{ImageStore, NameRecord, StoredImage};
use serde_json::json;

use super::Common;
use super::human::{ago, bytes, seconds, short};

/// What docker writes where there is nothing.
const NONE: &str = "<none>";

#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    /// Of images: those without a name, too
    #[arg(short, long, conflicts_with = "disk")]
    all: bool,
    /// Of images: IDs only
    #[arg(short, long, conflicts_with = "disk")]
    quiet: bool,
    /// Of images: with the digests by which registries know the images
    #[arg(long, conflicts_with = "disk")]
    digests: bool,
}

impl Args {
    pub fn run(&self, common: &Common) -> Result<()> {
        // As with docker, nobody must have put in an image first.
        let store = ImageStore::existing(common.store_dir()?)?;
        let images = store.as_ref().map_or(Ok(Vec::new()), ImageStore::images)?;
        let users = users(&images);
        let shown = images.iter().filter(|image| self.all || !image.names.is_empty());
        let mut table = vec![self.head()];
        for image in shown {
            let (size, unique) = sizes(image, &users);
            if common.json {
                super::print(&self.json(image, size, unique).to_string())?;
            } else if self.quiet {
                super::print(&short(&image.id))?;
            } else {
                self.rows(image, size, unique, &mut table);
            }
        }
        if !common.json && !self.quiet {
            print(&table)?;
        }
        super::damaged(&store.map_or(Ok(Vec::new()), |store| store.damaged())?)
    }

    fn head(&self) -> Vec<String> {
        let digest = self.digests.then_some("DIGEST");
        let head = ["REPOSITORY", "TAG"].into_iter().chain(digest);
        head.chain(["IMAGE ID", "CREATED", "SIZE", "UNIQUE SIZE"]).map(str::to_owned).collect()
    }

    /// A row for each name.
    fn rows(&self, image: &StoredImage, size: u64, unique: u64, table: &mut Vec<Vec<String>>) {
        let created = image.config.created().as_deref().and_then(seconds);
        let tail = [short(&image.id), created.map_or("N/A".into(), ago), bytes(size), bytes(unique)];
        let row = |name: Option<&NameRecord>| {
            let none = || NONE.to_owned();
            let repository = name.map_or_else(none, |it| repository(&it.name));
            let tag = name.and_then(|it| it.name.tag.clone()).unwrap_or_else(none);
            let digest = name.and_then(|it| it.digest).map_or_else(none, |digest| digest.to_string());
            let head = [repository, tag].into_iter().chain(self.digests.then_some(digest));
            head.chain(tail.clone()).collect()
        };
        if image.names.is_empty() {
            table.push(row(None));
        }
        table.extend(image.names.iter().map(|name| row(Some(name))));
    }

    fn json(&self, image: &StoredImage, size: u64, unique: u64) -> serde_json::Value {
        let names: Vec<_> = image.names.iter().map(|name| name.name.familiar()).collect();
        json!({
            "id": image.id, "names": names, "digest": image.record.manifest,
            "created": image.config.created(), "added": image.record.added,
            "layers": image.record.layers.len(), "size": size, "uniqueSize": unique,
        })
    }
}

/// As docker shows a name without tag and digest.
fn repository(name: &Name) -> String {
    // What has neither is no name: another could be meant by it.
    let full = Name { tag: Some("latest".to_owned()), digest: None, ..name.clone() }.familiar();
    full.strip_suffix(":latest").unwrap_or(&full).to_owned()
}

/// How many images have each layer.
fn users(images: &[StoredImage]) -> HashMap<Digest, usize> {
    let mut users = HashMap::new();
    for image in images {
        for diff_id in layers(image).keys() {
            *users.entry(*diff_id).or_insert(0) += 1;
        }
    }
    users
}

/// An image's layers, each once, with the size of their disks.
fn layers(image: &StoredImage) -> HashMap<Digest, u64> {
    image.record.layers.iter().map(|layer| (layer.diff_id, layer.disk_size)).collect()
}

/// Bytes of an image's disks: of all, and of those that no other image has.
fn sizes(image: &StoredImage, users: &HashMap<Digest, usize>) -> (u64, u64) {
    let layers = layers(image);
    let unique = layers.iter().filter(|(diff_id, _)| users.get(diff_id) == Some(&1));
    (layers.values().sum(), unique.map(|(_, size)| size).sum())
}

/// Columns as wide as they must be.
fn print(table: &[Vec<String>]) -> Result<()> {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in table {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        super::print(cells.collect::<Vec<_>>().join("   ").trim_end())?;
    }
    Ok(())
}

#[test]
fn repositories_are_shown_as_docker_shows_them() {
    let digest = "sha256:86e0e091d0da6bde2456dbb48306f3956bbeb2eae1b5b9a43045843f69fe4aaa";
    for (name, shown) in [
        ("alpine:3.20", "alpine"),
        ("docker.io/grafana/grafana", "grafana/grafana"),
        ("localhost:5000/x/y:1", "localhost:5000/x/y"),
        ("docker.io/localhost/x", "docker.io/localhost/x"),
        (&format!("alpine@{digest}"), "alpine"),
    ] {
        assert_eq!(repository(&name.parse().unwrap()), shown);
    }
}

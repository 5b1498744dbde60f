//! What `docker save` writes (moby, image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format"): `manifest.json`
//! names the config and the layers of each image. Layers are tar streams that docker leaves plain and others compress.

use std::fmt;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::from_slice;

use super::files::Files;
use crate::digest::Digest;
use crate::image::{Image, Layer, Platform, Selector, parse_config, read_bounded};

/// The file that makes an archive one of docker's.
pub const MARK: &str = "manifest.json";
/// Images in an archive, at most.
const MAX_IMAGES: usize = 1000;

/// An image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// The images of `files` that `selector` chooses, by one of their names or by their ID; each with its names.
///
/// # Errors
/// There is none (the message lists what there is); a part is missing or damaged; another platform.
pub fn open_all(
    files: &dyn Files,
    selector: &Selector,
    platform: &Platform,
) -> Result<Vec<(Vec<String>, Image)>> {
    let (entries, found) = find(files, selector, platform)?;
    if found.is_empty() {
        return Err(none(&entries));
    }
    found.iter().map(|&at| Ok((entries[at].tags().to_vec(), entries[at].image(files, platform)?))).collect()
}

/// The one image of `files` that `selector` chooses.
///
/// # Errors
/// As [`open_all`]; several match.
pub fn open(files: &dyn Files, selector: &Selector, platform: &Platform) -> Result<Image> {
    let (entries, found) = find(files, selector, platform)?;
    match found[..] {
        [at] => entries[at].image(files, platform),
        [] => Err(none(&entries)),
        _ => bail!(
            "several images match, add :NAME:TAG or @sha256:ID; choose from: {}",
            list(found.iter().map(|&at| &entries[at]))
        ),
    }
}

/// All the images, and which of them `selector` means: of several, those for `platform`.
fn find(files: &dyn Files, selector: &Selector, platform: &Platform) -> Result<(Vec<Entry>, Vec<usize>)> {
    let entries: Vec<Entry> =
        from_slice(&read(files, MARK)?).with_context(|| format!("{MARK} is malformed"))?;
    if entries.len() > MAX_IMAGES {
        bail!("{MARK} lists {} images, at most {MAX_IMAGES} are allowed", entries.len());
    }
    let mut found = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        if entry.is(files, selector)? {
            found.push(at);
        }
    }
    if found.len() > 1 {
        found.retain(|&at| entries[at].is_for(files, platform));
    }
    Ok((entries, found))
}

fn none(entries: &[Entry]) -> anyhow::Error {
    match entries {
        [] => anyhow!("{MARK} lists no image"),
        entries => anyhow!("no image matches; there are: {}", list(entries.iter())),
    }
}

fn list<'a>(entries: impl Iterator<Item = &'a Entry>) -> String {
    entries.map(Entry::to_string).collect::<Vec<_>>().join(", ")
}

/// For messages: what an archive says must not command a terminal.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tags() {
            [] => self.config.escape_debug().fmt(f),
            tags => tags.join(", ").escape_debug().fmt(f),
        }
    }
}

impl Entry {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }

    fn is(&self, files: &dyn Files, selector: &Selector) -> Result<bool> {
        Ok(match selector {
            Selector::Any => true,
            Selector::Tag(_) => self.tags().iter().any(|name| selector.matches_name(name)),
            Selector::Digest(id) => Digest::of(&read(files, &self.config)?) == *id,
        })
    }

    /// A config that cannot be read says so when its image is opened.
    fn is_for(&self, files: &dyn Files, platform: &Platform) -> bool {
        let config = read(files, &self.config).ok().and_then(|json| parse_config(&json).ok());
        config.is_none_or(|config| platform.accepts_config(&config))
    }

    fn image(&self, files: &dyn Files, platform: &Platform) -> Result<Image> {
        let config = read(files, &self.config)?;
        let found = Digest::of(&config);
        if let Some(expected) = digest_in(&self.config).filter(|&expected| expected != found) {
            let name = self.config.escape_debug();
            bail!("config {name} is damaged: expected {expected}, found {found}");
        }
        let layers = self.layers.as_deref().unwrap_or_default();
        Image::assemble(config, None, platform, layers, |name, diff_id| {
            let (blob, size) = files.blob(name)?;
            Ok(Layer { diff_id, digest: None, size: Some(size), blob })
        })
    }
}

/// Configs are named by their digest: `HEX.json`, `blobs/sha256/HEX`, `sha256:HEX`.
fn digest_in(name: &str) -> Option<Digest> {
    let name = name.rsplit('/').next()?;
    let name = name.strip_suffix(".json").unwrap_or(name);
    format!("sha256:{}", name.strip_prefix("sha256:").unwrap_or(name)).parse().ok()
}

fn read(files: &dyn Files, name: &str) -> Result<Vec<u8>> {
    let shown = name.escape_debug().to_string();
    read_bounded(files.open(name)?, &shown).with_context(|| format!("cannot read {shown}"))
}

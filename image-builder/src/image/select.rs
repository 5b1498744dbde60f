//! Choosing one manifest from a layout's index, which may hold further indexes.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, Os};
use serde::de::IgnoredAny;

use super::content::{self, Content, read_json};
use super::document::{parse_config, read_index, read_manifest};
use super::media_type;
use super::platform::{self, Platform};
use crate::digest::Digest;
use crate::source::Name;

/// Indexes within indexes, at most. Real ones have two levels; a digest cannot lead back to itself, but a chain can be long.
const MAX_DEPTH: usize = 4;
/// Descriptors looked at, at most.
const MAX_DESCRIPTORS: usize = 10_000;
/// Of the specification, of containerd and docker: the names of an image in a layout.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

/// What chooses an image among several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The only one.
    Any,
    /// By its reference name.
    Tag(String),
    /// By the digest of its manifest, or of the index it is in.
    Digest(Digest),
}

impl Selector {
    /// Whether an image of this `name` is meant: the same name, written in full or not, or one that ends in `:` and the tag.
    pub fn matches_name(&self, name: &str) -> bool {
        let Self::Tag(tag) = self else { return *self == Self::Any };
        let same = || Some(name.parse::<Name>().ok()? == tag.parse().ok()?);
        name == tag || name.rsplit_once(':').is_some_and(|(_, t)| t == tag) || same() == Some(true)
    }
}

/// The manifest for `platform` that `selector` matches: in an index the one whose variant is the best, and the first of
/// equals. Where the index names no platform, the image's config does.
///
/// # Errors
/// None or several images match (the message lists what there is); an index that cannot be read.
pub fn manifest(
    content: &dyn Content,
    index: &ImageIndex,
    selector: &Selector,
    platform: &Platform,
) -> Result<Descriptor> {
    let (found, others) = Search::run(content, index, selector, platform)?;
    let best = found.iter().map(|candidate| candidate.rank).min();
    // By digest: one image may have many names.
    let best: BTreeMap<_, _> =
        found.iter().filter(|c| Some(c.rank) == best).map(|c| (c.it.digest().to_string(), c)).collect();
    let choices = || best.values().map(|c| c.shown.as_str()).collect::<Vec<_>>().join(", ");
    match (best.len(), best.values().next()) {
        (1, Some(candidate)) => Ok(candidate.it.clone()),
        (0, _) => Err(none(platform, &others)),
        _ => bail!("several images match, add :TAG or @DIGEST; choose from: {}", choices()),
    }
}

/// All manifests for `platform` that `selector` matches, each once with the names of its image.
///
/// # Errors
/// There is none; an index that cannot be read.
pub fn manifests(
    content: &dyn Content,
    index: &ImageIndex,
    selector: &Selector,
    platform: &Platform,
) -> Result<Vec<(Vec<String>, Descriptor)>> {
    let (found, others) = Search::run(content, index, selector, platform)?;
    let mut images: Vec<(Vec<String>, Descriptor)> = Vec::new();
    for Candidate { it, names, .. } in found {
        match images.iter_mut().find(|(_, other)| other.digest() == it.digest()) {
            Some((others, _)) => others.extend(names),
            None => images.push((names, it)),
        }
    }
    if images.is_empty() { Err(none(platform, &others)) } else { Ok(images) }
}

fn none(platform: &Platform, others: &[String]) -> anyhow::Error {
    match others {
        [] => anyhow!("the index is empty"),
        others => anyhow!("no image for {platform} matches; there are: {}", others.join(", ")),
    }
}

/// A manifest that matches, and may be for our platform.
struct Candidate {
    it: Descriptor,
    names: Vec<String>,
    /// For messages.
    shown: String,
    /// As [`Platform::rank`] has it; a manifest whose platform is not told is taken for the best.
    rank: u32,
}

impl Candidate {
    /// Asks the image's config where the index does not tell the platform. What cannot be read says so if it is chosen.
    fn look_up(&self, content: &dyn Content, platform: &Platform) -> Option<u32> {
        if self.it.platform().is_some() {
            return Some(self.rank);
        }
        let config = || -> Result<ImageConfiguration> {
            let manifest = read_manifest(content, &self.it)?;
            let (config, IgnoredAny) = read_json(content, manifest.config(), "config")?;
            parse_config(&config)
        };
        match config() {
            Ok(config) => platform.rank(config.os(), config.architecture(), config.variant().as_deref()),
            Err(_) => Some(self.rank),
        }
    }
}

/// What the descriptor that led to an index says.
#[derive(Clone, Default)]
struct Context {
    matched: bool,
    names: Vec<String>,
}

struct Search<'a> {
    content: &'a dyn Content,
    selector: &'a Selector,
    platform: &'a Platform,
    /// What else there is, for the message.
    others: Vec<String>,
    seen: usize,
}

impl<'a> Search<'a> {
    /// What matches, and what else there is.
    fn run(
        content: &'a dyn Content,
        index: &ImageIndex,
        selector: &'a Selector,
        platform: &'a Platform,
    ) -> Result<(Vec<Candidate>, Vec<String>)> {
        let mut search = Self { content, selector, platform, others: Vec::new(), seen: 0 };
        let mut found = search.index(index, &Context::default(), 0)?;
        search.settle(&mut found);
        Ok((found, search.others))
    }

    fn index(&mut self, index: &ImageIndex, outer: &Context, depth: usize) -> Result<Vec<Candidate>> {
        let mut found = Vec::new();
        for descriptor in index.manifests().iter().filter(|it| !is_attestation(it)) {
            self.seen += 1;
            if self.seen > MAX_DESCRIPTORS {
                bail!("more than {MAX_DESCRIPTORS} manifests in the indexes");
            }
            let own = names(descriptor);
            let matched = outer.matched || self.matches(&own, descriptor)?;
            let names = if own.is_empty() { outer.names.clone() } else { own };
            found.extend(self.descriptor(descriptor, Context { matched, names }, depth)?);
        }
        Ok(found)
    }

    fn matches(&self, names: &[String], descriptor: &Descriptor) -> Result<bool> {
        let digest = content::digest(descriptor)?;
        Ok(match self.selector {
            Selector::Any => true,
            Selector::Digest(wanted) => digest == *wanted,
            Selector::Tag(_) => names.iter().any(|name| self.selector.matches_name(name)),
        })
    }

    fn descriptor(&mut self, it: &Descriptor, context: Context, depth: usize) -> Result<Option<Candidate>> {
        let shown = describe(it, &context.names);
        let media_type = it.media_type().as_ref();
        if media_type::is_index(media_type) {
            return self.nested(it, &context, depth);
        }
        if !media_type::is_manifest(media_type) {
            let why =
                if media_type::is_schema1(media_type) { " (schema 1, of docker before 1.10)" } else { "" };
            self.others.push(format!("{shown} of media type {media_type:?}{why}, not supported"));
            return Ok(None);
        }
        let platform = it.platform().as_ref();
        let rank = platform
            .map_or(Some(0), |p| self.platform.rank(p.os(), p.architecture(), p.variant().as_deref()));
        if let Some(rank) = rank.filter(|_| context.matched) {
            return Ok(Some(Candidate { it: it.clone(), names: context.names, shown, rank }));
        }
        self.others.push(shown);
        Ok(None)
    }

    /// An index within an index is one image for many platforms.
    fn nested(&mut self, it: &Descriptor, context: &Context, depth: usize) -> Result<Option<Candidate>> {
        if depth == MAX_DEPTH {
            bail!("indexes are nested more than {MAX_DEPTH} deep");
        }
        let index = read_index(self.content, it)?;
        let mut found = self.index(&index, context, depth + 1)?;
        self.settle(&mut found);
        Ok(found.into_iter().min_by_key(|candidate| candidate.rank))
    }

    /// Where there are several, those whose platform is not told must tell it; those for another are dropped.
    fn settle(&mut self, found: &mut Vec<Candidate>) {
        if found.len() > 1 {
            found.retain_mut(|candidate| match candidate.look_up(self.content, self.platform) {
                Some(rank) => {
                    candidate.rank = rank;
                    true
                }
                None => {
                    self.others.push(candidate.shown.clone());
                    false
                }
            });
        }
    }
}

/// What buildx puts beside an image to say how it was made.
fn is_attestation(it: &Descriptor) -> bool {
    let unknown = |p: &oci_spec::image::Platform| {
        *p.os() == Os::Other("unknown".to_owned()) && *p.architecture() == Arch::Other("unknown".to_owned())
    };
    let annotated = it.annotations().as_ref().is_some_and(|a| a.contains_key("vnd.docker.reference.digest"));
    annotated || it.platform().as_ref().is_some_and(unknown)
}

fn names(it: &Descriptor) -> Vec<String> {
    let annotations = it.annotations().as_ref();
    NAMES.iter().filter_map(|name| annotations?.get(*name)).cloned().collect()
}

fn describe(it: &Descriptor, names: &[String]) -> String {
    let platform = it.platform().as_ref().map_or(String::new(), |p| {
        format!(" ({})", platform::shown(p.os(), p.architecture(), p.variant().as_deref()))
    });
    let names: String = names.iter().map(|name| format!("{name:?} ")).collect();
    format!("{names}{}{platform}", it.digest())
}

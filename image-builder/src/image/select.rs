//! Choosing one manifest from a layout's index, which may hold further indexes.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use oci_spec::image::{Descriptor, ImageIndex};

use super::content::{self, Content, read_json};
use super::media_type;
use super::platform::Platform;
use crate::digest::Digest;

/// Indexes within indexes, at most. Real ones have two levels; a digest cannot lead back to itself, but a chain can be long.
const MAX_DEPTH: usize = 4;
/// Descriptors looked at, at most.
const MAX_DESCRIPTORS: usize = 10_000;
const REF_NAME: &str = "org.opencontainers.image.ref.name";

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

/// The one manifest for `platform` that `selector` matches. A manifest without a platform is taken for one.
///
/// # Errors
/// None or several match (the message lists what there is); an index that cannot be read.
pub fn manifest(
    content: &dyn Content,
    index: &ImageIndex,
    selector: &Selector,
    platform: &Platform,
) -> Result<Descriptor> {
    let mut search =
        Search { content, selector, platform, found: BTreeMap::new(), others: Vec::new(), seen: 0 };
    search.index(index, false, None, 0)?;
    let choices = || search.found.values().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ");
    match (search.found.len(), search.found.values().next()) {
        (1, Some((descriptor, _))) => Ok(descriptor.clone()),
        (0, _) if search.others.is_empty() => bail!("the index is empty"),
        (0, _) => bail!("no image for {platform} matches; there are: {}", search.others.join(", ")),
        _ => bail!("several images match, add :TAG or @DIGEST; choose from: {}", choices()),
    }
}

struct Search<'a> {
    content: &'a dyn Content,
    selector: &'a Selector,
    platform: &'a Platform,
    /// Matches with the names to show for them. By digest, for one image may have many tags.
    found: BTreeMap<Digest, (Descriptor, String)>,
    /// What else there is, for the message.
    others: Vec<String>,
    seen: usize,
}

impl Search<'_> {
    /// `matched` and `name` come from the descriptor that led to `index`.
    fn index(&mut self, index: &ImageIndex, matched: bool, name: Option<&str>, depth: usize) -> Result<()> {
        for descriptor in index.manifests() {
            self.seen += 1;
            if self.seen > MAX_DESCRIPTORS {
                bail!("more than {MAX_DESCRIPTORS} manifests in the indexes");
            }
            let own_name =
                descriptor.annotations().as_ref().and_then(|a| a.get(REF_NAME)).map(String::as_str);
            let matched = matched || matches(self.selector, own_name, &content::digest(descriptor)?);
            self.descriptor(descriptor, matched, own_name.or(name), depth)?;
        }
        Ok(())
    }

    fn descriptor(&mut self, it: &Descriptor, matched: bool, name: Option<&str>, depth: usize) -> Result<()> {
        let shown = describe(it, name);
        match it.media_type().as_ref() {
            t if media_type::is_index(t) => self.nested(it, matched, name, depth),
            t if media_type::is_manifest(t) => self.manifest(it, matched, shown),
            t if media_type::is_schema1(t) => {
                self.others.push(format!("{shown} of schema 1 (of docker before 1.10), not supported"));
                Ok(())
            }
            other => {
                self.others.push(format!("{shown} of media type {other:?}, not supported"));
                Ok(())
            }
        }
    }

    fn nested(&mut self, it: &Descriptor, matched: bool, name: Option<&str>, depth: usize) -> Result<()> {
        if depth == MAX_DEPTH {
            bail!("indexes are nested more than {MAX_DEPTH} deep");
        }
        let (_, index) = read_json(self.content, it, "index")?;
        self.index(&index, matched, name, depth + 1)
    }

    fn manifest(&mut self, it: &Descriptor, matched: bool, shown: String) -> Result<()> {
        let ours = it
            .platform()
            .as_ref()
            .is_none_or(|p| self.platform.accepts(p.os(), p.architecture(), p.variant().as_deref()));
        if matched && ours {
            self.found.insert(content::digest(it)?, (it.clone(), shown));
        } else {
            self.others.push(shown);
        }
        Ok(())
    }
}

fn matches(selector: &Selector, name: Option<&str>, digest: &Digest) -> bool {
    match selector {
        Selector::Any => true,
        Selector::Digest(wanted) => digest == wanted,
        Selector::Tag(tag) => {
            name.is_some_and(|n| n == tag || n.rsplit_once(':').is_some_and(|(_, t)| t == tag))
        }
    }
}

fn describe(it: &Descriptor, name: Option<&str>) -> String {
    let platform =
        it.platform().as_ref().map(|p| format!(" ({}/{})", p.os(), p.architecture())).unwrap_or_default();
    match name {
        Some(name) => format!("{name:?} {}{platform}", it.digest()),
        None => format!("{}{platform}", it.digest()),
    }
}

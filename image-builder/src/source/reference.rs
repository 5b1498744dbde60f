//! How a user names an image: by where it is, as skopeo and podman have it, or by its name.
//!
//! | reference | what it is |
//! |---|---|
//! | `PATH[:TAG][@DIGEST]` | an existing OCI layout folder, or an archive file, of whatever kind; only this when it starts with `/` or `.` |
//! | `-[:TAG][@DIGEST]` | an archive on standard input |
//! | `NAME[:TAG][@DIGEST]` | an image of the store or of a registry, see [`Name`] |
//! | `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME[:TAG]]`, `docker://NAME` | just that |

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::name::Name;
use crate::image::Selector;

/// A parsed reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// An OCI image layout folder.
    Layout {
        /// The folder.
        path: PathBuf,
        /// Which of its images.
        selector: Selector,
    },
    /// An archive: a regular file, or a FIFO (`<(docker save x)`).
    Archive {
        /// The file.
        path: PathBuf,
        /// What it must be; none: whatever it is.
        format: Option<Format>,
        /// Which of its images.
        selector: Selector,
    },
    /// An archive on standard input.
    Stdin {
        /// Which of its images.
        selector: Selector,
    },
    /// An image of the store, or of a registry.
    Name(Name),
}

/// What an archive is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An OCI image layout (`skopeo copy ... oci-archive:x.tar`, `docker buildx build -o type=oci`).
    Oci,
    /// What `docker save` writes, with a `manifest.json`. Since docker 25 it is an OCI layout, too.
    Docker,
}

/// What there is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// We may not look.
    Hidden,
    Layout,
    Folder,
    File,
}

impl Reference {
    /// Reads `text`; whether a path is meant depends on what there is.
    ///
    /// # Errors
    /// It names nothing that can be: no such file, a name that is not well-formed, a transport that we lack.
    pub fn parse(text: &str) -> Result<Self> {
        parse(text, &look)
    }
}

fn look(path: &Path) -> Found {
    match std::fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => Found::File,
        Ok(_) if path.join("oci-layout").exists() => Found::Layout,
        Ok(_) => Found::Folder,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Found::Hidden,
        Err(_) => Found::Nothing,
    }
}

fn parse(text: &str, look: &dyn Fn(&Path) -> Found) -> Result<Reference> {
    if let Some((transport, rest)) = text.split_once(':')
        && let Some(reference) = with_transport(transport, rest, look)?
    {
        return Ok(reference);
    }
    if let Some(rest) = text.strip_prefix('-')
        && let Some(selector) = selector(rest)?
    {
        return Ok(Reference::Stdin { selector });
    }
    let certainly_path = text.starts_with(['/', '.']);
    let (path, rest) = split(text, look);
    match look(path) {
        Found::File => archive(path, None, rest),
        Found::Layout => layout(path, rest),
        Found::Folder if certainly_path => layout(path, rest),
        Found::Nothing if certainly_path => bail!("no such file or folder"),
        Found::Hidden if certainly_path => bail!("permission denied"),
        _ => {
            let name: Name =
                text.parse().context("neither an image file, nor an OCI layout folder, nor a name")?;
            Ok(Reference::Name(name))
        }
    }
}

/// `transport:rest`, if there is such a transport.
fn with_transport(transport: &str, rest: &str, look: &dyn Fn(&Path) -> Found) -> Result<Option<Reference>> {
    let (path, selector) = split(rest, look);
    Ok(Some(match transport {
        "oci" => layout(path, selector)?,
        "oci-archive" => archive(path, Some(Format::Oci), selector)?,
        "docker-archive" => archive(path, Some(Format::Docker), selector)?,
        "docker" if rest.starts_with("//") => Reference::Name(rest[2..].parse()?),
        "http" | "https" if rest.starts_with("//") => {
            bail!("a registry's image is named without {transport}://, as in docker.io/library/alpine")
        }
        "docker-daemon" => {
            bail!(
                "transport docker-daemon is not supported; save the image first: docker save {rest} > x.tar"
            )
        }
        "dir" | "containers-storage" | "ostree" | "sif" | "tarball" | "atomic" => bail!(
            "transport {transport} is not supported; copy the image first: skopeo copy {transport}:{rest} oci-archive:x.tar"
        ),
        _ => return Ok(None),
    }))
}

fn layout(path: &Path, rest: &str) -> Result<Reference> {
    let selector = selector_after(path, rest)?;
    Ok(Reference::Layout { path: path.to_owned(), selector })
}

fn archive(path: &Path, format: Option<Format>, rest: &str) -> Result<Reference> {
    let selector = selector_after(path, rest)?;
    Ok(Reference::Archive { path: path.to_owned(), format, selector })
}

/// Path, and what follows it from its colon or at sign on. The longest path that exists is taken at its word, colons
/// and all; if none does, the first colon or at sign ends it.
fn split<'a>(text: &'a str, look: &dyn Fn(&Path) -> Found) -> (&'a Path, &'a str) {
    let places = || text.char_indices().filter(|(_, c)| matches!(c, ':' | '@')).map(|(at, _)| at);
    let exists = |at: &usize| look(Path::new(&text[..*at])) != Found::Nothing;
    let end = std::iter::once(text.len()).chain(places().rev()).find(exists);
    let (path, rest) = text.split_at(end.or_else(|| places().next()).unwrap_or(text.len()));
    (Path::new(path), rest)
}

fn selector_after(path: &Path, rest: &str) -> Result<Selector> {
    if path.as_os_str().is_empty() {
        bail!("a path is missing");
    }
    // A path ends where a selector begins, or the text ends.
    selector(rest)?.with_context(|| format!("{rest:?} after {} is not :TAG or @DIGEST", path.display()))
}

/// `""`, `:TAG`, `@DIGEST` or both (the digest counts); none: it is something else.
fn selector(text: &str) -> Result<Option<Selector>> {
    if text.is_empty() {
        return Ok(Some(Selector::Any));
    }
    if let Some((tag, digest)) = text.split_once('@')
        && (tag.is_empty() || tag.starts_with(':'))
    {
        return Ok(Some(Selector::Digest(digest.parse()?)));
    }
    match text.strip_prefix(':') {
        Some("") => bail!("an empty tag"),
        Some(tag) => Ok(Some(Selector::Tag(tag.to_owned()))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    /// A working directory with a layout, a layout with colons, a plain folder and a file.
    fn there(path: &Path) -> Found {
        match path.to_str() {
            Some("layout" | "/layout" | "odd:name" | "./oci") => Found::Layout,
            Some("folder" | "./folder") => Found::Folder,
            Some("x.tar" | "./x.tar" | "-") => Found::File,
            Some("hidden/x" | "./hidden/x") => Found::Hidden,
            _ => Found::Nothing,
        }
    }

    #[test]
    fn references_are_paths_names_or_transports() {
        let digest = Digest::of(b"");
        let tag = |tag: &str| Selector::Tag(tag.to_owned());
        let layout = |path: &str, selector| Reference::Layout { path: path.into(), selector };
        let archive =
            |path: &str, format, selector| Reference::Archive { path: path.into(), format, selector };
        let name = |text: &str| Reference::Name(text.parse().unwrap());
        for (text, expected) in [
            ("layout", layout("layout", Selector::Any)),
            ("layout:3.1", layout("layout", tag("3.1"))),
            ("/layout:docker.io/library/x:3.1", layout("/layout", tag("docker.io/library/x:3.1"))),
            (&format!("layout@{digest}"), layout("layout", Selector::Digest(digest))),
            (&format!("layout:tag@{digest}"), layout("layout", Selector::Digest(digest))),
            ("odd:name", layout("odd:name", Selector::Any)),
            ("odd:name:tag", layout("odd:name", tag("tag"))),
            ("odd:other", name("odd:other")),
            ("folder", name("folder")),
            ("./folder", layout("./folder", Selector::Any)),
            ("x.tar", archive("x.tar", None, Selector::Any)),
            ("./x.tar:alpine:3.20", archive("./x.tar", None, tag("alpine:3.20"))),
            ("y.tar", name("y.tar")),
            ("hidden/x", name("hidden/x")),
            ("-", Reference::Stdin { selector: Selector::Any }),
            ("-:a/b:c", Reference::Stdin { selector: tag("a/b:c") }),
            ("oci:layout:v1", layout("layout", tag("v1"))),
            ("oci:nowhere:v1", layout("nowhere", tag("v1"))),
            ("oci:odd:name:v1", layout("odd:name", tag("v1"))),
            ("./oci:v1", layout("./oci", tag("v1"))),
            ("oci-archive:x.tar:v1", archive("x.tar", Some(Format::Oci), tag("v1"))),
            ("docker-archive:x.tar", archive("x.tar", Some(Format::Docker), Selector::Any)),
            ("docker-archive:x.tar:a/b:1", archive("x.tar", Some(Format::Docker), tag("a/b:1"))),
            ("docker://alpine", name("docker.io/library/alpine:latest")),
            ("docker:dind", name("docker.io/library/docker:dind")),
            ("localhost:5000/x:1", name("localhost:5000/x:1")),
            (&format!("alpine@{digest}"), name(&format!("docker.io/library/alpine@{digest}"))),
        ] {
            let parsed = parse(text, &there).unwrap_or_else(|e| panic!("{text:?}: {e:#}"));
            assert_eq!(parsed, expected, "{text:?}");
        }
    }

    #[test]
    fn what_can_be_nothing_is_refused() {
        for (text, part) in [
            ("", "neither an image file, nor an OCI layout folder, nor a name: a name without a repository"),
            ("/nowhere", "no such file or folder"),
            ("./hidden/x", "permission denied"),
            ("/nowhere:tag", "no such file or folder"),
            ("./y.tar", "no such file or folder"),
            ("../y.tar@x", "no such file or folder"),
            ("Alpine", "must be lower-case"),
            ("-x", "not a repository"),
            ("layout:", "an empty tag"),
            ("layout@sha512:00", "algorithm \"sha512\" is not supported"),
            ("oci:", "a path is missing"),
            ("oci-archive::tag", "a path is missing"),
            ("docker://", "without a repository"),
            ("docker-daemon:alpine:3", "docker save alpine:3"),
            ("containers-storage:x", "skopeo copy containers-storage:x oci-archive:x.tar"),
            ("dir:x", "transport dir is not supported"),
            ("https://example.com/x", "named without https://"),
        ] {
            let error =
                parse(text, &there).map_or_else(|e| format!("{e:#}"), |r| panic!("{text:?} is {r:?}"));
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}

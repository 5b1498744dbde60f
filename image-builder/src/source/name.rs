//! Names of images in registries: host, repository, tag, digest; read and normalised as docker does
//! (github.com/distribution/reference).

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::digest::Digest;

/// Where names without a host are: Docker Hub. (Its API answers at `registry-1.docker.io`.)
pub const DOCKER_HUB: &str = "docker.io";
/// What Docker Hub was called.
const OLD_DOCKER_HUB: &str = "index.docker.io";
/// Repositories of Docker Hub without a namespace are in this one.
const OFFICIAL: &str = "library/";
/// Docker gives this name to no image: `sha256:...` would be a tag of it.
const RESERVED: &str = "library/sha256";
const DEFAULT_TAG: &str = "latest";
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// The full name of an image. Shown as `docker.io/library/alpine:3.20`, `localhost:5000/x@sha256:...`.
///
/// ```
/// # use image_builder::source::Name;
/// let name: Name = "alpine".parse()?;
/// assert_eq!(name.to_string(), "docker.io/library/alpine:latest");
/// assert_eq!(name.familiar(), "alpine:latest");
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// `docker.io`, `localhost:5000`, `[::1]:5000`
    pub host: String,
    /// `library/alpine`
    pub repository: String,
    /// Never none where there is no digest. Where there is one, the digest alone says which image is meant.
    pub tag: Option<String>,
    /// Of the manifest, or of the index.
    pub digest: Option<Digest>,
}

impl Name {
    /// As docker shows it: without what docker adds, so `alpine:latest`; in full where that would be another name
    /// (`docker.io/localhost/x`).
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let bare = full.strip_prefix(DOCKER_HUB).and_then(|rest| rest.strip_prefix('/')).unwrap_or(&full);
        let shortest = bare.strip_prefix(OFFICIAL).unwrap_or(bare);
        let same = |text: &&str| text.parse::<Self>().is_ok_and(|name| name == *self);
        [shortest, bare].into_iter().find(same).unwrap_or(&full).to_owned()
    }

    /// What a registry is asked for: the digest, else the tag.
    pub fn reference(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.as_deref().unwrap_or(DEFAULT_TAG).to_owned(),
        }
    }

    fn suffix(&self) -> String {
        let tag = self.tag.iter().map(|tag| format!(":{tag}"));
        tag.chain(self.digest.iter().map(|digest| format!("@{digest}"))).collect()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.host, self.repository, self.suffix())
    }
}

impl FromStr for Name {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon before the last slash is a port's.
        let (name, tag) = match name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((name, tag)) => (name, Some(tag)),
            None => (name, None),
        };
        if text.len() == 64 && text.bytes().all(is_hex_digit) {
            bail!("{text:?} is not a name: 64 hex digits are an image's ID");
        }
        let (host, repository) = split_host(name);
        let repository = check_repository(host, repository)?;
        if host == DOCKER_HUB && repository == RESERVED {
            bail!("{text:?} is not a name: sha256:... is an image's ID");
        }
        if !is_host(host) {
            bail!("{host:?} is not a registry's name (HOST or HOST:PORT)");
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            bail!("{tag:?} is not a tag: letters, digits, `_`, `.` and `-`, at most {MAX_TAG}");
        }
        let tag = tag.or(digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned);
        Ok(Self { host: host.to_owned(), repository, tag, digest })
    }
}

/// The part before the first slash is a host if it can be nothing else: it has a dot, a port, or capitals, or is
/// `localhost`.
fn split_host(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((OLD_DOCKER_HUB, rest)) => (DOCKER_HUB, rest),
        Some((host, rest))
            if host == "localhost"
                || host.contains(['.', ':'])
                || host.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (host, rest)
        }
        _ => (DOCKER_HUB, name),
    }
}

/// The repository, with Docker Hub's default namespace.
fn check_repository(host: &str, repository: &str) -> Result<String> {
    if repository.is_empty() {
        bail!("a name without a repository");
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        bail!("{repository:?} is not a repository: its name must be lower-case");
    }
    if !repository.split('/').all(is_component) {
        bail!(
            "{repository:?} is not a repository: letters and digits, with single `.`, `_`, `__` or some `-` between them, and `/`"
        );
    }
    let official = host == DOCKER_HUB && !repository.contains('/');
    let whole = if official { format!("{OFFICIAL}{repository}") } else { repository.to_owned() };
    if whole.len() > MAX_REPOSITORY {
        bail!("a repository's name of {} bytes, at most {MAX_REPOSITORY} are allowed", whole.len());
    }
    Ok(whole)
}

/// `[a-z0-9]+` with separators between: `.`, `_`, `__`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().zip(bytes.last()).is_some_and(|(&a, &z)| alphanumeric(a) && alphanumeric(z));
    let mut separators = text.split(|c: char| u8::try_from(c).is_ok_and(alphanumeric));
    ends && separators.all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    let address =
        |inner: &str| inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') && !inner.is_empty();
    let is_host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inner) => address(inner),
        None => host.split('.').all(label),
    };
    is_host && port.is_none_or(|p| p.parse::<u16>().is_ok() && !p.starts_with('+'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_hex_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:86e0e091d0da6bde2456dbb48306f3956bbeb2eae1b5b9a43045843f69fe4aaa";

    /// The cases are those of distribution/reference's own tests.
    #[test]
    fn names_normalise_as_dockers_do() {
        let long = format!("a/{}a", "a/".repeat(125));
        let full_long = format!("docker.io/{long}:latest");
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("redis:7", "docker.io/library/redis:7", "redis:7"),
            ("fooo/bar", "docker.io/fooo/bar:latest", "fooo/bar:latest"),
            ("index.docker.io/fooo/bar", "docker.io/fooo/bar:latest", "fooo/bar:latest"),
            ("library/ubuntu", "docker.io/library/ubuntu:latest", "ubuntu:latest"),
            ("index.docker.io/ubuntu-12.04-base", "docker.io/library/ubuntu-12.04-base:latest", ""),
            ("docker.io/foo", "docker.io/library/foo:latest", "foo:latest"),
            ("library/foo/bar", "docker.io/library/foo/bar:latest", "library/foo/bar:latest"),
            ("127.0.0.1:8000/privatebase", "127.0.0.1:8000/privatebase:latest", ""),
            ("example.com:8000/private/moonbase:A", "example.com:8000/private/moonbase:A", ""),
            ("example.com/library/x", "example.com/library/x:latest", "example.com/library/x:latest"),
            ("Foo/bar", "Foo/bar:latest", "Foo/bar:latest"),
            ("test_com/foo", "docker.io/test_com/foo:latest", "test_com/foo:latest"),
            ("xn--n3h.com:18080/foo", "xn--n3h.com:18080/foo:latest", ""),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("docker.io/localhost/x", "docker.io/localhost/x:latest", "docker.io/localhost/x:latest"),
            ("docker.io/a.b/x", "docker.io/a.b/x:latest", "docker.io/a.b/x:latest"),
            ("docker.io/docker.io/x", "docker.io/docker.io/x:latest", "docker.io/docker.io/x:latest"),
            ("test.com:5000", "docker.io/library/test.com:5000", "test.com:5000"),
            ("192.168.0.1:8/debian", "192.168.0.1:8/debian:latest", ""),
            ("[2001:db8::1]/repo:tag", "[2001:db8::1]/repo:tag", ""),
            ("[::1]:5000/repo", "[::1]:5000/repo:latest", ""),
            ("docker---rules/dock__er", "docker.io/docker---rules/dock__er:latest", ""),
            (
                "thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev",
                "docker.io/library/thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev:latest",
                "",
            ),
            (&long, &full_long, ""),
        ] {
            let name: Name = text.parse().unwrap_or_else(|e| panic!("{text:?}: {e:#}"));
            assert_eq!(name.to_string(), full);
            assert_eq!(full.parse::<Name>().unwrap(), name, "{full:?} is a fixed point");
            assert_eq!(name.familiar().parse::<Name>().unwrap(), name, "the familiar form is the same name");
            assert!(familiar.is_empty() || name.familiar() == familiar, "{}", name.familiar());
        }
    }

    #[test]
    fn a_digest_counts_more_than_a_tag() {
        let name: Name = format!("busybox:1.36@{DIGEST}").parse().unwrap();
        assert_eq!(name.to_string(), format!("docker.io/library/busybox:1.36@{DIGEST}"));
        assert_eq!(name.reference(), DIGEST);
        let name: Name = format!("test:5000/repo@{DIGEST}").parse().unwrap();
        assert_eq!((name.tag.as_deref(), name.reference()), (None, DIGEST.to_owned()));
        assert_eq!("x".parse::<Name>().unwrap().reference(), "latest");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let hex = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a";
        let long = format!("a/{}", "a/".repeat(127));
        let long_tag = format!("x:{}", "t".repeat(129));
        for (text, part) in [
            ("", "without a repository"),
            (":justtag", "without a repository"),
            ("docker/", "not a repository"),
            ("localhost/", "without a repository"),
            ("docker/Docker", "must be lower-case"),
            ("Uppercase:tag", "must be lower-case"),
            ("test:5000/Uppercase/lowercase:tag", "must be lower-case"),
            ("-docker", "not a repository"),
            ("docker-/docker", "not a repository"),
            ("docker///docker", "not a repository"),
            ("____/____", "not a repository"),
            ("dock..er/docker", "not a registry's name"),
            ("x/dock..er", "not a repository"),
            ("x/dock_.er", "not a repository"),
            ("x/dock-.er", "not a repository"),
            ("aa/asdf$$^/aa", "not a repository"),
            ("caf\u{e9}", "not a repository"),
            ("x\0y", "not a repository"),
            ("-docker.io/docker", "not a registry's name"),
            ("https://github.com/docker/docker", "not a repository"),
            ("[fe80::1%eth0]:5000/debian", "not a registry's name"),
            ("[2001:db8:3:4::192.0.2.33]:5000/debian", "not a registry's name"),
            ("[fc00::1]:5000", "not a repository"),
            ("fc00::1:5000/debian", "not a registry's name"),
            ("host:99999/x", "not a registry's name"),
            ("x:-foo", "not a tag"),
            ("x:", "not a tag"),
            (&long_tag, "not a tag"),
            (hex, "an image's ID"),
            ("sha256:1a3f", "an image's ID"),
            ("docker.io/sha256", "an image's ID"),
            (&long, "not a repository"),
            (&format!("{}a", "ab/".repeat(85)), "at most 255"),
            ("validname@invaliddigest:ff", "algorithm \"invaliddigest\" is not supported"),
            ("repo@sha256:ffffffffffffffffffffffffffffffffff", "malformed"),
            ("repo@", "not a digest"),
        ] {
            let error = text.parse::<Name>().map_or_else(|e| format!("{e:#}"), |n| panic!("{text:?} is {n}"));
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}

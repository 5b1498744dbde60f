//! `-v` and `--mount`: docker's words for what is mounted where.
//!
//! Source: docker's CLI, `opts/mount.go` and `cli/compose/loader/volume.go`, and its documentation of volumes and bind mounts. What
//! docker takes and has no meaning here is refused by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::nfs::{Driver, Export};
use super::{LEAST, check_name};
use crate::size;

/// The longest path that Linux takes, with its NUL, in bytes.
const LONGEST: usize = 4096;

/// Something that the user wants to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What.
    pub source: Source,
    /// Where: absolute, without `.`, `..` and needless slashes.
    pub target: String,
    /// Whether the container may not write to it.
    pub readonly: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A volume.
    Volume {
        /// None: one of its own, which goes with the container.
        name: Option<String>,
        /// Whether it is not filled from the image.
        nocopy: bool,
        /// Its size in bytes, if it matters.
        size: Option<u64>,
        /// What it is, if it is no disk.
        nfs: Option<Export>,
        /// The folder of it that is mounted, relative, if not all of it is.
        subpath: Option<String>,
        /// Labels that it gets when it is made.
        labels: BTreeMap<String, String>,
    },
    /// A folder of the host's, absolute.
    Bind(PathBuf),
    /// Memory.
    Tmpfs {
        /// The most bytes in it.
        size: Option<u64>,
        /// Its permissions.
        mode: Option<u32>,
    },
}

/// `[SOURCE:]PATH[:OPTIONS]`.
///
/// # Errors
/// It is no such thing; what it asks for cannot be done.
pub fn volume(text: &str) -> Result<Mount> {
    let parts: Vec<_> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [_, options] if is_options(options) => {
            bail!("{text:?}: options need a source, as in SOURCE:PATH:{options}")
        }
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => {
            bail!("{text:?} has too many colons for [SOURCE:]PATH[:OPTIONS]; --mount takes paths with colons")
        }
    };
    let target = place(target)?;
    let (mut readonly, mut nocopy) = (None, false);
    for option in options.split(',').filter(|_| parts.len() == 3) {
        match option {
            "ro" | "rw" if readonly.is_some() => bail!("{options:?}: of ro and rw one can be said, once"),
            "ro" => readonly = Some(true),
            "rw" => readonly = Some(false),
            "nocopy" => nocopy = true,
            "z" | "Z" => bail!(
                "option {option:?}: a containerVM's files have no SELinux labels of the host; leave it out"
            ),
            _ => bail!("unknown option {option:?}: ro, rw and nocopy are known"),
        }
    }
    let source = match source {
        Some(path) if path.starts_with(['/', '.']) => {
            ensure!(!nocopy, "option \"nocopy\" is for volumes, and {path:?} is a folder of the host");
            Source::Bind(folder(path)?)
        }
        name => Source::Volume {
            name: name.map(checked).transpose()?,
            nocopy,
            size: None,
            nfs: None,
            subpath: None,
            labels: BTreeMap::new(),
        },
    };
    Ok(Mount { source, target, readonly: readonly.unwrap_or(false) })
}

/// `type=...,source=...,target=...`.
///
/// # Errors
/// As [`volume`].
pub fn mount(text: &str) -> Result<Mount> {
    let mut words = Words::default();
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (&*field, None),
        };
        words.take(&key.to_ascii_lowercase(), value)?;
    }
    words.mount()
}

/// What stands in a `--mount`.
#[derive(Default)]
struct Words {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    readonly: bool,
    nocopy: bool,
    driver: Option<String>,
    options: BTreeMap<String, String>,
    subpath: Option<String>,
    labels: BTreeMap<String, String>,
    tmpfs_size: Option<u64>,
    tmpfs_mode: Option<u32>,
    /// The keys that are for one type only.
    special: Vec<String>,
}

impl Words {
    fn take(&mut self, key: &str, value: Option<&str>) -> Result<()> {
        if ["volume-", "bind-", "tmpfs-"].iter().any(|prefix| key.starts_with(prefix)) {
            self.special.push(key.to_owned());
        }
        let needed =
            || value.filter(|value| !value.is_empty()).with_context(|| format!("{key:?} needs a value"));
        match key {
            "type" => self.kind = Some(needed()?.to_ascii_lowercase()),
            "source" | "src" => self.source = Some(needed()?.to_owned()),
            "target" | "dst" | "destination" => self.target = Some(place(needed()?)?),
            "readonly" | "ro" => self.readonly = flag(key, value)?,
            "volume-nocopy" => self.nocopy = flag(key, value)?,
            "volume-opt" => {
                let (name, value) = driver_option(needed()?)?;
                self.options.insert(name, value);
            }
            "volume-label" => {
                let (name, value) = label(needed()?)?;
                self.labels.insert(name, value);
            }
            "volume-subpath" => self.subpath = Some(subpath(needed()?)?),
            "volume-driver" => self.driver = Some(needed()?.to_owned()),
            "tmpfs-size" => self.tmpfs_size = Some(size::parse(needed()?)?),
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(needed()?, 8).ok().filter(|mode| *mode <= 0o7777);
                self.tmpfs_mode = Some(
                    mode.with_context(|| format!("{:?} is no mode, such as 1777", value.unwrap_or("")))?,
                );
            }
            _ => bail!("{key:?} is not supported in --mount"),
        }
        Ok(())
    }

    fn mount(self) -> Result<Mount> {
        let kind = self.kind.as_deref().unwrap_or("volume");
        let target = self.target.context("--mount needs target=PATH")?;
        let prefix = format!("{kind}-");
        if let Some(key) = self.special.iter().find(|key| !key.starts_with(&prefix)) {
            bail!("{key:?} does not go with type={kind}");
        }
        let source = match (kind, self.source) {
            ("volume", name) => {
                let (size, nfs) = match Driver::new(self.driver.as_deref(), &self.options)? {
                    Driver::Disk(size) => (size, None),
                    Driver::Nfs(export) => (None, Some(export)),
                };
                let name = name.as_deref().map(checked).transpose()?;
                Source::Volume {
                    name,
                    nocopy: self.nocopy,
                    size,
                    nfs,
                    subpath: self.subpath,
                    labels: self.labels,
                }
            }
            ("bind", Some(path)) => Source::Bind(folder(&path)?),
            ("bind", None) => bail!("type=bind needs source=DIR"),
            ("tmpfs", None) => Source::Tmpfs { size: self.tmpfs_size, mode: self.tmpfs_mode },
            ("tmpfs", Some(_)) => bail!("type=tmpfs has no source"),
            _ => bail!("type {kind:?} is not supported: volume, bind and tmpfs are"),
        };
        Ok(Mount { source, target, readonly: self.readonly })
    }
}

/// The fields of a line of CSV (RFC 4180): one with a comma in it stands in quotation marks.
fn fields(text: &str) -> Result<Vec<String>> {
    let mut fields = vec![];
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                in_quotes(quoted).with_context(|| format!("{text:?}: a quotation mark is not closed"))?
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        ensure!(!field.is_empty(), "{text:?}: there is nothing between two commas");
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(fields),
            None => bail!("{text:?}: something follows a closed quotation mark"),
        }
    }
}

/// What stands before the closing mark (two of them mean one), and what follows it.
fn in_quotes(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Some((field, after)),
        }
    }
}

fn flag(key: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(value) => bail!("{key:?} is true or false, not {value:?}"),
    }
}

fn is_options(text: &str) -> bool {
    text.split(',').all(|option| matches!(option, "ro" | "rw" | "nocopy" | "z" | "Z"))
}

fn checked(name: &str) -> Result<String> {
    check_name(name).map(|()| name.to_owned())
}

/// A folder on a volume, relative, in its shortest form.
fn subpath(text: &str) -> Result<String> {
    ensure!(!text.starts_with('/') && text.len() < LONGEST, "volume-subpath {text:?} is not a relative path");
    let parts: Vec<_> = text.split('/').filter(|part| !["", "."].contains(part)).collect();
    ensure!(
        !parts.is_empty() && !parts.contains(&".."),
        "volume-subpath {text:?} is not a folder on the volume"
    );
    Ok(parts.join("/"))
}

/// A volume's label: `NAME[=VALUE]`.
///
/// # Errors
/// It has no name.
pub fn label(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    ensure!(!name.is_empty(), "label {text:?} has no name");
    Ok((name.to_owned(), value.to_owned()))
}

/// What a volume's driver is told: `NAME=VALUE`.
///
/// # Errors
/// It is no such thing.
pub fn driver_option(text: &str) -> Result<(String, String)> {
    let (name, value) =
        text.split_once('=').with_context(|| format!("volume-opt {text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A volume's size in bytes.
///
/// # Errors
/// It is none, or too small.
pub fn size_of_volume(text: &str) -> Result<u64> {
    let size = size::parse(text)?;
    ensure!(size >= LEAST, "a volume needs at least {} MiB", LEAST / size::MIB);
    // The kernel's limit of a file's length.
    ensure!(i64::try_from(size).is_ok(), "{text:?} is too large for a volume");
    // Whole blocks, of which its filesystem is made.
    Ok(size / 4096 * 4096)
}

/// A path in the container where something can be mounted, in its shortest form.
///
/// # Errors
/// It is not absolute, or is the kernel's: what a container has there is needed by all that runs in it.
pub fn place(text: &str) -> Result<String> {
    ensure!(text.starts_with('/'), "{text:?} is not an absolute path in the container");
    ensure!(
        text.len() < LONGEST && !text.contains('\0'),
        "a path in the container is too long, or holds a NUL"
    );
    let mut parts = vec![];
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    ensure!(!parts.is_empty(), "{text:?} is the container's root: nothing can be mounted there");
    let kernels = matches!(parts[..], ["proc", ..] | ["sys"] | ["dev"]);
    ensure!(!kernels, "{text:?} is the kernel's in every container: nothing else can be mounted there");
    Ok(format!("/{}", parts.join("/")))
}

/// A path on the host, absolute.
fn folder(text: &str) -> Result<PathBuf> {
    ensure!(!text.contains('\0'), "{text:?} holds a NUL");
    ensure!(text.starts_with(['/', '.']), "{text:?} is not an absolute path on the host, nor begins with ./");
    std::path::absolute(text).with_context(|| format!("cannot make {text:?} absolute"))
}

#[cfg(test)]
mod tests;

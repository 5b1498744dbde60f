//! One template: what is in its folder, and whether that is as it was written.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, ensure};
use image_builder::digest::Digest;
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use super::digests::Digests;
use super::machine::Key;
use super::{PENDING, Thaw, is_id};

pub(super) const RECORD: &str = "template.json";
pub(super) const MEMORY: &str = "memory";
pub(super) const STATE: &str = "state";
/// The largest state that is read, in bytes: it has some 400,000.
const MOST_STATE: u64 = 64 << 20;
/// A disk is full on which less is left, in bytes.
pub(super) const FULL: u64 = 1 << 20;

/// One of the templates of a store.
#[derive(Clone, Debug)]
pub struct Template {
    /// Its folder.
    pub dir: PathBuf,
    /// What it is.
    pub record: Record,
}

/// What is written down of a template. Written last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Record {
    /// Its folder's name.
    pub id: String,
    /// As the user calls it, if at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it was frozen: seconds since 1970.
    pub created: u64,
    /// QEMU's version, as it says it.
    pub qemu: String,
    /// What its copies must have in common with it.
    pub key: Key,
    /// The files whose digests are in the key.
    pub files: BTreeMap<String, PathBuf>,
    /// The memory: bytes, and when it was last written to, in nanoseconds since 1970. (To read all of it would take longer than to
    /// boot.)
    pub memory: (u64, i64),
    /// The state: bytes, and SHA-256.
    pub state: (u64, String),
}

/// What is left of a template that cannot be used: of one whose making did not come to its end, or that cannot be read.
#[derive(Clone, Debug)]
pub struct Remains {
    /// Its folder's name.
    pub name: String,
    /// What is wrong with it.
    pub trouble: String,
    pub(super) dir: PathBuf,
}

impl Template {
    /// Opens its files, if they are as they were written.
    ///
    /// # Errors
    /// They are not.
    pub fn open(&self) -> Result<Thaw> {
        let open = |name, writable| {
            let path = self.dir.join(name);
            let file = OpenOptions::new().read(true).write(writable).open(&path);
            file.with_context(|| format!("cannot open {}", path.display()))
        };
        // QEMU opens it for writing, too, and writes nothing to it.
        let (memory, state) = (open(MEMORY, true)?, open(STATE, false)?);
        let found = written(&memory)?;
        ensure!(
            found == self.record.memory,
            "its memory was changed: {found:?}, not {:?}",
            self.record.memory
        );
        ensure!(digest(&state)? == self.record.state, "its state was changed");
        Thaw::new(self.record.clone(), memory, state)
    }

    /// What would keep all from using it: a file that it was made of is another one now, or its own are.
    pub fn trouble(&self, digests: &mut Digests) -> Option<String> {
        for (what, path) in &self.record.files {
            match digests.digest(path) {
                Err(error) => return Some(format!("{error:#}")),
                Ok(digest) if self.record.key.digests.get(what) != Some(&digest) => {
                    return Some(format!("{} is another {what} now", path.display()));
                }
                Ok(_) => {}
            }
        }
        self.open().err().map(|error| format!("{error:#}"))
    }

    /// What it takes on the host's disk, in bytes.
    pub fn size(&self) -> u64 {
        size(&self.dir)
    }
}

impl Remains {
    /// Whether it was a template once.
    pub fn is_template(&self) -> bool {
        is_id(&self.name)
    }

    /// What it takes on the host's disk, in bytes.
    pub fn size(&self) -> u64 {
        size(&self.dir)
    }
}

/// What a template in this folder takes on the host's disk, in bytes.
fn size(dir: &Path) -> u64 {
    let size = |name| fs::metadata(dir.join(name)).map_or(0, |file| file.blocks() * 512);
    size(MEMORY) + size(STATE)
}

/// Bytes that are free on the disk of this folder.
pub(super) fn free(dir: &Path) -> Result<u64> {
    let disk = statvfs(dir)?;
    Ok(disk.blocks_available() * disk.fragment_size())
}

/// Why no template could be made, where that is for want of room: QEMU only dies of SIGBUS, for its memory is a file.
pub(super) fn with_room(error: Error, free: u64, dir: &Path) -> Error {
    if free > FULL {
        return error;
    }
    let place = dir.parent().unwrap_or(dir).display();
    error.context(format!("there is no room for it in {place}, of which {free} bytes are left"))
}

/// Bytes of a file, and when it was last written to.
pub(super) fn written(file: &File) -> Result<(u64, i64)> {
    let metadata = file.metadata().context("cannot look at a template's memory")?;
    let time = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
    Ok((metadata.len(), time))
}

/// Bytes of a file, and their SHA-256.
pub(super) fn digest(file: &File) -> Result<(u64, String)> {
    use std::os::unix::fs::FileExt;
    let length = file.metadata().context("cannot look at a template's state")?.len();
    ensure!(length <= MOST_STATE, "a template's state has {length} bytes");
    let mut bytes = vec![0; usize::try_from(length)?];
    file.read_exact_at(&mut bytes, 0).context("cannot read a template's state")?;
    Ok((length, Digest::of(&bytes).hex()))
}

/// Removes what someone has left who did not come to its end.
pub(super) fn clear(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a record down, in the place of what is there.
pub(super) fn keep(dir: &Path, record: &Record) -> Result<()> {
    let write = || {
        let pending = dir.join(format!("{PENDING}{RECORD}"));
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&pending)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(&pending, dir.join(RECORD))?;
        File::open(dir)?.sync_all()?;
        anyhow::Ok(())
    };
    write().with_context(|| format!("cannot write down what is in {}", dir.display()))
}

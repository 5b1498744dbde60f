//! What large files are, without reading them each time: of each that was read, its digest is kept by what the filesystem says
//! of it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use image_builder::digest::Hasher;

use crate::containers::private_dir;

const FILE: &str = ".digests.json";
/// The most that are kept; then it begins anew.
const MOST: usize = 256;
/// A file that was changed less than so long ago may be changed again, and look the same.
const SETTLED: Duration = Duration::from_secs(2);
/// Read at a time.
const CHUNK: usize = 1 << 20;

/// Digests, in hex, by what the filesystem says of the files.
pub struct Digests {
    path: PathBuf,
    known: BTreeMap<String, String>,
}

impl Digests {
    /// Those that are kept in `dir`. If they cannot be read, none is known.
    pub fn of(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let known = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { path, known: known.unwrap_or_default() }
    }

    /// The SHA-256 of what is in the file `path`, in hex.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn digest(&mut self, path: &Path) -> Result<String> {
        let read = || -> Result<_> {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            let identity = format!(
                "{}:{}:{}:{}.{:09}:{}.{:09}",
                metadata.dev(),
                metadata.ino(),
                metadata.len(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec()
            );
            if let Some(digest) = self.known.get(&identity) {
                return Ok((digest.clone(), None));
            }
            let age = SystemTime::now().duration_since(metadata.modified()?).unwrap_or_default();
            let digest = hash(file)?;
            Ok((digest, (age > SETTLED).then_some(identity)))
        };
        let (digest, identity) = read().with_context(|| format!("cannot read {}", path.display()))?;
        if let Some(identity) = identity {
            if self.known.len() >= MOST {
                self.known.clear();
            }
            self.known.insert(identity, digest.clone());
            // If it cannot be kept, it is read again.
            let _slower = self.keep();
        }
        Ok(digest)
    }

    fn keep(&self) -> Result<()> {
        private_dir(self.path.parent().context("a file is in a folder")?, true)?;
        let pending = self.path.with_extension(format!("{}", std::process::id()));
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&pending)?;
        file.write_all(&serde_json::to_vec(&self.known)?)?;
        Ok(fs::rename(&pending, &self.path)?)
    }
}

fn hash(mut file: File) -> Result<String> {
    let (mut hasher, mut chunk) = (Hasher::default(), vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hasher.finish().0.hex()),
            count => hasher.update(&chunk[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_builder::digest::Digest;

    #[test]
    fn a_file_that_was_changed_has_another_digest() {
        let dir = tempfile::tempdir().unwrap();
        let (file, cache) = (dir.path().join("file"), dir.path().join("cache"));
        fs::write(&file, "one").unwrap();
        let of = |text: &str| Digest::of(text.as_bytes()).hex();
        assert_eq!(Digests::of(&cache).digest(&file).unwrap(), of("one"));
        // It is new: nothing is kept of it.
        assert!(!cache.exists());
        let old = SystemTime::now() - Duration::from_secs(60);
        File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        assert_eq!(Digests::of(&cache).digest(&file).unwrap(), of("one"));
        let kept = Digests::of(&cache);
        assert_eq!(kept.known.values().collect::<Vec<_>>(), [&of("one")]);
        // Same length, same time of modification: only the change itself has another time.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&file, "two").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        assert_eq!(Digests::of(&cache).digest(&file).unwrap(), of("two"));
        fs::write(cache.join(FILE), "not json").unwrap();
        assert_eq!(Digests::of(&cache).digest(&file).unwrap(), of("two"));
        assert!(Digests::of(&cache).digest(&dir.path().join("none")).is_err());
    }
}

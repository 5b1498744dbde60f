//! Where things are.

use std::env;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The checkout and its target directory, absolute.
pub struct Workspace {
    /// The directory with the workspace's Cargo.toml.
    pub root: PathBuf,
    /// `target`, or what CARGO_TARGET_DIR says.
    pub target: PathBuf,
}

impl Workspace {
    /// Cargo tells where the sources of this program are; without cargo, where they were when it was built.
    pub fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest).join("..");
        let root = root.canonicalize().with_context(|| format!("looking for {}", root.display()))?;
        let target = env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into());
        let target = env::current_dir().context("looking for the current directory")?.join(target);
        let target = if env::var_os("CARGO_TARGET_DIR").is_some() { target } else { root.join("target") };
        Ok(Self { root, target })
    }

    /// What a containerVM boots from: kernel, initramfs, ISO.
    pub fn bootstrap(&self) -> PathBuf {
        self.target.join("bootstrap")
    }

    /// The host tool.
    pub fn vch(&self) -> PathBuf {
        self.target.join("release/vch")
    }

    /// The default image, an OCI layout.
    pub fn image(&self) -> PathBuf {
        self.target.join("images/busybox")
    }

    /// Reads a text file under `iso/`.
    pub fn iso_data(&self, name: &str) -> Result<String> {
        let file = self.root.join("iso").join(name);
        fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
    }
}

/// Whether `output` has to be made (again): it is missing, or older than one of `inputs`.
///
/// This program counts as an input: other code may give another output. What a package manager installs has the time of its
/// making, which may be long ago: when it came into its place counts, too.
pub fn is_stale(output: &Path, inputs: &[&Path]) -> Result<bool> {
    let metadata = |path: &Path| fs::metadata(path).with_context(|| format!("looking at {}", path.display()));
    let modified = |of: &Metadata| (of.mtime(), of.mtime_nsec());
    if !output.exists() {
        return Ok(true);
    }
    let made = modified(&metadata(output)?);
    for input in inputs {
        let of = metadata(input)?;
        if modified(&of).max((of.ctime(), of.ctime_nsec())) > made {
            return Ok(true);
        }
    }
    let program = env::current_exe().context("looking for this program")?;
    Ok(modified(&metadata(&program)?) > made)
}

/// Writes `bytes` so that `path` never holds half of them.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = path.with_extension("new");
    fs::write(&draft, bytes).with_context(|| format!("writing {}", draft.display()))?;
    fs::rename(&draft, path).with_context(|| format!("moving {} into place", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn stale_is_missing_or_older() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        fs::write(&input, "").unwrap();
        assert!(is_stale(&output, &[&input]).unwrap());
        write(&output, b"made").unwrap();
        assert!(!is_stale(&output, &[&input]).unwrap());
        let later = SystemTime::now() + Duration::from_secs(5);
        fs::File::open(&input).unwrap().set_modified(later).unwrap();
        assert!(is_stale(&output, &[&input]).unwrap());
        assert!(is_stale(&output, &[&dir.path().join("gone")]).is_err());

        write(&output, b"made again").unwrap();
        let old = dir.path().join("old");
        fs::File::create(&old).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        // The kernel's clock for files goes in steps.
        std::thread::sleep(Duration::from_millis(50));
        fs::rename(&old, &input).unwrap();
        assert!(is_stale(&output, &[&input]).unwrap(), "it is old, but has just come");
    }
}

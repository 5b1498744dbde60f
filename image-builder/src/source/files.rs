//! Where the files of a layout or of `docker save` are: in a folder, or in an archive.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::image::{Blob, Stream};

/// Files by their name, as `blobs/sha256/...`.
pub trait Files: Send + Sync {
    /// The file `name` from its first byte.
    ///
    /// # Errors
    /// It is not there, is no regular file, or cannot be read.
    fn open(&self, name: &str) -> Result<Stream>;

    /// The file `name` as a blob, and its size in bytes.
    ///
    /// # Errors
    /// It is not there.
    fn blob(&self, name: &str) -> Result<(Arc<dyn Blob>, u64)>;
}

/// A folder.
pub struct Folder(pub PathBuf);

impl Files for Folder {
    fn open(&self, name: &str) -> Result<Stream> {
        Ok(Box::new(open(&self.0.join(name))?))
    }

    fn blob(&self, name: &str) -> Result<(Arc<dyn Blob>, u64)> {
        let path = self.0.join(name);
        let size = std::fs::metadata(&path).with_context(|| format!("no blob {}", path.display()))?.len();
        Ok((Arc::new(BlobFile(path)), size))
    }
}

/// A blob that is a file.
#[derive(Debug)]
pub struct BlobFile(pub PathBuf);

impl Blob for BlobFile {
    fn open(&self) -> Result<Stream> {
        Ok(Box::new(open(&self.0)?))
    }
}

fn open(path: &Path) -> Result<File> {
    let shown = || format!("cannot open {}", path.display());
    // Looked at before it is opened: opening a FIFO would wait for ever.
    if !std::fs::metadata(path).with_context(shown)?.is_file() {
        bail!("{} is not a regular file", path.display());
    }
    File::open(path).with_context(shown)
}

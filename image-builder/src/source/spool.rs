//! Streams kept in a file without a name: an archive must be read in any order.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

const BUFFER: usize = 256 << 10;

/// All of `stream`, at most `max` bytes, in a file on the filesystem of `dir`, which is made if it is not there.
///
/// # Errors
/// The stream cannot be read, is longer than `max`, or does not fit.
pub fn spool(stream: impl Read, dir: &Path, max: u64) -> Result<File> {
    let shown = || format!("cannot keep the archive in {}", dir.display());
    std::fs::create_dir_all(dir).with_context(shown)?;
    let mut file = tempfile::tempfile_in(dir).with_context(shown)?;
    let mut stream = stream.take(max.saturating_add(1));
    let (mut buffer, mut length) = (vec![0; BUFFER], 0);
    loop {
        let n = match stream.read(&mut buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            read => read.context("cannot read the archive")?,
        };
        if n == 0 {
            return Ok(file);
        }
        length += n as u64;
        if length > max {
            bail!(
                "the archive is larger than {max} bytes uncompressed, the most that is allowed (--max-size)"
            );
        }
        file.write_all(&buffer[..n]).with_context(shown)?;
    }
}

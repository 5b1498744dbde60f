//! From a blob to its tar stream, checked. Three threads, so that two processors are busy: one reads and hashes the
//! blob (it may come from a slow place), one inflates, and the caller's hashes the tar stream and consumes it.

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result, anyhow, bail};

use super::pipe::{PipeWriter, pipe};
use crate::compression::{Compression, decompress};
use crate::digest::{Digest, Hasher};
use crate::image::{Layer, Stream};

/// Gives `consume` the uncompressed tar stream of `layer`, read from `blob`; what it leaves unread is read after it.
/// `progress` is told the blob's bytes done, and its size where that is known.
///
/// # Errors
/// The blob cannot be read, its size or digest are not the layer's, it cannot be inflated: these are told rather than
/// what `consume` makes of the wrong bytes. Then `consume`'s; then, a diffID that is not the layer's.
pub fn unpack<T>(
    blob: Stream,
    layer: &Layer,
    progress: &mut dyn FnMut(u64, Option<u64>),
    consume: impl FnOnce(&mut dyn BufRead) -> Result<T>,
) -> Result<T> {
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        let (full, mut stream) = pipe();
        let reader = scope.spawn(|| read(blob, layer.size, full, &done));
        // An uncompressed blob is the tar stream, its digest the diffID: nothing to inflate, nothing to hash twice.
        let compressed = !matches!(Compression::detect(stream.fill_buf()?), Ok(Compression::None));
        let inflater = compressed.then(|| {
            let (full, tar) = pipe();
            let blob = std::mem::replace(&mut stream, tar);
            scope.spawn(|| full.send_all(decompress(blob)?.1, |_| {}))
        });
        let mut hash = Hasher::default();
        let mut tar = stream.watched(|chunk| {
            if compressed {
                hash.update(chunk);
            }
            progress(done.load(Ordering::Relaxed), layer.size);
        });
        let consumed = consume(&mut tar);
        if consumed.is_ok() {
            io::copy(&mut tar, &mut io::sink()).context("cannot read the tar stream")?;
        }
        drop(tar); // so that nobody goes on inflating what nobody wants: it may be endless
        let inflated = inflater.map(join).transpose()?;
        let (digest, size) = join(reader)?.context("cannot read its blob")?;
        check_blob(layer, digest, size)?;
        inflated.transpose().context("cannot inflate its blob")?;
        let consumed = consumed?;
        let diff_id = if compressed { hash.finish().0 } else { digest };
        if diff_id != layer.diff_id {
            bail!(
                "its content is not what the config says: expected diffID {}, found {diff_id}",
                layer.diff_id
            );
        }
        Ok(consumed)
    })
}

/// Reads the blob to its end, also when nobody wants more of it: its digest tells whether what came was right.
fn read(blob: Stream, size: Option<u64>, full: PipeWriter, done: &AtomicU64) -> io::Result<(Digest, u64)> {
    // One byte more than the manifest says is enough to see that it lies.
    let mut blob = blob.take(size.map_or(u64::MAX, |size| size.saturating_add(1)));
    let mut hash = Hasher::default();
    full.send_all(&mut blob, |chunk| {
        hash.update(chunk);
        done.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    })?;
    io::copy(&mut blob, &mut hash)?;
    Ok(hash.finish())
}

/// Size and digest tell most about what went wrong, so they speak first.
fn check_blob(layer: &Layer, digest: Digest, size: u64) -> Result<()> {
    if let Some(expected) = layer.size.filter(|&expected| expected != size) {
        bail!("its blob has {size} bytes, the manifest says {expected}");
    }
    if let Some(expected) = layer.digest.filter(|&expected| expected != digest) {
        bail!("its blob is damaged: expected {expected}, found {digest}");
    }
    Ok(())
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread that unpacks the layer panicked"))
}

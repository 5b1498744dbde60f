//! From a blob to its tar stream, checked. Two threads, so that two processors are busy: one reads, hashes and inflates
//! the blob, the caller's hashes the tar stream and consumes it. (A third, for the blob's hash, takes more for the
//! hand-overs than it gives.)

use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use super::pipe::{CHUNK, PipeWriter, pipe};
use crate::compression::{Compression, decompress};
use crate::digest::{Digest, Hasher};
use crate::image::{Layer, Stream};

/// Gives `consume` the uncompressed tar stream of `layer`, read from `blob`; what it leaves unread is read after it.
/// `progress` is told the blob's bytes done, and its size where that is known.
///
/// # Errors
/// The blob cannot be read, its size or digest are not the layer's, it cannot be inflated: these are told rather than
/// what `consume` makes of the wrong bytes. Then `consume`'s; then, a diffID that is not the layer's. But an error of the
/// system's, such as a full disk, is none of the blob's, which is left as it is.
pub fn unpack<T>(
    blob: Stream,
    layer: &Layer,
    progress: &mut dyn FnMut(u64, Option<u64>),
    consume: impl FnOnce(&mut dyn BufRead) -> Result<T>,
) -> Result<T> {
    let (done, unwanted) = (AtomicU64::new(0), AtomicBool::new(false));
    // One byte more than the manifest says is enough to see that it lies.
    let blob = blob.take(layer.size.map_or(u64::MAX, |size| size.saturating_add(1)));
    let blob =
        Hashing { inner: blob, hash: Hasher::default(), done: &done, unwanted: &unwanted, failed: None };
    let mut blob = BufReader::with_capacity(CHUNK, blob);
    // An uncompressed blob is the tar stream, its digest the diffID: it is not hashed twice.
    let head = blob.fill_buf().context("cannot read its blob")?;
    let compressed = !matches!(Compression::detect(head), Ok(Compression::None));
    thread::scope(|scope| {
        let (full, tar) = pipe();
        let inflater = scope.spawn(move || inflate(blob, full));
        let mut hash = Hasher::default();
        let mut tar = tar.watched(|chunk| {
            if compressed {
                hash.update(chunk);
            }
            progress(done.load(Ordering::Relaxed), layer.size);
        });
        let consumed = consume(&mut tar);
        if consumed.is_ok() {
            io::copy(&mut tar, &mut io::sink()).context("cannot read the tar stream")?;
        }
        if consumed.as_ref().is_err_and(is_the_systems) {
            unwanted.store(true, Ordering::Relaxed);
        }
        drop(tar); // so that nobody goes on inflating what nobody wants: it may be endless
        let inflater = inflater.join().map_err(|_| anyhow!("the inflating thread panicked"))?;
        if unwanted.load(Ordering::Relaxed) {
            return consumed;
        }
        let (digest, size, inflated) = inflater.context("cannot read its blob")?;
        check_blob(layer, digest, size)?;
        inflated.context("cannot inflate its blob")?;
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

/// Sends the tar stream. Gives the blob's digest and size, and whether it could be inflated; for those two it is read to
/// its end, also when nobody wants more of it.
fn inflate<R: Read + Send>(
    mut blob: BufReader<Hashing<'_, R>>,
    full: PipeWriter,
) -> io::Result<(Digest, u64, io::Result<()>)> {
    let inflated = decompress(&mut blob).and_then(|(_, tar)| full.send_all(tar));
    io::copy(&mut blob, &mut io::sink())?;
    let (digest, size) = blob.into_inner().hash.finish();
    Ok((digest, size, inflated))
}

/// The blob on its way: hashed, and counted for the progress.
struct Hashing<'a, R> {
    inner: R,
    hash: Hasher,
    done: &'a AtomicU64,
    /// No more of it.
    unwanted: &'a AtomicBool,
    /// An error, which stays: what is inflated sees it first, but it is the blob's.
    failed: Option<(io::ErrorKind, String)>,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.unwanted.load(Ordering::Relaxed) {
            return Ok(0);
        }
        if let Some((kind, message)) = &self.failed {
            return Err(io::Error::new(*kind, message.clone()));
        }
        let n = self.inner.read(buf).inspect_err(|e| {
            if e.kind() != io::ErrorKind::Interrupted {
                self.failed = Some((e.kind(), e.to_string()));
            }
        })?;
        self.hash.update(&buf[..n]);
        self.done.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The tar stream itself comes from a pipe of ours, which has no such errors.
fn is_the_systems(error: &anyhow::Error) -> bool {
    let of_the_system = |e: &io::Error| e.raw_os_error().is_some();
    error.chain().any(|cause| cause.downcast_ref().is_some_and(of_the_system))
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

/// Else all of a large layer would come over the network before the user is told.
#[test]
fn a_full_disk_is_told_at_once() {
    let blob = std::sync::Arc::new(crate::source::BlobFile("/dev/zero".into()));
    let layer = Layer { diff_id: Digest::of(b""), digest: None, size: None, blob };
    let full = |_: &mut dyn BufRead| -> Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOSPC)).context("cannot write the disk")
    };
    // Endless: whoever reads on does not come back.
    let error = unpack(Box::new(io::repeat(0)), &layer, &mut |_, _| {}, full).unwrap_err();
    assert_eq!(error.to_string(), "cannot write the disk");
}

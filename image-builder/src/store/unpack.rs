//! From a blob to its tar stream: inflated on a thread of its own, hashed on both sides, and checked.

use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use crate::compression::decompress;
use crate::digest::{Digest, HashingReader};
use crate::image::{Layer, Stream};

/// Size of the pieces that go from thread to thread, and of reads.
const CHUNK: usize = 256 << 10;
/// Pieces under way, at most.
const CHUNKS: usize = 8;

/// Gives `consume` the uncompressed tar stream of `layer`, read from `blob`; what it leaves unread is read after it.
/// `progress` is told the blob's bytes done, and its size where that is known.
///
/// # Errors
/// The blob's size or digest or the diffID are not the layer's (this is told rather than what `consume` makes of
/// the wrong bytes); the blob cannot be read or inflated; `consume`'s.
pub fn unpack<T>(
    blob: Stream,
    layer: &Layer,
    progress: &mut dyn FnMut(u64, Option<u64>),
    consume: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        let (full, chunks) = sync_channel(CHUNKS);
        let (recycle, empty) = channel();
        let done = &done;
        let inflater = scope.spawn(move || inflate(blob, layer, done, full, empty));
        let report = || progress(done.load(Ordering::Relaxed), layer.size);
        let mut tar =
            HashingReader::new(ChunkReader { chunks, recycle, current: Vec::new(), used: 0, report });
        let consumed = consume(&mut tar);
        let (diff_id, _) = tar.finish()?;
        let blob = inflater.join().map_err(|_| anyhow!("the inflating thread panicked"))?;
        blob?.verify(layer)?;
        if diff_id != layer.diff_id {
            bail!(
                "its content is not what the config says: expected diffID {}, found {diff_id}",
                layer.diff_id
            );
        }
        consumed
    })
}

/// What the inflating thread saw.
struct Inflated {
    size: u64,
    digest: Digest,
    result: io::Result<()>,
}

impl Inflated {
    /// Size and digest tell most about what went wrong, so they speak first.
    fn verify(self, layer: &Layer) -> Result<()> {
        if let Some(size) = layer.size.filter(|&size| size != self.size) {
            bail!("its blob has {} bytes, the manifest says {size}", self.size);
        }
        if let Some(digest) = layer.digest.filter(|&digest| digest != self.digest) {
            bail!("its blob is damaged: expected {digest}, found {}", self.digest);
        }
        self.result.context("cannot inflate its blob")
    }
}

/// Sends the uncompressed stream in chunks; reads the blob to its end in any case.
fn inflate(
    blob: Stream,
    layer: &Layer,
    done: &AtomicU64,
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
) -> Result<Inflated> {
    // One byte more than the manifest says is enough to see that it lies.
    let mut blob = HashingReader::new(Counted {
        inner: blob.take(layer.size.map_or(u64::MAX, |size| size.saturating_add(1))),
        done,
    });
    let result = decompress(BufReader::with_capacity(CHUNK, &mut blob))
        .and_then(|(_, mut tar)| send_all(&mut tar, &full, &empty));
    drop(full);
    let (digest, size) = blob.finish().context("cannot read its blob")?;
    Ok(Inflated { size, digest, result })
}

fn send_all(stream: &mut impl Read, full: &SyncSender<Vec<u8>>, empty: &Receiver<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let filled = fill(stream, &mut chunk)?;
        chunk.truncate(filled);
        if full.send(chunk).is_err() || filled < CHUNK {
            return Ok(());
        }
    }
}

/// Reads until `chunk` is full or the stream ends.
fn fill(stream: &mut impl Read, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match stream.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Counts what is read of the blob, for the progress.
struct Counted<'a, R> {
    inner: R,
    done: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.done.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The receiving end as a stream. Emptied chunks go back, so that their memory is used again.
struct ChunkReader<F> {
    chunks: Receiver<Vec<u8>>,
    recycle: Sender<Vec<u8>>,
    current: Vec<u8>,
    used: usize,
    report: F,
}

impl<F: FnMut()> Read for ChunkReader<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.used == self.current.len() {
            (self.report)();
            // A closed channel is the end of the stream, or of what could be inflated: `unpack` knows which.
            let Ok(next) = self.chunks.recv() else { return Ok(0) };
            let emptied = std::mem::replace(&mut self.current, next);
            self.used = 0;
            let _inflater_may_be_done = self.recycle.send(emptied);
        }
        let n = buf.len().min(self.current.len() - self.used);
        buf[..n].copy_from_slice(&self.current[self.used..][..n]);
        self.used += n;
        Ok(n)
    }
}

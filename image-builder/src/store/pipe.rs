//! A stream from one thread to another, in chunks. It holds a bounded number of them, and once all have been around it
//! allocates nothing: emptied ones go back to be filled again.
//!
//! Putting a thread to sleep and waking it costs as much as some kilobytes of work. So neither end is woken for a single
//! chunk: the reader sleeps until the pipe is half full, the writer until it is half empty.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes in a chunk: so many that handing them over does not show, so few that they stay in the processor's cache.
pub const CHUNK: usize = 256 << 10;
/// Chunks on their way, at most.
pub const CHUNKS: usize = 8;

/// A new pipe.
pub fn pipe() -> (PipeWriter, PipeReader) {
    let shared = Arc::new(Shared::default());
    (PipeWriter(shared.clone()), PipeReader { shared, current: Vec::new(), used: 0 })
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Only one end ever waits: the reader of an empty pipe, or the writer of a full one.
    turned: Condvar,
}

#[derive(Default)]
struct State {
    full: VecDeque<Vec<u8>>,
    empty: Vec<Vec<u8>>,
    /// One end is gone.
    ended: bool,
}

impl Shared {
    /// Nothing that can panic runs with the lock held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, State>,
        condition: fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.turned.wait_while(state, |state| !state.ended && condition(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.lock().ended = true;
        self.turned.notify_one();
    }

    /// False: nobody reads any more.
    fn push(&self, chunk: Vec<u8>) -> bool {
        let mut state = self.lock();
        if state.full.len() == CHUNKS {
            state = self.wait_while(state, |state| state.full.len() > CHUNKS / 2);
        }
        state.full.push_back(chunk);
        if state.full.len() == CHUNKS / 2 {
            self.turned.notify_one();
        }
        !state.ended
    }

    /// The next chunk, in exchange for one that is used up; `None` at the end.
    fn exchange(&self, used: Vec<u8>) -> Option<Vec<u8>> {
        let mut state = self.lock();
        state.empty.push(used);
        if state.full.is_empty() {
            state = self.wait_while(state, |state| state.full.len() < CHUNKS / 2);
        }
        let chunk = state.full.pop_front();
        if state.full.len() == CHUNKS / 2 {
            self.turned.notify_one();
        }
        chunk
    }
}

/// The end that is filled.
pub struct PipeWriter(Arc<Shared>);

impl PipeWriter {
    /// Sends all of `stream`, or as much of it as somebody reads.
    ///
    /// # Errors
    /// Those of `stream`; to the reader they are its end.
    pub fn send_all(self, mut stream: impl Read) -> io::Result<()> {
        loop {
            let mut chunk = self.0.lock().empty.pop().unwrap_or_default();
            chunk.resize(CHUNK, 0);
            let filled = fill(&mut stream, &mut chunk)?;
            chunk.truncate(filled);
            if !self.0.push(chunk) || filled < CHUNK {
                return Ok(());
            }
        }
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.0.end();
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

/// The end that is read; its buffer is the chunk itself.
pub struct PipeReader {
    shared: Arc<Shared>,
    current: Vec<u8>,
    used: usize,
}

impl PipeReader {
    /// The same, and `look` sees each chunk once, before any of it is read.
    pub fn watched<F: FnMut(&[u8])>(self, look: F) -> Watched<F> {
        Watched { pipe: self, look }
    }

    fn is_used_up(&self) -> bool {
        self.used == self.current.len()
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.is_used_up() {
            let used = std::mem::take(&mut self.current);
            self.used = 0;
            // A writer that is gone is the end of the stream, or of what could be had of it: its thread knows which.
            self.current = self.shared.exchange(used).unwrap_or_default();
        }
        Ok(&self.current[self.used..])
    }

    fn consume(&mut self, n: usize) {
        self.used += n;
    }
}

impl Read for PipeReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buf)
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// See [`PipeReader::watched`].
pub struct Watched<F> {
    pipe: PipeReader,
    look: F,
}

impl<F: FnMut(&[u8])> BufRead for Watched<F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let new = self.pipe.is_used_up();
        let chunk = self.pipe.fill_buf()?;
        if new {
            (self.look)(chunk);
        }
        Ok(chunk)
    }

    fn consume(&mut self, n: usize) {
        self.pipe.consume(n);
    }
}

impl<F: FnMut(&[u8])> Read for Watched<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buf)
    }
}

fn read_buffered(stream: &mut impl BufRead, buf: &mut [u8]) -> io::Result<usize> {
    let n = stream.fill_buf()?.read(buf)?;
    stream.consume(n);
    Ok(n)
}

//! A queue of bytes that is always one contiguous slice.

/// An empty buffer larger than this gives its memory back.
const KEPT: usize = 1 << 20;

/// Bytes are appended at the back and consumed from the front. The front is reclaimed when the
/// buffer is empty or more than half of it is spent, so each byte is moved at most once on average.
#[derive(Default)]
pub(crate) struct Buffer {
    /// What is behind `end` is free, and was written before: it need not be cleared again.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.truncate(self.end);
        self.bytes.extend_from_slice(bytes);
        self.end = self.bytes.len();
    }

    /// Appends `count` zeros.
    pub(crate) fn pad(&mut self, count: usize) {
        self.bytes.truncate(self.end);
        self.end += count;
        self.bytes.resize(self.end, 0);
    }

    pub(crate) fn clear(&mut self) {
        self.consume(usize::MAX);
    }

    /// Drops the first `count` bytes; more than there are is all of them.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start.saturating_add(count));
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.capacity() > KEPT {
                self.bytes = Vec::new();
            }
        } else if self.start > self.end / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Appends what `read` puts into a room of `room` bytes; it says how many these are. An error appends nothing.
    pub(crate) fn append_with<E>(
        &mut self,
        room: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let most = self.end + room;
        if self.bytes.len() < most {
            self.bytes.resize(most, 0);
        }
        let used = match self.bytes.get_mut(self.end..most) {
            Some(free) => read(free)?.min(room),
            None => 0,
        };
        self.end += used;
        Ok(used)
    }
}

//! A queue of bytes that is always one contiguous slice.

/// Bytes are appended at the back and consumed from the front. The front is reclaimed when the
/// buffer is empty or more than half of it is spent, so each byte is moved at most once on average.
#[derive(Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Drops the first `count` bytes; more than there are is all of them.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.bytes.len().min(self.start.saturating_add(count));
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Appends what `write` puts into `head` + up to `room` bytes: `write` gets the room, says how
    /// much of it it used, and then `seal` may write the head. Using nothing, or failing, appends
    /// nothing.
    pub(crate) fn append_with<E>(
        &mut self,
        head: usize,
        room: usize,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
        seal: impl FnOnce(&mut [u8], usize),
    ) -> Result<usize, E> {
        let before = self.bytes.len();
        self.bytes.resize(before + head + room, 0);
        let result = match self.bytes.get_mut(before + head..) {
            Some(free) => write(free),
            None => Ok(0),
        };
        let used = match &result {
            Ok(used) => (*used).min(room),
            Err(_) => 0,
        };
        self.bytes.truncate(if used == 0 { before } else { before + head + used });
        if used > 0
            && let Some(header) = self.bytes.get_mut(before..before + head)
        {
            seal(header, used);
        }
        result
    }
}

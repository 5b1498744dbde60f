//! How far a layer is, on stderr.

use std::time::{Duration, Instant};

/// Says how far a layer is, once a second: what is done sooner says nothing.
pub struct Progress {
    what: String,
    last: Instant,
}

impl Progress {
    pub fn new(what: String) -> Self {
        Self { what, last: Instant::now() }
    }

    /// `done` of `total` bytes.
    pub fn show(&mut self, done: u64, total: Option<u64>) {
        if self.last.elapsed() >= Duration::from_secs(1) {
            self.last = Instant::now();
            let total = total.map_or(String::new(), |total| format!(" of {}", total / 1_000_000));
            eprintln!("{}: {}{total} MB", self.what, done / 1_000_000);
        }
    }
}

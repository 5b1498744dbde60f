//! What happened when, for the bench and for the curious.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use protocol::Step;
use serde_json::json;

use crate::exit::Outcome;

/// The host's steps since a start.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    /// The steps so far.
    pub steps: Vec<Step>,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self { start: Instant::now(), steps: Vec::new() }
    }

    /// Notes that `name` is done.
    pub fn step(&mut self, name: &str) {
        let at = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.steps.push(Step { name: name.to_owned(), at });
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

/// Writes an outcome's timelines to the file `path`: JSON with `guest`, `host` (steps, in nanoseconds) and `peakRss`
/// (KiB).
///
/// # Errors
/// The file cannot be written.
pub fn write(outcome: &Outcome, path: &Path) -> Result<()> {
    let json = json!({"guest": outcome.guest, "host": outcome.host, "peakRss": outcome.peak_rss});
    std::fs::write(path, format!("{json:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}

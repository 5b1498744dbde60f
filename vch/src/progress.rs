//! A line on stderr for work that takes longer than a second: kept up to date on a terminal, said once elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::stdio::Stdio;

/// Work shorter than this is not worth a word.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two updates.
const REFRESH: Duration = Duration::from_millis(200);
const MIB: u64 = 1 << 20;
/// Back to the start of the line, and clear it (ECMA-48 EL).
const CLEAR: &str = "\r\x1b[K";

/// The line.
pub struct Progress {
    next: Instant,
    shown: bool,
}

impl Progress {
    /// For work that began at `start`.
    pub fn new(start: Instant) -> Self {
        Self { next: start + PATIENCE, shown: false }
    }

    /// Says that `bytes` of `all` of layer number `layer` of `layers` are done.
    pub fn show(&mut self, stdio: &Stdio, layer: usize, layers: usize, bytes: u64, all: u64) {
        let terminal = stdio.stderr.is_terminal();
        if Instant::now() < self.next || (self.shown && !terminal) {
            return;
        }
        self.next = Instant::now() + REFRESH;
        self.shown = true;
        let text = format!("vch: making the disk of layer {layer} of {layers}");
        if terminal {
            stdio.tell(&format!("{CLEAR}{text}: {} of {} MiB", bytes / MIB, all / MIB));
        } else {
            stdio.tell(&format!("{text}\n"));
        }
    }

    /// Takes the line off a terminal.
    pub fn clear(&mut self, stdio: &Stdio) {
        if self.shown && stdio.stderr.is_terminal() {
            stdio.tell(CLEAR);
        }
    }
}

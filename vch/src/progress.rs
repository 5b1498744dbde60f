//! A line on stderr for work that takes longer than a second: kept up to date on a terminal, said once elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::image::LayerProgress;
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
    layers: BTreeMap<usize, LayerProgress>,
}

impl Progress {
    /// For work that began at `start`.
    pub fn new(start: Instant) -> Self {
        Self { next: start + PATIENCE, shown: false, layers: BTreeMap::new() }
    }

    /// When [`Progress::starting`] next has something to say.
    pub fn due(&self, stdio: &Stdio) -> Option<Instant> {
        stdio.stderr.is_terminal().then_some(self.next)
    }

    /// Says how far the layers are of which disks are made.
    pub fn building(&mut self, stdio: &Stdio, progress: LayerProgress) {
        self.layers.insert(progress.layer, progress);
        let terminal = stdio.stderr.is_terminal();
        if Instant::now() < self.next || (self.shown && !terminal) {
            return;
        }
        if !terminal {
            return self.tell(stdio, "vch: making layer disks\n");
        }
        let done: u64 = self.layers.values().map(|layer| layer.done).sum();
        // Of the layers that are begun: more may follow.
        let all: Option<u64> = self.layers.values().map(|layer| layer.total).sum();
        let all = all.map_or(String::new(), |all| format!(" of {}", all / MIB));
        let count = self.layers.len();
        let text = format!("vch: making layer disks: {count} begun, {}{all} MiB", done / MIB);
        self.tell(stdio, &format!("{CLEAR}{text}"));
    }

    /// Says for how many seconds the VM has been starting. Only to a terminal, where the words can be taken back:
    /// elsewhere stderr is the container's.
    pub fn starting(&mut self, stdio: &Stdio, seconds: f64) {
        if Instant::now() >= self.next && stdio.stderr.is_terminal() {
            self.tell(stdio, &format!("{CLEAR}vch: starting the VM: {seconds:.1} s"));
        }
    }

    fn tell(&mut self, stdio: &Stdio, text: &str) {
        self.next = Instant::now() + REFRESH;
        self.shown = true;
        stdio.tell(text);
    }

    /// Takes the line off a terminal.
    pub fn clear(&mut self, stdio: &Stdio) {
        if self.shown && stdio.stderr.is_terminal() {
            stdio.tell(CLEAR);
        }
        self.shown = false;
    }
}

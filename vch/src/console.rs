//! What the guest's serial console says: kept in lines, for the user's eyes and for the post-mortem.

use crate::text::harmless;

/// The longest line that is kept, in bytes.
const LINE: usize = 512;
/// What the kernel says when it gives up (`kernel/panic.c`).
const PANIC: &str = "Kernel panic - not syncing: ";

/// Reads the console's bytes.
#[derive(Default)]
pub struct Console {
    line: Vec<u8>,
    last: Option<String>,
    panic: Option<String>,
}

impl Console {
    /// Takes bytes and gives the lines that they complete, harmless to a terminal.
    pub fn receive(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                lines.extend(self.flush());
            } else if self.line.len() < LINE {
                self.line.push(*byte);
            }
        }
        lines
    }

    /// Ends the line that has begun.
    pub fn flush(&mut self) -> Option<String> {
        let line = harmless(&self.line, LINE);
        self.line.clear();
        if line.is_empty() {
            return None;
        }
        if self.panic.is_none()
            && let Some((_, reason)) = line.split_once(PANIC)
        {
            self.panic = Some(format!("{PANIC}{reason}"));
        }
        self.last = Some(line.clone());
        Some(line)
    }

    /// The line that says that the guest's kernel has given up.
    pub fn panic(&self) -> Option<&str> {
        self.panic.as_deref()
    }

    /// The last line that was not empty.
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_the_last_and_the_panic() {
        let mut console = Console::default();
        assert_eq!(console.receive(b"[    0.1] one\r\n[    0.2] Ker"), ["[    0.1] one"]);
        assert_eq!(console.panic(), None);
        let lines = console.receive(b"nel panic - not syncing: no \x1b[1minit\r\n\r\n---[ end");
        assert_eq!(lines, ["[    0.2] Kernel panic - not syncing: no ?[1minit"]);
        assert_eq!(console.panic(), Some("Kernel panic - not syncing: no ?[1minit"));
        assert_eq!(console.last(), Some("[    0.2] Kernel panic - not syncing: no ?[1minit"));
        assert_eq!(console.flush().as_deref(), Some("---[ end"));
        assert_eq!(console.last(), Some("---[ end"));
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut console = Console::default();
        for _ in 0..100 {
            assert!(console.receive(&[b'x'; 4096]).is_empty());
        }
        assert_eq!(console.receive(b"\n")[0].len(), LINE);
    }
}

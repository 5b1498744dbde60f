//! What the guest's serial console says: kept in lines, for the user's eyes and for the post-mortem.

use std::collections::VecDeque;

use crate::text::harmless;

/// The longest line that is kept, in bytes.
const LINE: usize = 512;
/// How many lines are kept.
const TAIL: usize = 30;
/// How many of them from a panic on.
const AFTER: usize = 20;
/// What the kernel says when it gives up (`kernel/panic.c`).
const PANIC: &str = "Kernel panic - not syncing: ";
/// What Linux says as an error on every machine without PCI, which a microvm is (`arch/x86/pci/legacy.c`): it explains nothing, and
/// would be the last word of each that goes on without another.
const ALWAYS: &str = "PCI: Fatal: No config space access function found";

/// Reads the console's bytes.
#[derive(Default)]
pub struct Console {
    line: Vec<u8>,
    /// The last lines that were not empty, nor those of every boot.
    tail: VecDeque<String>,
    /// How many lines of them there are from the panic on.
    after: usize,
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
        if line.ends_with(ALWAYS) {
            return Some(line);
        }
        // What a panic says first is worth more than the end of its trace.
        if self.after < AFTER {
            self.after += usize::from(self.panic.is_some());
            if self.tail.len() == TAIL {
                self.tail.pop_front();
            }
            self.tail.push_back(line.clone());
        }
        Some(line)
    }

    /// The line that says that the guest's kernel has given up.
    pub fn panic(&self) -> Option<&str> {
        self.panic.as_deref()
    }

    /// The last line that was not empty.
    pub fn last(&self) -> Option<&str> {
        self.tail.back().map(String::as_str)
    }

    /// The last ones, a few; if there was a panic, a few from there on.
    pub fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
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
    fn the_last_lines_or_those_of_the_panic() {
        let mut console = Console::default();
        let mut say = |count: usize| {
            (0..count).for_each(|number| drop(console.receive(format!("line {number}\n").as_bytes())));
            console.tail()
        };
        assert_eq!(say(3), ["line 0", "line 1", "line 2"]);
        assert_eq!(say(100), (100 - TAIL..100).map(|number| format!("line {number}")).collect::<Vec<_>>());
        console.receive(b"Kernel panic - not syncing: x\n");
        for number in 0..100 {
            console.receive(format!("trace {number}\n").as_bytes());
        }
        let tail = console.tail();
        assert_eq!(tail.len(), TAIL);
        assert_eq!(tail[TAIL - AFTER - 1..TAIL - AFTER + 1], ["line 99", "Kernel panic - not syncing: x"]);
        assert_eq!(tail.last().unwrap(), &format!("trace {}", AFTER - 2));
    }

    #[test]
    fn what_every_microvm_says_is_no_last_word() {
        let mut console = Console::default();
        assert_eq!(console.receive(format!("one\n[ 0.3] {ALWAYS}\n").as_bytes()).len(), 2);
        assert_eq!((console.last(), console.tail().len()), (Some("one"), 1));
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

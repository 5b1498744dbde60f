//! The QEMU Machine Protocol, as far as we need it: the greeting, `qmp_capabilities`, and four events.
//!
//! Source: QEMU's `docs/interop/qmp-spec.txt` and `qapi/`. Lines are JSON objects. The guest has no say in them but for
//! how many there are; still each is bounded.

use serde_json::Value;

/// The longest line that is kept, in bytes. Events are some 200.
const LINE: usize = 64 << 10;

/// What leaves negotiation mode, so that events come.
pub const CAPABILITIES: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";

/// An event that means something to us.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The machine stops: `SHUTDOWN`'s reason, such as `guest-shutdown`, `guest-reset` or `host-signal`.
    Shutdown(String),
    /// What QEMU was told to do it does not: why, for people.
    Refused(String),
    /// Someone presses the power button: `POWERDOWN`.
    PowerButton,
    /// The machine goes on after it was stopped: `RESUME`.
    Resumed,
    /// The machine waits, for the host could not read or write a disk: `BLOCK_IO_ERROR`.
    DiskError {
        /// The device had no space.
        no_space: bool,
        /// What failed and why, for people.
        reason: String,
    },
}

/// Reads QMP's bytes.
#[derive(Default)]
pub struct Monitor {
    line: Vec<u8>,
    /// Whether what was said matters: then refusals are told of.
    pub refusals: bool,
}

impl Monitor {
    /// Takes bytes and gives the events in them.
    pub fn receive(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                events.extend(event(&self.line, self.refusals));
                self.line.clear();
            } else if self.line.len() < LINE {
                self.line.push(*byte);
            }
        }
        events
    }
}

fn event(line: &[u8], refusals: bool) -> Option<Event> {
    let message: Value = serde_json::from_slice(line).ok()?;
    if let Some(error) = message.get("error").filter(|_| refusals) {
        let why = error.get("desc").and_then(Value::as_str).unwrap_or("it does not say why");
        return Some(Event::Refused(why.to_owned()));
    }
    let data = message.get("data");
    let text = |name: &str| data?.get(name)?.as_str();
    match message.get("event")?.as_str()? {
        "SHUTDOWN" => Some(Event::Shutdown(text("reason").unwrap_or("unknown").to_owned())),
        "POWERDOWN" => Some(Event::PowerButton),
        "RESUME" => Some(Event::Resumed),
        // With any other action the guest gets the error and goes on.
        "BLOCK_IO_ERROR" if text("action") == Some("stop") => Some(Event::DiskError {
            no_space: data?.get("nospace").and_then(Value::as_bool).unwrap_or(false),
            reason: format!(
                "{}: {}",
                text("operation").unwrap_or("access"),
                text("reason").unwrap_or("unknown")
            ),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_the_line_is_cut() {
        let text = concat!(
            "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n{\"return\": {}}\r\n",
            "{\"timestamp\": {\"seconds\": 1}, \"event\": \"BLOCK_IO_ERROR\", \"data\": {\"device\": \"\", ",
            "\"nospace\": true, \"node-name\": \"scratch\", \"reason\": \"No space left on device\", ",
            "\"operation\": \"write\", \"action\": \"stop\"}}\r\nnot json\r\n",
            "{\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"action\": \"report\"}}\r\n",
            "{\"timestamp\": {\"seconds\": 1}, \"event\": \"RESUME\"}\r\n",
            "{\"event\": \"POWERDOWN\"}\r\n",
            "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\r\n",
        );
        let expected = [
            Event::DiskError { no_space: true, reason: "write: No space left on device".into() },
            Event::Resumed,
            Event::PowerButton,
            Event::Shutdown("guest-reset".into()),
        ];
        for piece in [1, 7, 4096] {
            let mut monitor = Monitor::default();
            let events: Vec<_> =
                text.as_bytes().chunks(piece).flat_map(|bytes| monitor.receive(bytes)).collect();
            assert_eq!(events, expected, "pieces of {piece}");
        }
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut monitor = Monitor::default();
        for _ in 0..100 {
            assert_eq!(monitor.receive(&[b'x'; 4096]), []);
        }
        assert_eq!(monitor.line.len(), LINE);
    }
}

//! One line of a log, written.

use std::str;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::line::{HEAD, OFFSET, RAW, STDERR, STDOUT};
use super::stamp::Stamp;
use super::{MOST_OUTPUT, Offsets, Stream};

/// Makes lines of output. It knows the character that each stream's last entry has cut in two.
#[derive(Debug, Default)]
pub struct Encoder {
    stdout: Cut,
    stderr: Cut,
}

/// The beginning of a character whose end has not come.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    bytes: [u8; 3],
    length: usize,
}

impl Cut {
    fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Keeps `bytes`, which are fewer than four.
    fn set(&mut self, bytes: &[u8]) {
        self.length = bytes.len().min(self.bytes.len());
        self.bytes[..self.length].copy_from_slice(&bytes[..self.length]);
    }
}

impl Encoder {
    /// Adds the first entry of `output`, which is not empty, to `lines`: one line, with its newline. Returns how many
    /// bytes of the output are in it. `text` says that all of `output` is known to be UTF-8; `offsets` are those before
    /// it.
    pub fn push(
        &mut self,
        lines: &mut Vec<u8>,
        stream: Stream,
        output: &[u8],
        text: bool,
        stamp: &Stamp,
        offsets: &Offsets,
    ) -> usize {
        let piece = &output[..first(output)];
        let (cut, after) = match stream {
            Stream::Stdout => (&mut self.stdout, STDOUT),
            Stream::Stderr => (&mut self.stderr, STDERR),
        };
        let exact = cut.length == 0 && (text || str::from_utf8(piece).is_ok());
        lines.extend_from_slice(HEAD);
        if exact {
            escape(lines, piece);
        } else {
            show(lines, cut, piece);
        }
        lines.extend_from_slice(after);
        lines.extend_from_slice(stamp);
        lines.extend_from_slice(OFFSET);
        let mut digits = itoa::Buffer::new();
        lines.extend_from_slice(digits.format(offsets.stdout).as_bytes());
        lines.push(b',');
        lines.extend_from_slice(digits.format(offsets.stderr).as_bytes());
        lines.push(b']');
        if !exact {
            lines.extend_from_slice(RAW);
            base64(lines, piece);
            lines.push(b'"');
        }
        lines.extend_from_slice(b"}\n");
        piece.len()
    }

    /// Forgets the characters that were cut: the entries that began them are not in the log.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

/// The length of the first entry of `output`.
fn first(output: &[u8]) -> usize {
    let window = &output[..output.len().min(MOST_OUTPUT)];
    match memchr::memchr(b'\n', window) {
        Some(newline) => newline + 1,
        None if window.len() < output.len() => whole(window),
        None => window.len(),
    }
}

/// The length of `window` without a character that it cuts in two.
fn whole(window: &[u8]) -> usize {
    for back in 1..=3.min(window.len()) {
        let at = window.len() - back;
        let width = match window[at] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            // Goes on with a character.
            0x80..=0xbf => continue,
            _ => break,
        };
        return if width > back { at } else { window.len() };
    }
    window.len()
}

/// Adds `text`, which is UTF-8, as the inside of a JSON string.
fn escape(lines: &mut Vec<u8>, text: &[u8]) {
    // Most lines need no escape but the newline's.
    let (text, newline) = match text.strip_suffix(b"\n") {
        Some(text) => (text, true),
        None => (text, false),
    };
    if needs_escape(text) {
        for run in text.chunks(32) {
            if needs_escape(run) {
                run.iter().for_each(|byte| escape_byte(lines, *byte));
            } else {
                lines.extend_from_slice(run);
            }
        }
    } else {
        lines.extend_from_slice(text);
    }
    if newline {
        lines.extend_from_slice(b"\\n");
    }
}

/// Written so that it becomes vector instructions.
fn needs_escape(text: &[u8]) -> bool {
    text.iter().fold(false, |any, byte| any | (*byte < b' ') | (*byte == b'"') | (*byte == b'\\'))
}

fn escape_byte(lines: &mut Vec<u8>, byte: u8) {
    match byte {
        b'\n' => lines.extend_from_slice(b"\\n"),
        b'\r' => lines.extend_from_slice(b"\\r"),
        b'\t' => lines.extend_from_slice(b"\\t"),
        b'"' | b'\\' => lines.extend_from_slice(&[b'\\', byte]),
        0..b' ' => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            lines.extend_from_slice(b"\\u00");
            lines.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        _ => lines.push(byte),
    }
}

/// Adds what can be shown of `piece`: U+FFFD for what is not UTF-8, and a character that `cut` begins and `piece` ends.
/// What `piece` cuts in two is left for the next, in `cut`.
fn show(lines: &mut Vec<u8>, cut: &mut Cut, piece: &[u8]) {
    let mut rest = piece;
    while cut.length > 0 {
        let Some((next, after)) = rest.split_first() else { return };
        let mut longer = [0; 4];
        let begun = cut.get().len();
        longer[..begun].copy_from_slice(cut.get());
        longer[begun] = *next;
        let longer = &longer[..=begun];
        match str::from_utf8(longer) {
            Ok(_) => {
                lines.extend_from_slice(longer);
                (cut.length, rest) = (0, after);
            }
            Err(error) if error.error_len().is_none() => {
                cut.set(longer);
                rest = after;
            }
            Err(_) => {
                lines.extend_from_slice("\u{fffd}".as_bytes());
                cut.length = 0;
            }
        }
    }
    let mut chunks = rest.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        escape(lines, chunk.valid().as_bytes());
        let wrong = chunk.invalid();
        let ends = |wrong| str::from_utf8(wrong).is_err_and(|error| error.error_len().is_none());
        if chunks.peek().is_none() && ends(wrong) {
            cut.set(wrong);
        } else if !wrong.is_empty() {
            lines.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn base64(lines: &mut Vec<u8>, bytes: &[u8]) {
    let start = lines.len();
    lines.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The place is as long as it takes, which is all that could be wrong.
    let _ = STANDARD.encode_slice(bytes, &mut lines[start..]);
}

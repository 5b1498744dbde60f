//! One line of a log, read. Strict: what [`encode`](super::encode) would not write is damage.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{MOST_OUTPUT, Offsets, Stream, stamp};

/// What every line begins with.
pub const HEAD: &[u8] = br#"{"log":""#;
pub(super) const STDOUT: &[u8] = br#"","stream":"stdout","time":""#;
pub(super) const STDERR: &[u8] = br#"","stream":"stderr","time":""#;
pub(super) const OFFSET: &[u8] = br#"","offset":["#;
pub(super) const RAW: &[u8] = br#","raw":""#;

/// A line, without its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where the output was written.
    pub stream: Stream,
    /// When it came.
    pub time: SystemTime,
    /// What came before it.
    pub before: Offsets,
    /// What has come with it.
    pub after: Offsets,
}

/// Reads a line, given without its newline, and puts its output into `output`: 1 to [`MOST_OUTPUT`] bytes. `None` if it
/// is not a line of a log; `output` may be anything then.
pub fn parse(line: &[u8], output: &mut Vec<u8>) -> Option<Line> {
    output.clear();
    let rest = text(line.strip_prefix(HEAD)?, output)?;
    let (stream, rest) = match rest.strip_prefix(STDOUT) {
        Some(rest) => (Stream::Stdout, rest),
        None => (Stream::Stderr, rest.strip_prefix(STDERR)?),
    };
    let (time, rest) = rest.split_at_checked(size_of::<stamp::Stamp>())?;
    let time = stamp::parse(time)?;
    let (stdout, rest) = number(rest.strip_prefix(OFFSET)?)?;
    let (stderr, rest) = number(rest.strip_prefix(b",")?)?;
    let rest = rest.strip_prefix(b"]")?;
    if rest != b"}" {
        raw(rest.strip_prefix(RAW)?.strip_suffix(b"\"}")?, output)?;
    }
    if !(1..=MOST_OUTPUT).contains(&output.len()) {
        return None;
    }
    let before = Offsets { stdout, stderr };
    let mut after = before;
    let end = after.of_mut(stream);
    *end = end.checked_add(output.len() as u64)?;
    Some(Line { stream, time, before, after })
}

/// Puts the JSON string that `rest` begins with into `output`, and gives what follows from its closing quote on.
fn text<'a>(mut rest: &'a [u8], output: &mut Vec<u8>) -> Option<&'a [u8]> {
    let whole = rest;
    loop {
        let (run, from) = rest.split_at_checked(memchr::memchr2(b'"', b'\\', rest)?)?;
        output.extend_from_slice(run);
        rest = from;
        if rest.first() == Some(&b'"') {
            break;
        }
        let (byte, length) = escaped(rest)?;
        output.push(byte);
        rest = rest.get(length..)?;
    }
    let string = &whole[..whole.len() - rest.len()];
    let controls = string.iter().fold(false, |any, byte| any | (*byte < b' '));
    (!controls && std::str::from_utf8(string).is_ok()).then_some(rest)
}

/// The byte that `rest`, from a backslash on, begins with, and the length of its escape.
fn escaped(rest: &[u8]) -> Option<(u8, usize)> {
    Some(match rest.get(1)? {
        b'n' => (b'\n', 2),
        b'r' => (b'\r', 2),
        b't' => (b'\t', 2),
        quoted @ (b'"' | b'\\') => (*quoted, 2),
        b'u' => {
            let digits = rest.get(2..6)?.strip_prefix(b"00")?;
            let byte = hex(digits[0])? << 4 | hex(digits[1])?;
            // The others have no escape, or a shorter one.
            (byte < b' ' && !matches!(byte, b'\n' | b'\r' | b'\t')).then_some((byte, 6))?
        }
        _ => return None,
    })
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The number that `rest` begins with, in its shortest form, and what follows.
fn number(rest: &[u8]) -> Option<(u64, &[u8])> {
    let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = rest.split_at(length);
    let shortest = digits == b"0" || digits.first().is_some_and(|first| *first != b'0');
    let number = digits
        .iter()
        .try_fold(0u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
    shortest.then_some((number, rest))
}

/// Replaces `output` by what `base64` says.
fn raw(base64: &[u8], output: &mut Vec<u8>) -> Option<()> {
    if base64.len() > MOST_OUTPUT.div_ceil(3) * 4 {
        return None;
    }
    output.clear();
    STANDARD.decode_vec(base64, output).ok()
}

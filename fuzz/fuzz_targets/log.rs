//! A line of a log: what is accepted is what would be written. Any output: written and read, it is the same.
#![cfg_attr(fuzzing, no_main)]

use fuzz::libfuzzer_sys::fuzz_target;
use vch::log::encode::Encoder;
use vch::log::{MOST_LINE, MOST_OUTPUT, Offsets, Stream, line, stamp};

fuzz_target!(|input: &[u8]| {
    let mut output = Vec::new();
    if let Some(parsed) = line::parse(input, &mut output) {
        assert!((1..=MOST_OUTPUT).contains(&output.len()));
        let mut again = Vec::new();
        let stamp = stamp::format(parsed.time);
        Encoder::default().push(&mut again, parsed.stream, &output, false, &stamp, &parsed.before);
        // Only the writer makes entries of one line each, and it may have had a reason for a `raw`.
        let has_raw = input.ends_with(b"\"}");
        let one_line = !output[..output.len() - 1].contains(&b'\n');
        assert!(has_raw || !one_line || again.strip_suffix(b"\n") == Some(input));
    }
    written_and_read(input);
});

/// Takes the input as output that comes in two pieces.
fn written_and_read(input: &[u8]) {
    let Some((cut, sent)) = input.split_first() else { return };
    let (first, second) = sent.split_at(usize::from(*cut).min(sent.len()));
    let (mut encoder, mut lines) = (Encoder::default(), Vec::new());
    let mut offsets = Offsets::default();
    for mut piece in [first, second] {
        while !piece.is_empty() {
            let text = std::str::from_utf8(piece).is_ok();
            let stamp = stamp::format(std::time::UNIX_EPOCH);
            let taken = encoder.push(&mut lines, Stream::Stderr, piece, text, &stamp, &offsets);
            offsets.stderr += taken as u64;
            piece = &piece[taken..];
        }
    }
    let (mut output, mut received) = (Vec::new(), Vec::new());
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        assert!(line.len() <= MOST_LINE);
        let line = line::parse(line.strip_suffix(b"\n").unwrap(), &mut output).unwrap();
        assert_eq!(line.before.stderr, received.len() as u64);
        received.extend_from_slice(&output);
    }
    assert_eq!(received, sent);
}

//! The lines: what is written, what docker's readers make of it, and what is refused.

use std::fs;

use super::super::line::{self, Line};
use super::super::{MOST_LINE, MOST_OUTPUT, stamp};
use super::*;

/// What docker's readers take of a line: `log` and `stream`, and `time`, decoded as Go's encoding/json does, unknown
/// keys ignored.
fn as_docker_reads(file: &[u8]) -> Vec<(String, String, String)> {
    let lines = serde_json::Deserializer::from_slice(file).into_iter::<serde_json::Value>();
    let of = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap().to_owned();
    lines.map(Result::unwrap).map(|line| (of(&line, "log"), of(&line, "stream"), of(&line, "time"))).collect()
}

#[test]
fn the_format_is_what_is_written_here() {
    let (_folder, path) = place();
    let mut writer = writer(&path, 1 << 20, 1);
    writer.append(Stream::Stdout, b"text\nsay \"hi\"\t\\\x1b[0m\r\npart", at(0)).unwrap();
    writer.append(Stream::Stderr, b"caf\xe9\n", at(1)).unwrap();
    let expected = concat!(
        r#"{"log":"text\n","stream":"stdout","time":"2026-11-24T02:50:00.123456789Z","offset":[0,0]}"#,
        "\n",
        r#"{"log":"say \"hi\"\t\\\u001b[0m\r\n","stream":"stdout","time":"2026-11-24T02:50:00.123456789Z","offset":[5,0]}"#,
        "\n",
        r#"{"log":"part","stream":"stdout","time":"2026-11-24T02:50:00.123456789Z","offset":[21,0]}"#,
        "\n",
        r#"{"log":"caf�\n","stream":"stderr","time":"2026-11-24T02:50:01.123456789Z","offset":[25,0],"raw":"Y2Fm6Qo="}"#,
        "\n",
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn docker_reads_the_same_text_however_it_comes() {
    let mut dice = Dice(7);
    for round in 0..300 {
        let (_folder, path) = place();
        let mut writer = writer(&path, 1 << 30, 1);
        let length = 1 + dice.below(40_000);
        let mut sent = [dice.output(length), dice.output(length / 3 + 1)];
        // At the very end a character that is cut is not shown.
        sent.iter_mut().for_each(|output| output.push(b'\n'));
        let mut given = [0, 0];
        while given != [sent[0].len(), sent[1].len()] {
            let index = dice.below(2);
            let left = &sent[index][given[index]..];
            let (most, short) = (1 + dice.below(length), dice.below(3) == 0);
            let some = &left[..left.len().min(if short { most % 5 } else { most })];
            writer.append(BOTH[index], some, at(0)).unwrap();
            given[index] += some.len();
        }
        let mut shown = [String::new(), String::new()];
        for (text, stream, time) in as_docker_reads(&fs::read(&path).unwrap()) {
            assert!(!text.trim_end_matches('\n').contains('\n') && text.len() <= 3 * MOST_OUTPUT, "{text:?}");
            assert_eq!(time, "2026-11-24T02:50:00.123456789Z");
            shown[usize::from(stream == "stderr")].push_str(&text);
        }
        assert_eq!(shown, sent.each_ref().map(|sent| String::from_utf8_lossy(sent).into_owned()), "{round}");
        assert_eq!(drain(&mut Reader::open(&path).unwrap()), sent, "{round}");
    }
}

#[test]
fn every_byte_and_every_pair_is_exact() {
    let (_folder, path) = place();
    let pairs: Vec<u8> = (0..=u8::MAX).flat_map(|a| (0..=u8::MAX).flat_map(move |b| [a, b])).collect();
    let mut writer = writer(&path, 1 << 30, 1);
    writer.append(Stream::Stdout, &pairs, at(0)).unwrap();
    for pair in pairs.chunks(2) {
        writer.append(Stream::Stderr, pair, at(0)).unwrap();
    }
    assert_eq!(drain(&mut Reader::open(&path).unwrap()), [pairs.clone(), pairs]);
}

#[test]
fn long_lines_are_split_where_docker_does_but_not_in_a_character() {
    let (_folder, path) = place();
    let mut writer = writer(&path, 1 << 30, 1);
    let lengths = |of: &str| -> Vec<usize> {
        let lines = as_docker_reads(&fs::read(&path).unwrap());
        lines.iter().filter(|line| line.1 == of).map(|line| line.0.len()).collect()
    };
    let mut long = vec![b'x'; 3 * MOST_OUTPUT];
    long.extend_from_slice(b"\n");
    long.extend_from_slice(&[b'y'; MOST_OUTPUT - 1]);
    long.extend_from_slice(b"\nz\n");
    writer.append(Stream::Stdout, &long, at(0)).unwrap();
    assert_eq!(lengths("stdout"), [MOST_OUTPUT, MOST_OUTPUT, MOST_OUTPUT, 1, MOST_OUTPUT, 2]);
    writer.append(Stream::Stderr, "€".repeat(10_000).as_bytes(), at(0)).unwrap();
    assert_eq!(lengths("stderr"), [16383, 13617]);
    assert!(!fs::read_to_string(&path).unwrap().contains("raw"), "text needs no base64");
    assert_eq!(drain(&mut Reader::open(&path).unwrap())[0], long);
}

#[test]
fn the_longest_line_is_read_again() {
    for byte in [0x01, 0xff] {
        let (_folder, path) = place();
        // A character was begun, so that there is a `raw` beside the escapes.
        let output = [&[0xe2][..], &[byte; MOST_OUTPUT]].concat();
        let mut writer = writer(&path, 1, 32);
        writer.append(Stream::Stdout, &output[..1], at(0)).unwrap();
        writer.append(Stream::Stdout, &output[1..], at(0)).unwrap();
        let length = fs::metadata(&path).unwrap().len();
        assert!(length > MOST_OUTPUT as u64 * 4 && length <= MOST_LINE as u64, "{length}");
        assert_eq!(drain(&mut Reader::open(&path).unwrap())[0], output);
    }
}

#[test]
fn times_are_docker_s() {
    let nanos = |seconds, nanos| UNIX_EPOCH + Duration::new(seconds, nanos);
    for (time, shown) in [
        (UNIX_EPOCH - Duration::from_secs(1), "1970-01-01T00:00:00.000000000Z"),
        (nanos(0, 1), "1970-01-01T00:00:00.000000001Z"),
        (nanos(951_782_400, 0), "2000-02-29T00:00:00.000000000Z"),
        (nanos(4_107_542_399, 999_999_999), "2100-02-28T23:59:59.999999999Z"),
        (nanos(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z"),
        (nanos(1_735_689_599, 0), "2024-12-31T23:59:59.000000000Z"),
        (nanos(u64::MAX >> 2, 0), "9999-12-31T23:59:59.999999999Z"),
    ] {
        assert_eq!(std::str::from_utf8(&stamp::format(time)), Ok(shown));
        assert_eq!(stamp::format(stamp::parse(shown.as_bytes()).unwrap()), shown.as_bytes());
    }
    // Every day until 2200, by counting.
    for day in 0..84_000 {
        let time = nanos(day * 86_400 + day, 5);
        assert_eq!(stamp::parse(&stamp::format(time)), Some(time));
    }
}

const GOOD: &str =
    r#"{"log":"a\n","stream":"stdout","time":"2026-11-24T02:50:00.123456789Z","offset":[1,2]}"#;

#[test]
fn a_line_that_is_not_exactly_right_is_none() {
    let mut output = Vec::new();
    let line = line::parse(GOOD.as_bytes(), &mut output).unwrap();
    let (before, after) = (Offsets { stdout: 1, stderr: 2 }, Offsets { stdout: 3, stderr: 2 });
    assert_eq!(line, Line { stream: Stream::Stdout, time: at(0), before, after });
    assert_eq!(output, b"a\n");
    let replaced = |from: &str, to: &str| GOOD.replace(from, to);
    let raw = |base64: &str| GOOD.replace("]}", &format!(r#"],"raw":"{base64}"}}"#));
    let mut bad: Vec<Vec<u8>> = [
        String::new(),
        "{}".to_owned(),
        format!("{GOOD} "),
        format!(" {GOOD}"),
        replaced("a\\n", ""),
        replaced("\\n", "\n"),
        replaced("\\n", "\\u000a"),
        replaced("\\n", "\\u0061"),
        replaced("\\n", "\\u001B"),
        replaced("\\n", "\\u2028"),
        replaced("\\n", "\\u00"),
        replaced("\\n", "\\/"),
        replaced("\\n", "\\"),
        replaced("\\n", "\u{1}"),
        replaced("a", &"a".repeat(MOST_OUTPUT)),
        replaced("stdout", "stdin"),
        replaced("2026-11-24", "2026-02-29"),
        replaced("2026-11-24", "2026-13-01"),
        replaced("2026-11-24", "2026-00-01"),
        replaced("2026-11-24", "2026-01-00"),
        replaced("2026-11-24", "1969-12-31"),
        replaced("2026-11-24", "0000-01-01"),
        replaced("2026-11-24T", "2026-11-24 "),
        replaced("02:50:00", "24:00:00"),
        replaced("02:50:00", "02:60:00"),
        replaced("02:50:00", "02:50:60"),
        replaced(".123456789", ".123"),
        replaced("Z", "+01:00"),
        replaced("[1,2]", "[01,2]"),
        replaced("[1,2]", "[,2]"),
        replaced("[1,2]", "[1, 2]"),
        replaced("[1,2]", "[-1,2]"),
        replaced("[1,2]", "[1]"),
        replaced("[1,2]", "[1,2,3]"),
        replaced("[1,2]", "[18446744073709551616,2]"),
        replaced("[1,2]", "[18446744073709551615,2]"),
        raw(""),
        raw("Y2Fm6Qo"),
        raw("Y2Fm6Qp="),
        raw("Y2Fm6Qo=="),
        raw("Y2Fm\\n"),
        raw(&"AAAA".repeat(MOST_OUTPUT / 3 + 1)),
        raw(&"AAAA".repeat(1 << 20)),
    ]
    .map(String::into_bytes)
    .into();
    bad.push(GOOD.replace('a', "!").bytes().map(|byte| if byte == b'!' { 0xff } else { byte }).collect());
    bad.extend((0..GOOD.len()).map(|length| GOOD.as_bytes()[..length].to_vec()));
    for line in bad {
        let shown = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
        assert_eq!(line::parse(&line, &mut output), None, "{shown}");
    }
    assert!(line::parse(raw("AA==").as_bytes(), &mut output).is_some());
    assert_eq!(output, [0]);
}

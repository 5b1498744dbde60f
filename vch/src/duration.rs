//! Lengths of time as docker takes them: Go's `time.ParseDuration`, `1h30m`, `1.5s`, `500ms`.

use std::time::Duration;

use anyhow::{Context, Result};

/// Nanoseconds of each unit; a longer name before one that it begins with.
const UNITS: [(&str, f64); 7] =
    [("ms", 1e6), ("us", 1e3), ("µs", 1e3), ("ns", 1.0), ("h", 3600e9), ("m", 60e9), ("s", 1e9)];

/// The length of time that `text` means.
///
/// # Errors
/// It means none.
pub fn parse(text: &str) -> Result<Duration> {
    let wrong = || format!("{text:?} is no length of time: 90s, 1h30m, 1.5s, 500ms");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut nanoseconds) = (text, 0.0);
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').with_context(wrong)?;
        let count: f64 = rest[..digits].parse().ok().with_context(wrong)?;
        rest = &rest[digits..];
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit)).with_context(wrong)?;
        nanoseconds += count * factor;
        rest = &rest[unit.len()..];
        if rest.is_empty() {
            return Duration::try_from_secs_f64(nanoseconds / 1e9).ok().with_context(wrong);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_in_go() {
        let rows = [
            ("0", 0),
            ("0s", 0),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1500),
            ("1m0.25s", 60_250),
            ("500ms", 500),
        ];
        for (text, milliseconds) in rows {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        for bad in [
            "",
            "5",
            "s",
            "1d",
            "-1s",
            "1s2",
            "1..2s",
            "1e3s",
            "9".repeat(400).as_str(),
            "1 s",
            "99999999999999999999h",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

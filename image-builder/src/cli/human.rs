//! Sizes, times and IDs as docker shows them.

use std::time::{SystemTime, UNIX_EPOCH};

use image_builder::digest::Digest;

/// `12.3MB`, in powers of 1000 and three digits, as docker's images have it (go-units, `HumanSizeWithPrecision`); but what
/// rounds to the next unit is shown in that, where docker writes `1e+03MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut size, mut unit) = (count as f64, 0);
    while size >= 999.5 {
        size /= 1000.0;
        unit += 1;
    }
    let decimals = match size {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    let digits = format!("{size:.decimals$}");
    let shown = if decimals > 0 { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{shown}{}", UNITS[unit])
}

/// The 12 digits that docker shows of an ID.
pub fn short(id: &Digest) -> String {
    id.hex()[..12].to_owned()
}

/// `3 days ago`, of a time in seconds since 1970 (go-units, `HumanDuration`).
pub fn ago(then: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    duration(i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(then).max(0))
}

fn duration(seconds: i64) -> String {
    let hours = (seconds + 1800) / 3600;
    let (count, unit) = match (seconds, hours) {
        (0, _) => return "Less than a second ago".to_owned(),
        (1, _) => return "1 second ago".to_owned(),
        (..60, _) => (seconds, "seconds"),
        (..120, _) => return "About a minute ago".to_owned(),
        (..3600, _) => (seconds / 60, "minutes"),
        (_, 1) => return "About an hour ago".to_owned(),
        (_, ..48) => (hours, "hours"),
        (_, ..336) => (hours / 24, "days"),
        (_, ..1440) => (hours / 24 / 7, "weeks"),
        (_, ..17520) => (hours / 24 / 30, "months"),
        _ => (hours / 24 / 365, "years"),
    };
    format!("{count} {unit} ago")
}

/// Seconds since 1970 of an RFC 3339 time, such as `2024-05-01T12:00:00.5+02:00`.
pub fn seconds(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let is = |at: usize, c: &str| text.get(at..=at).is_some_and(|found| found.eq_ignore_ascii_case(c));
    if !(is(4, "-") && is(7, "-") && (is(10, "T") || is(10, " ")) && is(13, ":") && is(16, ":")) {
        return None;
    }
    let days = days(number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let time = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let zone = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), rest) => {
            let (hours, minutes) = rest.split_once(':')?;
            let offset =
                i64::from(hours.parse::<u8>().ok()?) * 3600 + i64::from(minutes.parse::<u8>().ok()?) * 60;
            if sign == "+" { offset } else { -offset }
        }
        _ => return None,
    };
    Some(days * 86_400 + time - offset)
}

/// Days since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year = year.rem_euclid(400);
    let day = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year * 365 + year / 4 - year / 100 + day - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By docker, and by date(1).
    #[test]
    fn as_docker_shows_them() {
        let sizes = [(0, "0B"), (999, "999B"), (1000, "1kB"), (8_308_736, "8.31MB"), (12_355_678, "12.4MB")];
        let large =
            [(99_949_999, "99.9MB"), (99_950_000, "100MB"), (999_999_999, "1GB"), (u64::MAX, "18.4EB")];
        for (count, shown) in sizes.into_iter().chain(large) {
            assert_eq!(bytes(count), shown);
        }
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29T23:59:59.123456789Z", Some(1_709_251_199)),
            ("2024-03-01T01:59:59+02:00", Some(1_709_251_199)),
            ("0001-01-01T00:00:00Z", Some(-62_135_596_800)),
            ("2024-02-29", None),
            ("2024-02-29T23:59:59+9223372036854775807:00", None),
            ("yesterday, at noon or so", None),
            ("2024-02-29T23:59:59", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        let day = 86_400;
        for (seconds, shown) in [
            (0, "Less than a second ago"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (119, "About a minute ago"),
            (45 * 60, "45 minutes ago"),
            (5399, "About an hour ago"),
            (5400, "2 hours ago"),
            (2 * day - 1801, "47 hours ago"),
            (2 * day, "2 days ago"),
            (14 * day, "2 weeks ago"),
            (60 * day, "2 months ago"),
            (730 * day, "2 years ago"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
        assert_eq!(ago(i64::MAX), duration(0));
        assert!(ago(0).ends_with(" years ago"));
    }
}

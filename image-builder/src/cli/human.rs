//! Sizes, times and IDs as docker shows them.

use std::time::{SystemTime, UNIX_EPOCH};

use image_builder::digest::Digest;

/// `12.3MB`, in powers of 1000 and three digits, as docker's images have it (go-units, `HumanSizeWithPrecision`).
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    let mut scale = 1;
    while count / scale >= 1000 {
        scale *= 1000;
        unit += 1;
    }
    let whole = count / scale;
    let thousandths = u128::from(count % scale) * 1000 / u128::from(scale);
    let digits = match whole {
        _ if unit == 0 => String::new(),
        0..10 => format!(".{:02}", thousandths / 10),
        10..100 => format!(".{}", thousandths / 100),
        _ => String::new(),
    };
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{whole}{digits}{}", UNITS[unit])
}

/// The 12 digits that docker shows of an ID.
pub fn short(id: &Digest) -> String {
    id.hex()[..12].to_owned()
}

/// `3 days ago`, of a time in seconds since 1970 (go-units, `HumanDuration`).
pub fn ago(then: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let seconds = i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(then).max(0);
    let (hours, days) = (seconds / 3600, seconds / 86_400);
    let (count, unit) = match seconds {
        ..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        _ if hours < 48 => (hours, "hour"),
        _ if days < 14 => (days, "day"),
        _ if days < 60 => (days / 7, "week"),
        _ if days < 730 => (days / 30, "month"),
        _ => (days / 365, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
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
            let offset = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
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
        let sizes = [(0, "0B"), (999, "999B"), (1000, "1kB"), (8_308_736, "8.3MB"), (12_345_678, "12.3MB")];
        for (count, shown) in sizes.into_iter().chain([(999_999_999, "999MB"), (u64::MAX, "18.4EB")]) {
            assert_eq!(bytes(count), shown);
        }
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29T23:59:59.123456789Z", Some(1_709_251_199)),
            ("2024-03-01T01:59:59+02:00", Some(1_709_251_199)),
            ("0001-01-01T00:00:00Z", Some(-62_135_596_800)),
            ("2024-02-29", None),
            ("yesterday, at noon or so", None),
            ("2024-02-29T23:59:59", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        assert_eq!(ago(i64::MAX), "0 seconds ago");
        assert!(ago(0).ends_with(" years ago"));
    }
}

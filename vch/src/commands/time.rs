//! Times for people: `5 minutes ago`, and the other way round.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::duration;
use crate::log::stamp;

/// A length of time as docker says it.
pub fn human(seconds: u64) -> String {
    const UNITS: [(u64, &str); 5] =
        [(7 * 86_400, "week"), (86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let (unit, name) = UNITS.into_iter().find(|(unit, _)| seconds >= *unit).unwrap_or((1, "second"));
    let count = seconds / unit;
    if count == 0 {
        return "Less than a second".into();
    }
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

/// The time `seconds` after 1970's begin: RFC 3339 in UTC, as docker says it.
pub fn stamp(seconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    String::from_utf8_lossy(&stamp::format(time)).replace(".000000000Z", "Z")
}

/// The time that `text` means: seconds since 1970, RFC 3339 in UTC, or how long ago (`90s`, `1h30m`).
///
/// # Errors
/// It means none.
pub fn parse(text: &str) -> Result<SystemTime> {
    let unclear = || format!("{text:?} is no time: 2026-11-24T02:50:00Z, 90s, 1h30m, or seconds since 1970");
    if let Ok(seconds) = text.parse::<f64>() {
        let since = Duration::try_from_secs_f64(seconds).ok().with_context(unclear)?;
        return UNIX_EPOCH.checked_add(since).with_context(unclear);
    }
    if let Some(time) = text.strip_suffix('Z') {
        let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
        let full = format!("{seconds}.{fraction:0<9}Z");
        return stamp::parse(full.as_bytes()).with_context(unclear);
    }
    let ago = duration::parse(text).ok().with_context(unclear)?;
    SystemTime::now().checked_sub(ago).with_context(unclear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood_and_said() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(parse("1970-01-02T00:00:00Z").unwrap(), at(86_400));
        assert_eq!(parse("1970-01-01T00:00:01.5Z").unwrap(), at(1) + Duration::from_millis(500));
        assert_eq!(parse("7").unwrap(), at(7));
        assert_eq!((stamp(86_400).as_str(), parse(&stamp(7)).unwrap()), ("1970-01-02T00:00:00Z", at(7)));
        let ago = SystemTime::now().duration_since(parse("1h2m3s").unwrap()).unwrap().as_secs();
        assert!((3720..3730).contains(&ago));
        for bad in ["", "x", "5", "1d", "h", "1970-01-32T00:00:00Z"].into_iter().filter(|text| *text != "5") {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let rows = [(0, "Less than a second"), (1, "1 second"), (125, "2 minutes"), (7200, "2 hours")];
        for (seconds, text) in rows {
            assert_eq!(human(seconds), text);
        }
    }
}

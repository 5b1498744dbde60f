//! Times as docker's logs have them: RFC 3339 in UTC, here always with nine digits of nanoseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-11-24T02:50:00.123456789Z`
pub type Stamp = [u8; 30];

/// The last second of the year 9999, since the epoch.
const LAST: u64 = 253_402_300_799;
const DAY: u64 = 86_400;

/// `time` in UTC. What is before 1970 or after 9999 becomes the nearest time that is not.
pub fn format(time: SystemTime) -> Stamp {
    let mut since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since.as_secs() > LAST {
        since = Duration::new(LAST, 999_999_999);
    }
    let (year, month, day) = date(since.as_secs() / DAY);
    let second = since.as_secs() % DAY;
    let mut stamp = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut stamp[..4], year);
    digits(&mut stamp[5..7], month);
    digits(&mut stamp[8..10], day);
    digits(&mut stamp[11..13], second / 3600);
    digits(&mut stamp[14..16], second / 60 % 60);
    digits(&mut stamp[17..19], second % 60);
    digits(&mut stamp[20..29], since.subsec_nanos().into());
    stamp
}

/// The time that [`fn@format`] shows as `text`, if there is one.
pub fn parse(text: &[u8]) -> Option<SystemTime> {
    let stamp: &Stamp = text.try_into().ok()?;
    let year = number(&stamp[..4])?;
    let (month, day) = (number(&stamp[5..7])?.checked_sub(1)?, number(&stamp[8..10])?.checked_sub(1)?);
    // Whatever else is wrong, 30 February or a separator, shows when the time is formatted again.
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let years = year.checked_sub(1970)?;
    let days = years * 365 + leaps(year - 1) - leaps(1969) + before(year, month)? + day;
    let second = number(&stamp[11..13])? * 3600 + number(&stamp[14..16])? * 60 + number(&stamp[17..19])?;
    let nanos = u32::try_from(number(&stamp[20..29])?).ok()?;
    let time = UNIX_EPOCH + Duration::new(days * DAY + second, nanos);
    (format(time) == *stamp).then_some(time)
}

/// The days of `year` before its month number `month`, counted from 0.
fn before(year: u64, month: u64) -> Option<u64> {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = BEFORE.get(usize::try_from(month).ok()?)?;
    Some(days + u64::from(leap && month > 1))
}

/// Year, month and day of the month, of a day counted from 1970-01-01. Years begin in March here, so that a leap day is
/// a year's last; 400 years are 146,097 days.
fn date(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let first = (153 * month + 2) / 5;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day - first + 1)
}

/// Writes `number` into `place`, with leading zeros.
fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        // Less than ten.
        *digit = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

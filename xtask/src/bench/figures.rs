//! Numbers for people.

use std::time::Duration;

/// As a float; what is lost beyond 2^53 nobody reads.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub fn to_float(number: u64) -> f64 {
    number as f64
}

/// The middle one; zero of none.
pub fn median(mut values: Vec<Duration>) -> f64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default().as_secs_f64()
}

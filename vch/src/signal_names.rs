//! Signals as people write them: `TERM`, `SIGTERM`, `15`, `RTMIN+3`.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

/// The real-time signals that programs may use, with glibc.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of the signal that `text` means.
///
/// # Errors
/// It means none.
pub fn parse(text: &str) -> Result<i32> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |from: &str, base: i32| {
        let offset = name.strip_prefix(from)?;
        if offset.is_empty() { Some(base) } else { base.checked_add(offset.parse().ok()?) }
    };
    let number = name.parse::<i32>().ok();
    let number = number.or_else(|| format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32));
    let number = number.or_else(|| real_time("RTMIN", RTMIN)).or_else(|| real_time("RTMAX", RTMAX));
    let number = number.with_context(|| format!("invalid signal: {text}"))?;
    ensure!((1..=RTMAX).contains(&number), "invalid signal: {text}");
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let rows = [("TERM", 15), ("sigkill", 9), ("2", 2), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("64", 64)];
        for (text, number) in rows {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "NONE", "RTMIN+31", "-9", "RTMIN-99999999999"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}

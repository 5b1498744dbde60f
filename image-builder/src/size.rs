//! Sizes in docker's words: `64m`, `1.5g`, `512 KiB`, `1048576`. All units are powers of 1024.
//!
//! Source: docker's `go-units`, `RAMInBytes`.

use anyhow::{Result, bail};

/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;

/// The number of bytes that `text` says.
///
/// # Errors
/// It is not a size, or does not fit 64 bits.
pub fn parse(text: &str) -> Result<u64> {
    let bad = || anyhow::anyhow!("{text:?} is not a size (such as 64m, 1.5g or 1073741824)");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 0,
        "k" | "ki" => 10,
        "m" | "mi" => 20,
        "g" | "gi" => 30,
        "t" | "ti" => 40,
        "p" | "pi" => 50,
        _ => return Err(bad()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    // Nine digits are enough for any unit, and keep the sum below within 128 bits.
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let part: u64 = fraction.parse().map_err(|_| bad())?;
    let scale = 10_u128.pow(u32::try_from(fraction.len())?);
    let bytes = (u128::from(whole) << shift) + (u128::from(part) << shift) / scale;
    match u64::try_from(bytes) {
        Ok(bytes) => Ok(bytes),
        Err(_) => bail!("{text:?} is more than 64 bits can count"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_words() {
        let rows = [
            ("32", 32),
            ("32b", 32),
            ("32B", 32),
            ("32k", 32 << 10),
            ("32K", 32 << 10),
            ("32kb", 32 << 10),
            ("32Kib", 32 << 10),
            ("32m", 32 << 20),
            ("32 MB", 32 << 20),
            ("1.5g", 3 << 29),
            ("0.5GiB", 1 << 29),
            ("3t", 3 << 40),
            ("3p", 3 << 50),
        ];
        for (text, bytes) in rows {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_size() {
        for text in [
            "", "m", "-1m", "1x", "1mm", "1 2", "1..5g", "1.g", ".5g", "1e3", "0x10", "20000p", " 1m", "1ib1",
        ] {
            assert!(parse(text).is_err(), "{text:?} must be refused");
        }
    }
}

//! Containers' names: those that are given, and those that are made up.

use anyhow::{Result, bail};

use crate::random;

/// The longest name, in bytes.
const LONGEST: usize = 64;

const HOW: [&str; 32] = [
    "able", "brave", "calm", "clear", "cosy", "crisp", "deft", "eager", "early", "fair", "fond", "frank",
    "gentle", "glad", "grand", "happy", "keen", "kind", "lively", "lucid", "mellow", "merry", "neat",
    "noble", "patient", "quick", "quiet", "ready", "sharp", "sunny", "swift", "warm",
];
const WHAT: [&str; 32] = [
    "anchor", "badger", "beacon", "birch", "bridge", "canyon", "cedar", "comet", "coral", "crane", "delta",
    "dune", "falcon", "fern", "finch", "fjord", "harbour", "heron", "island", "lagoon", "lantern", "maple",
    "meadow", "otter", "pebble", "plover", "quarry", "raven", "river", "sparrow", "summit", "willow",
];

/// Makes a name up.
///
/// # Errors
/// There are no random numbers.
pub fn invent() -> Result<String> {
    let [how, what, low, high] = random::bytes()?;
    let pick = |words: &[&'static str; 32], number: u8| words[usize::from(number) % words.len()];
    Ok(format!("{}_{}{}", pick(&HOW, how), pick(&WHAT, what), u16::from_le_bytes([low, high]) % 1000))
}

/// A name that the user has given, by docker's rule: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
///
/// # Errors
/// It is not a name as docker allows them.
pub fn check(name: &str) -> Result<()> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !starts || !rest || !(2..=LONGEST).contains(&name.len()) {
        bail!("{name:?} is no name: 2 to {LONGEST} of a-z A-Z 0-9 _ . -, the first a letter or digit");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for name in ["", "a", "-ab", "a b", "a/b", "é1", &"x".repeat(65)] {
            assert!(check(name).is_err(), "{name:?} must be refused");
        }
        check(&format!("{:064}", 7)).unwrap();
        for _ in 0..100 {
            check(&invent().unwrap()).unwrap();
        }
    }
}

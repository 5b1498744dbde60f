//! The host CPU's time stamp counter: a guest under TCG reads the same one, and where its machine has no other clock, it has to be told
//! how fast that goes.

use std::fs;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// What the host itself tells the time by.
const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// How long to look for a millionth of the truth.
const LOOK: Duration = Duration::from_millis(20);

/// The counter, and when it stood there.
#[derive(Clone, Copy)]
struct Sample {
    ticks: u64,
    at: Instant,
}

static FIRST: OnceLock<Option<Sample>> = OnceLock::new();

/// Whether it counts evenly and is the same on all CPUs: so the host's kernel says, which tells the time by it.
pub fn is_steady() -> bool {
    static STEADY: OnceLock<bool> = OnceLock::new();
    *STEADY.get_or_init(|| fs::read_to_string(CLOCK).is_ok_and(|name| name.trim_end() == "tsc"))
}

/// Looks at it for the first time: the longer before [`khz`], the less that has to wait.
pub fn begin() {
    FIRST.get_or_init(|| is_steady().then(sample).flatten());
}

/// Ticks in a millisecond. None where it is not [steady](is_steady).
pub fn khz() -> Option<u64> {
    begin();
    let first = (*FIRST.get()?)?;
    thread::sleep(LOOK.saturating_sub(first.at.elapsed()));
    let last = sample()?;
    let nanos = last.at.duration_since(first.at).as_nanos();
    let ticks = u128::from(last.ticks.checked_sub(first.ticks)?);
    u64::try_from((ticks * 1_000_000).checked_div(nanos)?).ok().filter(|khz| *khz > 0)
}

/// The best of a few: the two clocks are not read at once, and something else may get in between.
fn sample() -> Option<Sample> {
    let one = || {
        let before = Instant::now();
        let ticks = read()?;
        let took = before.elapsed();
        Some((took, Sample { ticks, at: before + took / 2 }))
    };
    (0..8).filter_map(|_| one()).min_by_key(|(took, _)| *took).map(|(_, sample)| sample)
}

#[cfg(target_arch = "x86_64")]
fn read() -> Option<u64> {
    // SAFETY: every x86-64 CPU has the instruction, and it touches no memory.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn read() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_measured_where_the_host_relies_on_it() {
        begin();
        assert_eq!(khz().is_some(), is_steady() && cfg!(target_arch = "x86_64"));
        if let Some(khz) = khz() {
            assert!((100_000..20_000_000).contains(&khz), "{khz}");
        }
    }
}

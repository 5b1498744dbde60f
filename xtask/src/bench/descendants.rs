//! CPU time of all processes that this one has started, directly or not.
//!
//! A container's monitor, and with it QEMU, outlive the `vch run` that starts them. As the subreaper of all of them we become
//! their parent then (`PR_SET_CHILD_SUBREAPER(2const)`).

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};

/// What `/proc/PID/stat` counts CPU time in: `USER_HZ`, a hundredth of a second.
const TICK: Duration = Duration::from_millis(10);
/// The fields behind the name in `/proc/PID/stat` (`proc_pid_stat(5)`, where state is the third).
const PARENT: usize = 1;
/// utime, stime, cutime, cstime: its own and that of the children it has waited for.
const TIMES: std::ops::RangeInclusive<usize> = 11..=14;

/// From now on, whoever loses its parent becomes a child of ours.
pub fn adopt() -> Result<()> {
    prctl::set_child_subreaper(true).context("becoming the parent of orphans")
}

/// Waits until none is left.
pub fn wait() -> Result<()> {
    loop {
        match nix::sys::wait::wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(errno) => return Err(errno).context("waiting for a process"),
        }
    }
}

/// What all have used so far: to the microsecond of those that have been waited for, to a [`TICK`] of the others.
pub fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("reading the CPU time of children")?;
    let micros =
        [usage.user_time(), usage.system_time()].map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    let ended = Duration::from_micros(micros.iter().sum::<i64>().unsigned_abs());
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // Who ends in the meantime is not there.
        let stat = fs::read_to_string(entry.path().join("stat")).ok();
        if let Some((pid, stat)) = pid.zip(stat)
            && let Some(process) = parse(&stat)
        {
            all.insert(pid, process);
        }
    }
    Ok(ended + TICK * ticks_below(std::process::id(), &all))
}

/// The parent, and the ticks.
fn parse(stat: &str) -> Option<(u32, u32)> {
    // A name may have spaces and brackets.
    let (_, behind) = stat.rsplit_once(')')?;
    let fields: Vec<_> = behind.split_whitespace().collect();
    let times = fields.get(TIMES)?.iter().map(|field| field.parse::<u32>().ok());
    Some((fields.get(PARENT)?.parse().ok()?, times.sum::<Option<u32>>()?))
}

/// Of all that descend from `ancestor`.
fn ticks_below(ancestor: u32, all: &HashMap<u32, (u32, u32)>) -> u32 {
    let descends = |pid: &u32| {
        let mut line = std::iter::successors(all.get(pid), |(parent, _)| all.get(parent));
        line.any(|(parent, _)| *parent == ancestor)
    };
    all.iter().filter(|(pid, _)| descends(pid)).map(|(_, (_, ticks))| ticks).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc() {
        let line = "7 (a) b (c)) S 5 7 7 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 1 0 99 1 1";
        assert_eq!(parse(line), Some((5, 124)));
        assert_eq!(parse("7 (a) S 5 7"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn grandchildren_count_and_others_do_not() {
        let all =
            HashMap::from([(1, (0, 1)), (5, (1, 2)), (6, (5, 4)), (7, (6, 8)), (9, (1, 16)), (10, (99, 32))]);
        assert_eq!(ticks_below(5, &all), 12);
        assert_eq!(ticks_below(7, &all), 0);
    }
}

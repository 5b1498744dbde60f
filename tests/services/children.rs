//! A script that starts processes on a schedule, as cron does, and looks after none of them.

use crate::harness::{Test, busybox};
use crate::service::{Service, patiently};
use crate::tests;
use anyhow::{Context, Result, ensure};

pub fn tests() -> Vec<Test> {
    tests![none_stays]
}

/// Each round leaves an orphan, which ends by itself, and writes a line.
const SCRIPT: &str = "\
n=0
trap 'echo done; exit 0' TERM
while :; do
    n=$((n + 1))
    (sh -c 'sleep 0.2; echo job $0 >> /jobs' $n &)
    sleep 0.05
done";

fn none_stays() -> Result<()> {
    let service = Service::start("children", &["-m", "128m"], &busybox(), &["sh", "-c", SCRIPT])?;
    patiently(|| {
        let count: usize = service.exec(&[], &["sh", "-c", "wc -l < /jobs"])?.trim().parse()?;
        ensure!(count >= 100, "{count} jobs done");
        Ok(())
    })
    .with_context(|| service.log())?;
    let zombies =
        service.exec(&[], &["sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"])?;
    // One that has just ended may be seen before it is reaped.
    ensure!(zombies.trim().parse::<u32>()? <= 1, "{zombies} zombies");
    let jobs = service.exec(&[], &["sh", "-c", "sort -u /jobs | wc -l; wc -l < /jobs"])?;
    let counts: Vec<usize> = jobs.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(counts.windows(2).all(|pair| pair[0].abs_diff(pair[1]) <= 10), "a job ran twice: {jobs}");
    ensure!(service.stop()? == "0\n", "the trap ends it");
    Ok(())
}

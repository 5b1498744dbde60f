//! How the process is scheduled, on CPUs and at disks: `process.scheduler`, `ioPriority`, `execCPUAffinity`.

use crate::failure::{Context, Failure};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use protocol::Stage::{self, Config};
use protocol::oci::{IoPriority, Process, Scheduler};

/// Policies, include/uapi/linux/sched.h.
const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", FIFO),
    ("SCHED_RR", RR),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", DEADLINE),
];
const FIFO: u32 = 1;
const RR: u32 = 2;
const DEADLINE: u32 = 6;

/// Flags, the same file.
const FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 1),
    ("SCHED_FLAG_RECLAIM", 2),
    ("SCHED_FLAG_DL_OVERRUN", 4),
    ("SCHED_FLAG_KEEP_POLICY", 8),
    ("SCHED_FLAG_KEEP_PARAMS", 16),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 32),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 64),
];

/// Sets the calling process's scheduler and priority at disks.
pub fn apply(process: &Process) -> Result<(), Failure> {
    if let Some(scheduler) = &process.scheduler {
        set(&attributes(scheduler)?)
            .at(Config, || format!("setting process.scheduler to {}", scheduler.policy))?;
    }
    let Some(wanted) = &process.io_priority else { return Ok(()) };
    let value = io_priority(wanted)?;
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: ioprio_set(2) takes three integers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    Errno::result(result).map(drop).at(Config, || format!("setting process.ioPriority to {}", wanted.class))
}

/// Lets the calling process run before all others, but not its children: whatever they do, it must be able to end them.
pub fn go_first() -> Result<(), Failure> {
    const RESET_ON_FORK: u64 = 1;
    let size = u32::try_from(size_of::<Attributes>()).unwrap_or(0);
    set(&Attributes { size, flags: RESET_ON_FORK, nice: -20, ..Attributes::default() })
        .at(Stage::Boot, || "going before all other processes")
}

fn refused<T>(field: &str, why: impl std::fmt::Display) -> Result<T, Failure> {
    Err(Failure::new(Config, format!("process.{field}: {why}")))
}

/// `struct sched_attr`, its first version.
#[repr(C)]
#[derive(Debug, Default, PartialEq)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

fn attributes(scheduler: &Scheduler) -> Result<Attributes, Failure> {
    let Scheduler { policy, nice, priority, flags: names, runtime, deadline, period } = scheduler;
    let Some((_, number)) = POLICIES.iter().find(|(name, _)| name == policy) else {
        return refused("scheduler.policy", format!("there is none named {policy:?}"));
    };
    let mut flags = 0;
    for name in names {
        match FLAGS.iter().find(|(known, _)| known == name) {
            Some((_, bit)) => flags |= bit,
            None => return refused("scheduler.flags", format!("there is none named {name:?}")),
        }
    }
    if !(-20..=19).contains(nice) {
        return refused("scheduler.nice", format!("{nice} is not in -20..19"));
    }
    if *priority != 0 && ![FIFO, RR].contains(number) {
        return refused("scheduler.priority", "only SCHED_FIFO and SCHED_RR have one");
    }
    if *number != DEADLINE && [runtime, deadline, period].into_iter().any(|time| *time != 0) {
        return refused("scheduler", "only SCHED_DEADLINE has runtime, deadline and period");
    }
    let (policy, nice, priority) = (*number, *nice, *priority);
    let (runtime, deadline, period) = (*runtime, *deadline, *period);
    let size = u32::try_from(size_of::<Attributes>()).unwrap_or(0);
    Ok(Attributes { size, policy, flags, nice, priority, runtime, deadline, period })
}

fn set(attributes: &Attributes) -> nix::Result<()> {
    // SAFETY: sched_setattr(2) reads as many bytes as `size` says, all of `attributes`.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *attributes, 0) };
    Errno::result(result).map(drop)
}

fn io_priority(wanted: &IoPriority) -> Result<u32, Failure> {
    let classes = [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];
    let Some((_, class)) = classes.iter().find(|(name, _)| *name == wanted.class) else {
        return refused("ioPriority.class", format!("there is none named {:?}", wanted.class));
    };
    if wanted.priority > 7 {
        return refused("ioPriority.priority", format!("{} is not in 0..7", wanted.priority));
    }
    Ok(class << 13 | wanted.priority)
}

/// Keeps the calling process on these CPUs; an empty list changes nothing.
pub fn keep_on(cpus: &str) -> Result<(), Failure> {
    if cpus.is_empty() {
        return Ok(());
    }
    match set_of(cpus) {
        Some(set) => sched_setaffinity(Pid::from_raw(0), &set)
            .at(Config, || format!("setting process.execCPUAffinity {cpus:?}")),
        None => refused("execCPUAffinity", format!("{cpus:?} is no list of CPUs: 0-3,7 is")),
    }
}

fn set_of(cpus: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for range in cpus.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CpuSet::count() {
            return None;
        }
        (first..=last).try_for_each(|cpu| set.set(cpu)).ok()?;
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduler_is_a_struct() {
        let flags = vec!["SCHED_FLAG_RESET_ON_FORK".to_owned()];
        let scheduler = Scheduler { policy: "SCHED_RR".into(), priority: 5, flags, ..Scheduler::default() };
        let wanted = Attributes { size: 48, policy: 2, flags: 1, priority: 5, ..Attributes::default() };
        assert_eq!(attributes(&scheduler).unwrap(), wanted);
    }

    #[test]
    fn bad_values_are_named() {
        let base = Scheduler { policy: "SCHED_OTHER".into(), ..Scheduler::default() };
        for (field, bad) in [
            ("scheduler.policy", Scheduler { policy: "SCHED_BEST".into(), ..base.clone() }),
            ("scheduler.flags", Scheduler { flags: vec!["X".into()], ..base.clone() }),
            ("scheduler.nice", Scheduler { nice: 20, ..base.clone() }),
            ("scheduler.priority", Scheduler { priority: 1, ..base.clone() }),
            ("scheduler", Scheduler { runtime: 1, ..base }),
        ] {
            let why = attributes(&bad).unwrap_err().0.message;
            assert!(why.starts_with(&format!("process.{field}: ")), "{why}");
        }
        for (field, class, priority) in
            [("class", "IOPRIO_CLASS_NONE", 0), ("priority", "IOPRIO_CLASS_BE", 8)]
        {
            let why = io_priority(&IoPriority { class: class.into(), priority }).unwrap_err().0.message;
            assert!(why.starts_with(&format!("process.ioPriority.{field}: ")), "{why}");
        }
        assert_eq!(
            io_priority(&IoPriority { class: "IOPRIO_CLASS_BE".into(), priority: 7 }).unwrap(),
            0x4007
        );
    }

    #[test]
    fn lists_of_cpus() {
        let set = set_of("0-2,5").unwrap();
        let cpus: Vec<_> = (0..8).filter(|cpu| set.is_set(*cpu).unwrap()).collect();
        assert_eq!(cpus, [0, 1, 2, 5]);
        for bad in ["x", "3-1", "0,", "99999999", "0-99999999"] {
            assert!(set_of(bad).is_none(), "{bad}");
        }
    }
}

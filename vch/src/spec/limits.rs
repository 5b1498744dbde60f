//! Limits, kernel parameters and tmpfs: the options of [`crate::options::limits`].

use anyhow::{Context, Result, bail, ensure};
use protocol::MachineSpec;
use protocol::oci::{Cpu, Mount, Pids, Resources, Rlimit};

use crate::options::RunOptions;
use crate::{size, volumes};

/// Limits of `--ulimit`, by docker's names: `RLIMIT_` and this in capitals.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];
/// What docker mounts a tmpfs with, before what the user says.
const TMPFS: [&str; 3] = ["noexec", "nosuid", "nodev"];
/// The CPU controller's period, in microseconds.
const PERIOD: u64 = 100_000;

/// Applies the options.
///
/// # Errors
/// One of them means nothing, or cannot be had.
pub fn apply(machine: &mut MachineSpec, options: &RunOptions) -> Result<()> {
    let limits = &options.limits;
    let config = &mut machine.config;
    for text in &limits.ulimit {
        let limit = ulimit(text)?;
        config.process.rlimits.retain(|old| old.kind != limit.kind);
        config.process.rlimits.push(limit);
    }
    for text in &limits.sysctl {
        let named = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) = named.with_context(|| format!("--sysctl {text:?} is not NAME=VALUE"))?;
        config.linux.sysctl.insert(name.to_owned(), value.to_owned());
    }
    if let Some(size) = limits.shm_size {
        for shm in config.mounts.iter_mut().filter(|mount| mount.destination == "/dev/shm") {
            shm.options.retain(|option| !option.starts_with("size="));
            shm.options.push(format!("size={size}"));
        }
    }
    let mut mounts = limits.tmpfs.iter().map(|text| tmpfs(text)).collect::<Result<Vec<_>>>()?;
    // One that is below another comes after it.
    mounts.sort_by_key(|mount| mount.destination.split('/').count());
    for mount in mounts {
        config.mounts.retain(|old| old.destination != mount.destination);
        config.mounts.push(mount);
    }
    config.process.oom_score_adj = limits.oom_score_adj;
    memory_swap(options)?;
    resources(&mut config.linux.resources, options)
}

fn resources(resources: &mut Resources, options: &RunOptions) -> Result<()> {
    if let Some(limit) = options.limits.pids_limit {
        resources.pids = Some(Pids { limit });
    }
    let mut cpu = Cpu::default();
    let vcpus = options.vcpus();
    if f64::from(vcpus) != options.cpus {
        #[expect(clippy::cast_possible_truncation, reason = "--cpus is at most 255")]
        let quota = (options.cpus * PERIOD as f64).round() as i64;
        (cpu.quota, cpu.period) = (Some(quota), Some(PERIOD));
    }
    if let Some(list) = &options.limits.cpuset_cpus {
        let last =
            last_cpu(list).with_context(|| format!("--cpuset-cpus {list:?} is no list such as 0-2,5"))?;
        ensure!(last < vcpus, "--cpuset-cpus {list:?}: the VM has {vcpus} CPUs (--cpus), from 0 on");
        cpu.cpus = Some(list.clone());
    }
    if cpu != Cpu::default() {
        resources.cpu = Some(cpu);
    }
    Ok(())
}

/// The largest number in a list of CPUs.
fn last_cpu(list: &str) -> Option<u32> {
    let mut most = None;
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        most = most.max((first <= last).then_some(last));
        most?;
        if first > last {
            return None;
        }
    }
    most
}

fn memory_swap(options: &RunOptions) -> Result<()> {
    match options.limits.memory_swap.as_deref() {
        None | Some("-1") => Ok(()),
        Some(text) => {
            let size = size::parse(text)?;
            ensure!(
                size == options.memory,
                "--memory-swap {text}: a containerVM has no swap; -1, or as much as --memory ({}), is what it can have",
                options.memory
            );
            Ok(())
        }
    }
}

fn ulimit(text: &str) -> Result<Rlimit> {
    let (name, values) =
        text.split_once('=').with_context(|| format!("--ulimit {text:?} is not NAME=SOFT[:HARD]"))?;
    ensure!(
        ULIMITS.contains(&name),
        "--ulimit {text:?}: there is none named {name:?}: {}",
        ULIMITS.join(", ")
    );
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let value = |text: &str| match text.parse::<i64>() {
        Ok(-1) => Ok(u64::MAX),
        Ok(value) => u64::try_from(value).map_err(|_| ()),
        Err(_) => Err(()),
    };
    match (value(soft), value(hard)) {
        (Ok(soft), Ok(hard)) if soft <= hard => {
            Ok(Rlimit { kind: format!("RLIMIT_{}", name.to_ascii_uppercase()), soft, hard })
        }
        (Ok(_), Ok(_)) => bail!("--ulimit {text:?}: the soft limit is above the hard one"),
        _ => bail!("--ulimit {text:?}: its values are numbers, and -1 for no limit"),
    }
}

fn tmpfs(text: &str) -> Result<Mount> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let destination = volumes::parse::place(path).with_context(|| format!("--tmpfs {text:?}"))?;
    let own = options.split(',').filter(|option| !option.is_empty());
    Ok(Mount {
        destination,
        kind: "tmpfs".to_owned(),
        source: Some("tmpfs".to_owned()),
        options: TMPFS.into_iter().chain(own).map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits() {
        let limit = |text: &str| ulimit(text).map(|limit| (limit.kind, limit.soft, limit.hard));
        assert_eq!(limit("nofile=10:20").unwrap(), ("RLIMIT_NOFILE".into(), 10, 20));
        assert_eq!(limit("core=0").unwrap(), ("RLIMIT_CORE".into(), 0, 0));
        assert_eq!(limit("nproc=5:-1").unwrap(), ("RLIMIT_NPROC".into(), 5, u64::MAX));
        for bad in ["nofile", "luck=1", "nofile=x", "nofile=2:1", "nofile=-2", "nofile=-1:5", "nofile=1:2:3"]
        {
            assert!(ulimit(bad).is_err_and(|error| error.to_string().contains("--ulimit")), "{bad}");
        }
    }

    #[test]
    fn lists_of_cpus() {
        for (list, last) in [("0", Some(0)), ("0-2,1", Some(2)), ("5,0-1", Some(5))] {
            assert_eq!(last_cpu(list), last, "{list}");
        }
        for bad in ["", "x", "1-", "3-1", "0,5-2", "0,,1", "-1"] {
            assert_eq!(last_cpu(bad), None, "{bad}");
        }
    }

    #[test]
    fn tmpfs_options_come_after_dockers() {
        let mount = tmpfs("/run:exec,size=1m").unwrap();
        assert_eq!(mount.destination, "/run");
        assert_eq!(mount.options, ["noexec", "nosuid", "nodev", "exec", "size=1m"]);
        for bad in ["", "run", "/", "/:size=1m"] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }
}

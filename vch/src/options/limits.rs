//! What the container may use, and the kernel's parameters.

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::size;

/// Docker's options about it; [`crate::spec`] reads them.
#[derive(Debug, Clone, Default, Args)]
pub struct Limits {
    /// Limit a resource of each process: nofile=1024:4096; -1 is no limit (repeatable)
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,

    /// Set a parameter of the VM's kernel (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = sysctl)]
    pub sysctl: Vec<String>,

    /// Mount a tmpfs: /run:size=64m,mode=755 (repeatable)
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    pub tmpfs: Vec<String>,

    /// Size of /dev/shm; 64m by default
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub shm_size: Option<u64>,

    /// How readily the kernel kills the process when memory runs out, -1000 to 1000
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub oom_score_adj: Option<i32>,

    /// Limit processes and threads; 0 and -1 are no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub pids_limit: Option<i64>,

    /// Memory and swap: a VM has no swap, so the value of --memory, or -1
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,

    /// Keep the container on these CPUs of the VM: 0-2,5
    #[arg(long, value_name = "CPUS")]
    pub cpuset_cpus: Option<String>,
}

impl Limits {
    /// Leaves out what docker takes for nothing said: 0, and no CPUs.
    pub(super) fn without_nothing(mut self) -> Self {
        self.shm_size = self.shm_size.filter(|size| *size > 0);
        self.memory_swap = self.memory_swap.filter(|text| !size::parse(text).is_ok_and(|size| size == 0));
        self.cpuset_cpus = self.cpuset_cpus.filter(|list| !list.is_empty());
        self
    }
}

fn sysctl(text: &str) -> Result<String> {
    let (name, value) = text.split_once('=').context("it is not NAME=VALUE")?;
    ensure!(!name.is_empty() && !value.is_empty(), "it is not NAME=VALUE: a name and a value are needed");
    // A slash is sysctl(8)'s other separator.
    ensure!(name.replace('/', ".") != "kernel.hostname", "the container's hostname is set with --hostname");
    Ok(text.to_owned())
}

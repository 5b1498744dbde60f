//! What the container may use, and the kernel's parameters.

use clap::Args;

use crate::size;

/// Docker's options about it; [`crate::spec`] reads them.
#[derive(Debug, Clone, Default, Args)]
pub struct Limits {
    /// Limit a resource of each process: nofile=1024:4096; -1 is no limit (repeatable)
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,

    /// Set a parameter of the VM's kernel (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
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

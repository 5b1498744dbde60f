//! `config.json`: the process.

use serde::{Deserialize, Serialize};

/// `process`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Process {
    /// Whether the process has a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// The terminal's first size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// Working directory, absolute; made if missing.
    pub cwd: String,
    /// Environment, `NAME=VALUE` each.
    #[serde(default)]
    pub env: Vec<String>,
    /// The command and its arguments; at least one.
    pub args: Vec<String>,
    /// Resource limits.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// Whom the process runs as.
    #[serde(default)]
    pub user: User,
    /// Capability sets; without this field the process has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// prctl(2) `PR_SET_NO_NEW_PRIVS`.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// `/proc/self/oom_score_adj`, -1000 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// How it is scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// Its priority at disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    /// On which CPUs the processes beside the container's run.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Option<ExecCpuAffinity>,
    /// AppArmor's profile for the process; `unconfined` is no profile. Any other needs a kernel with AppArmor that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apparmor_profile: Option<String>,
    /// SELinux's label for the process. It needs a kernel with SELinux on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux_label: Option<String>,
}

/// `process.consoleSize`, in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// `process.rlimits[]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// The soft limit.
    pub soft: u64,
    /// The ceiling of the soft limit.
    pub hard: u64,
}

/// `process.user`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct User {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// umask(2); 0o022 if not given, as runc has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// `process.capabilities`: names such as `CAP_CHOWN`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capabilities {
    /// What execve(2) may ever give.
    #[serde(default)]
    pub bounding: Vec<String>,
    /// What the kernel checks.
    #[serde(default)]
    pub effective: Vec<String>,
    /// What is kept over execve(2) with file capabilities.
    #[serde(default)]
    pub inheritable: Vec<String>,
    /// What may be made effective.
    #[serde(default)]
    pub permitted: Vec<String>,
    /// What is kept over execve(2) without file capabilities.
    #[serde(default)]
    pub ambient: Vec<String>,
}

/// `process.scheduler`, sched_setattr(2).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scheduler {
    /// `SCHED_OTHER` and so on.
    pub policy: String,
    /// -20 to 19.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nice: i32,
    /// Of `SCHED_FIFO` and `SCHED_RR`: 1 to 99.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: u32,
    /// `SCHED_FLAG_RESET_ON_FORK` and so on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Of `SCHED_DEADLINE`, in nanoseconds; so are the next two.
    #[serde(default, skip_serializing_if = "is_default")]
    pub runtime: u64,
    /// Deadline.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deadline: u64,
    /// Period.
    #[serde(default, skip_serializing_if = "is_default")]
    pub period: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `process.ioPriority`, ioprio_set(2).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_RT`, `IOPRIO_CLASS_BE` or `IOPRIO_CLASS_IDLE`.
    pub class: String,
    /// 0, the highest, to 7.
    pub priority: u32,
}

/// `process.execCPUAffinity`: lists such as `0-3,7`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecCpuAffinity {
    /// Before it enters the container's cgroup.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub initial: String,
    /// After.
    #[serde(default, skip_serializing_if = "String::is_empty", rename = "final")]
    pub after: String,
}

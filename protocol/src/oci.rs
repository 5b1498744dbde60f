//! The OCI runtime-spec's `config.json`, as far as tether applies it.
//!
//! A field that is not here is not applied, and so is refused by name when a config holds it: these
//! types are the one list of what is supported. (The crate `oci-spec` knows all fields and forgets unknown ones; its
//! `Spec` alone makes PID 1 2 MB large. A test checks that configs written by these types are read the same by it.)
//!
//! Source: <https://github.com/opencontainers/runtime-spec>, `config.md` and `config-linux.md`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `config.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Version of the runtime-spec, 1.x.
    pub oci_version: String,
    /// The container's process.
    pub process: Process,
    /// The root filesystem.
    pub root: Root,
    /// Hostname of the container's UTS namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// NIS domain name of the container's UTS namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    /// Mounts, made in this order.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Arbitrary metadata; kept, not looked at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    #[serde(default)]
    pub linux: Linux,
}

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

/// `root`. Its `path` is a folder on a host that shares its filesystem; a containerVM's root is made
/// of disks, and `path` must be `rootfs`, the runtime-spec's conventional name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Root {
    /// `rootfs`.
    pub path: String,
    /// Whether the process may not write to its root filesystem.
    #[serde(default)]
    pub readonly: bool,
}

/// `mounts[]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// Where, absolute in the container.
    pub destination: String,
    /// Filesystem type: `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`, `cgroup`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Shown as the source in `/proc/mounts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// mount(8) options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// `linux`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Linux {
    /// New namespaces for the process. It needs `mount`, for it gets a root of its own.
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    /// Kernel parameters, `net.ipv4.ip_forward` and so on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// Paths that cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readonly_paths: Vec<String>,
}

/// `linux.namespaces[]`. Joining an existing one (`path`) is not supported: there is none to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Namespace {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: NamespaceKind,
}

/// `linux.namespaces[].type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NamespaceKind {
    /// Process IDs.
    Pid,
    /// Mounts.
    Mount,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Hostname and domain name.
    Uts,
    /// The cgroup tree's root.
    Cgroup,
    /// Network; without it the process has the VM's own.
    Network,
}

//! `config.json`: `linux`, but for its resources and seccomp.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::Resources;
#[cfg(feature = "seccomp")]
use super::Seccomp;

/// `linux`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Linux {
    /// New namespaces for the process. It needs `mount`, for it gets a root of its own.
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    /// Users of the user namespace, and who they are outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// The same of groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
    /// Offsets of the time namespace's clocks, `monotonic` and `boottime`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub time_offsets: BTreeMap<String, TimeOffset>,
    /// Devices to be made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Path of the container's cgroup below cgroup2's root; `/container` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroups_path: Option<String>,
    /// Limits of the cgroup.
    #[serde(default, skip_serializing_if = "Resources::is_none")]
    pub resources: Resources,
    /// What the process may not call. `vch` compiles it to [`crate::Seccomp`]: tether does not know this field.
    #[cfg(feature = "seccomp")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// Propagation of the root's mount: `shared`, `slave`, `private`, `unbindable`, each also with an `r` before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs_propagation: Option<String>,
    /// Execution domain, personality(2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personality: Option<Personality>,
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

impl Linux {
    /// Whether there is a seccomp profile that has not been compiled.
    pub fn has_seccomp(&self) -> bool {
        #[cfg(feature = "seccomp")]
        return self.seccomp.is_some();
        #[cfg(not(feature = "seccomp"))]
        false
    }
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
    /// The clocks `monotonic` and `boottime`.
    Time,
    /// Users, groups and capabilities; the others belong to it, but for `pid`.
    User,
}

/// `linux.uidMappings[]`, `linux.gidMappings[]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMapping {
    /// The first ID inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// What it is outside, that is in the VM.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many there are, one after the other.
    pub size: u32,
}

/// `linux.timeOffsets{}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimeOffset {
    /// Seconds.
    #[serde(default)]
    pub secs: i64,
    /// Nanoseconds, below 10^9.
    #[serde(default)]
    pub nanosecs: u32,
}

/// `linux.devices[]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    /// `c` or `u`, `b`, `p`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Absolute in the container.
    pub path: String,
    /// Major number; none of a FIFO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major: Option<u32>,
    /// Minor number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor: Option<u32>,
    /// Permissions; 0o666 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Owning group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// `linux.personality`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Personality {
    /// `LINUX` or `LINUX32`.
    pub domain: String,
    /// The spec knows none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

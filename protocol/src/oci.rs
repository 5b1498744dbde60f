//! The OCI runtime-spec's `config.json`, as far as tether applies it.
//!
//! A field that is not here is not applied, and so is refused by name when a config holds it: these
//! types are the one list of what is supported. (The crate `oci-spec` knows all fields and forgets unknown ones; its
//! `Spec` alone makes PID 1 2 MB large. A test checks that configs written by these types are read the same by it.)
//!
//! Source: <https://github.com/opencontainers/runtime-spec>, `config.md` and `config-linux.md`.

mod capabilities;
mod linux;
mod process;
mod resources;
#[cfg(feature = "seccomp")]
mod seccomp;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use capabilities::*;
pub use linux::*;
pub use process::*;
pub use resources::*;
#[cfg(feature = "seccomp")]
pub use seccomp::*;

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
    /// Filesystem type: `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`, `cgroup`, `bind`; nothing with the option `bind`,
    /// `rbind` or `remount`.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Of a bind mount a path in the container; else what `/proc/mounts` shows as the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// mount(8) options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

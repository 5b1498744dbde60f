//! The machine spec: all that a containerVM is told to be.

use crate::oci;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The version of [`MachineSpec`] that this crate reads and writes.
pub const SPEC_VERSION: u32 = 1;

/// An OCI runtime-spec `config.json`, plus what only a virtual machine needs.
///
/// Unknown fields, here and in the config, are errors that name the field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachineSpec {
    /// [`SPEC_VERSION`].
    pub version: u32,
    /// The runtime-spec's `config.json`.
    pub config: oci::Spec,
    /// The disks that make the root filesystem.
    pub disks: Disks,
    /// The user in docker's form, `NAME|UID[:GROUP|GID]`, looked up in the image's own `/etc/passwd`
    /// and `/etc/group`, which only the guest can read. It overrides `config.process.user`'s uid, gid and
    /// groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether tether puts an init of its own into the PID namespace, as `docker run --init` does: it reaps
    /// orphans, and the container's process, being PID 2, takes signals as processes do. The kernel keeps
    /// every signal without a handler, SIGKILL too, from a PID 1 that sends it to itself. `vch run` has it on;
    /// `--init=false` is for images that insist on being PID 1 (s6-overlay, systemd).
    #[serde(default)]
    pub init: bool,
}

/// Disks, named by the UUID in their filesystem's superblock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disks {
    /// The image's layers, lowest first, each once. Read-only.
    pub layers: Vec<Uuid>,
    /// The writable disk on top of them.
    pub scratch: Uuid,
}

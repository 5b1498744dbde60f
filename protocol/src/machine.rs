//! The machine spec: all that a containerVM is told to be.

use crate::network::Network;
use crate::oci;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
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
    /// and `/etc/group`, which only the guest can read. It overrides `config.process.user`'s uid and gid; its
    /// `additionalGids` are added to the user's groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Further groups of the process, names or numbers, looked up in the image's `/etc/group`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Devices of the machine that the container gets; only the guest knows their numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<GuestDevice>,
    /// `config.linux.seccomp`, compiled by the host: so the guest needs no table of calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// Whether tether puts an init of its own into the PID namespace, as `docker run --init` does: it reaps
    /// orphans, and the container's process, being PID 2, takes signals as processes do. The kernel keeps
    /// every signal without a handler, SIGKILL too, from a PID 1 that sends it to itself. `vch run` has it on;
    /// `--init=false` is for images that insist on being PID 1 (s6-overlay, systemd).
    #[serde(default)]
    pub init: bool,
    /// Whether the image's files and those on volumes are whose they are inside the user namespace, as by `config.linux`'s mappings;
    /// otherwise they keep their owners, as the runtime-spec has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idmapped: bool,
    /// Interfaces, and what `/etc/hosts` and its like say.
    #[serde(default)]
    pub network: Network,
    /// Disks that keep what is written to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Folders and files of the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
    /// Folders of NFS servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nfs: Vec<Nfs>,
}

impl MachineSpec {
    /// A machine of the current version that has these, and nothing else.
    pub fn new(config: oci::Spec, disks: Disks) -> Self {
        Self {
            version: SPEC_VERSION,
            config,
            disks,
            user: None,
            groups: Vec::new(),
            devices: Vec::new(),
            seccomp: None,
            init: false,
            idmapped: false,
            network: Network::default(),
            volumes: Vec::new(),
            shares: Vec::new(),
            nfs: Vec::new(),
        }
    }
}

/// A device of the machine, or all that are below a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuestDevice {
    /// Its path in tether's `/dev`.
    pub source: String,
    /// Its path in the container.
    pub destination: String,
    /// Some of `r`, `w`, `m`: what the container may do with it.
    pub access: String,
}

/// A seccomp filter, seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Seccomp {
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// Instructions of classic BPF (`struct sock_filter`: code, jt, jf, k), little-endian, each as 16 hex digits.
    pub program: String,
}

/// Disks, named by the UUID in their filesystem's superblock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disks {
    /// The image's layers, lowest first, each once. Read-only.
    pub layers: Vec<Layer>,
    /// The writable disk on top of them.
    pub scratch: Uuid,
    /// Whether that is thrown away with the machine: then nothing is written out to it at the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
}

/// A read-only disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Layer {
    /// What it is found by.
    pub uuid: Uuid,
    /// The hash tree that every block read of it is checked with; without one, nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity: Option<Verity>,
}

/// A disk that outlives the machine: an ext4 whose folder `data` the container sees at `destination`. (So `lost+found` does
/// not show.) Without that folder it was never filled, and is, where it can be written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// For people.
    pub name: String,
    /// What it is found by.
    pub uuid: Uuid,
    /// Where, absolute in the container; made if missing.
    pub destination: String,
    /// Whether the container may not write to it.
    #[serde(default)]
    pub readonly: bool,
    /// Whether the disk itself cannot be written to, so that several machines may have it.
    #[serde(default)]
    pub shared: bool,
    /// Whether it shall not get what the image has at `destination`, when it is empty.
    #[serde(default)]
    pub nocopy: bool,
    /// The folder of it that the container sees, relative; all of it if not given. It must be there, and is not filled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subpath: Option<String>,
}

/// A folder of the host's, by virtiofs; or a file, which is the file `file` in the folder that is shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Share {
    /// What the device is found by.
    pub tag: String,
    /// Where, absolute in the container; made if missing.
    pub destination: String,
    /// Whether the container may not write to it.
    #[serde(default)]
    pub readonly: bool,
    /// Whether it is a file.
    #[serde(default)]
    pub file: bool,
}

/// A folder that an NFS server exports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nfs {
    /// For people.
    pub name: String,
    /// The server's address, as the guest reaches it.
    pub server: IpAddr,
    /// The folder, absolute on the server.
    pub path: String,
    /// Versions of the protocol to be tried, in this order: `4.2`, `4.1`, `4.0`, `3`.
    pub versions: Vec<String>,
    /// Further options, nfs(5) and mount(8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Where, absolute in the container; made if missing.
    pub destination: String,
    /// Whether the container may not write to it.
    #[serde(default)]
    pub readonly: bool,
    /// As of a [`Volume`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subpath: Option<String>,
}

/// A disk's hash tree for dm-verity (Linux, `Documentation/admin-guide/device-mapper/verity.rst`, whose names these are):
/// hash type 1, SHA-256, no salt, data and hash blocks of 4096 bytes, all on the disk itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Verity {
    /// The blocks that are checked, from the disk's start; more cannot be read.
    pub num_data_blocks: u64,
    /// Number of the tree's first block, which has the root hash.
    pub hash_start_block: u64,
    /// The root hash. A disk with another is refused.
    pub root_hash: RootHash,
}

/// A SHA-256 hash: 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RootHash(String);

impl TryFrom<String> for RootHash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) && text.len() == 64 {
            true => Ok(Self(text)),
            false => Err(format!("{text:?} is not a root hash: 64 lower-case hex digits")),
        }
    }
}

impl std::fmt::Display for RootHash {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_hash_is_nothing_but_hex() {
        let hash = |text: &str| RootHash::try_from(text.to_owned());
        assert_eq!(hash(&"0a".repeat(32)).unwrap().to_string(), "0a".repeat(32));
        for bad in ["", &"0a".repeat(31), &"0A".repeat(32), &format!("{} - 1 x", "0a".repeat(28))] {
            assert!(hash(bad).is_err(), "{bad:?}");
            assert!(serde_json::from_value::<RootHash>(bad.into()).is_err());
        }
    }
}

//! A user namespace of the container's own.

use anyhow::Result;
use protocol::MachineSpec;
use protocol::oci::{Namespace, NamespaceKind};

use crate::options::user_namespace::UserNamespace;

/// Gives it one, if it shall have one. The image's files are whose they are in it.
pub fn apply(machine: &mut MachineSpec, options: &UserNamespace) -> Result<()> {
    if let Some([uids, gids]) = options.mappings()? {
        let linux = &mut machine.config.linux;
        linux.namespaces.push(Namespace { kind: NamespaceKind::User });
        (linux.uid_mappings, linux.gid_mappings) = (uids, gids);
        machine.idmapped = true;
    }
    Ok(())
}

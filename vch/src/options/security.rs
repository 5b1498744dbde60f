//! What the container may do.

use anyhow::{Result, ensure};
use clap::Args;

/// Docker's options about it; [`crate::spec`] reads them.
#[derive(Debug, Clone, Default, Args)]
pub struct Security {
    /// Add a capability, with or without CAP_; ALL are all (repeatable)
    #[arg(long, value_name = "NAME")]
    pub cap_add: Vec<String>,

    /// Take a capability away (repeatable)
    #[arg(long, value_name = "NAME")]
    pub cap_drop: Vec<String>,

    /// All capabilities, all devices of the VM, nothing hidden, read-only or filtered
    #[arg(long)]
    pub privileged: bool,

    /// seccomp=FILE|builtin|unconfined, no-new-privileges[=BOOL], systempaths=unconfined, apparmor=PROFILE,
    /// label=disable (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub security_opt: Vec<String>,

    /// Give the container a device of the VM's (repeatable)
    #[arg(long, value_name = "PATH[:PATH][:rwm]")]
    pub device: Vec<String>,

    /// Add the process to a group, looked up in the image (repeatable)
    #[arg(long, value_name = "NAME|GID", value_parser = group)]
    pub group_add: Vec<String>,
}

fn group(text: &str) -> Result<String> {
    ensure!(!text.is_empty(), "it is empty: a group's name or ID is needed");
    Ok(text.to_owned())
}

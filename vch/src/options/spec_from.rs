//! Where the guest finds what it is to run.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// Options for the machine spec's way.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct SpecOptions {
    /// How the guest is told what to run: over the channel; or by QEMU's fw_cfg, or a config disk, as where nobody waits for it
    #[arg(long, value_enum, value_name = "WAY", default_value = "channel")]
    pub spec_from: SpecFrom,
}

/// The ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpecFrom {
    /// A message, when the guest says that it is ready.
    #[default]
    Channel,
    /// QEMU's fw_cfg, `opt/org.containervm/spec`.
    FwCfg,
    /// A disk that begins with it.
    Disk,
}

impl SpecFrom {
    /// What the kernel's command line says of it.
    pub fn parameter(self) -> String {
        let value = self.to_possible_value();
        format!("containervm.spec={}", value.as_ref().map_or("", |value| value.get_name()))
    }
}

//! More about the process, and words about the container.

use std::path::PathBuf;

use clap::Args;

/// Docker's options about it; [`crate::spec`] reads them.
#[derive(Debug, Clone, Default, Args)]
pub struct ProcessOptions {
    /// Set the environment from a file's lines, NAME=VALUE each; -e comes after it (repeatable)
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,

    /// What `vch stop` sends, in place of the image's signal or TERM
    #[arg(long, value_name = "SIGNAL", value_parser = crate::signal_names::parse)]
    pub stop_signal: Option<i32>,

    /// Seconds that `vch stop` waits, if it is not told another number
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<u32>,

    /// Put a label on the container (repeatable)
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub label: Vec<String>,

    /// The same from a file's lines (repeatable)
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,
}

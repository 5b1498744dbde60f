//! More about the process, and words about the container.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedI64ValueParser;

/// Docker's options about it; [`crate::spec`] reads them.
#[derive(Debug, Clone, Default, Args)]
pub struct ProcessOptions {
    /// Set the environment from a file's lines, NAME=VALUE each; -e comes after it (repeatable)
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,

    /// What `vch stop` sends, in place of the image's signal or TERM
    #[arg(long, value_name = "SIGNAL", value_parser = crate::signal_names::parse)]
    pub stop_signal: Option<i32>,

    /// Seconds that `vch stop` waits, if it is not told another number; -1 is without end
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = grace())]
    pub stop_timeout: Option<i64>,

    /// Put a label on the container (repeatable)
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub label: Vec<String>,

    /// The same from a file's lines (repeatable)
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,
}

/// Seconds until a process is killed; -1 is never.
pub(crate) fn grace() -> RangedI64ValueParser<i64> {
    clap::value_parser!(i64).range(-1..=u32::MAX.into())
}

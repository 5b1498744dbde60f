//! Whether the VM boots, or goes on from where another one was frozen.

use std::convert::Infallible;
use std::str::FromStr;

use clap::Args;

/// Options for the start of the VM.
#[derive(Debug, Clone, Default, Args)]
pub struct TemplateOptions {
    /// Do not boot, but go on from where a template was frozen: the one of that name (`vch template`), or with auto one that fits,
    /// which is made first where there is none
    #[arg(long, value_name = "auto|NAME", num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    pub from_template: Option<Choice>,
}

/// Which template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Whichever fits.
    Auto,
    /// The one that is called so.
    Named(String),
}

impl FromStr for Choice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "auto" { Self::Auto } else { Self::Named(text.to_owned()) })
    }
}

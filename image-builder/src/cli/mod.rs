//! The commands, one a file: each has an `Args` that clap fills and a `run`.
//!
//! Images and disks share two verbs: `ls` alone lists the store's images and `ls DISK [PATH]` a folder on a disk, for a
//! list of images takes options only. `cat` and `diff` are of disks alone.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use image_builder::store;
use serde::Serialize;

pub mod build;
pub mod inspect;
mod progress;
mod source;

/// What every command takes.
#[derive(Args)]
pub struct Common {
    /// Folder of the store [default: $CONTAINERVM_STORE, $XDG_DATA_HOME/containervm or ~/.local/share/containervm]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Print JSON: one document, or one a line
    #[arg(long, global = true)]
    pub json: bool,
}

impl Common {
    /// The store's folder.
    pub fn store_dir(&self) -> Result<PathBuf> {
        self.store.clone().map_or_else(store::default_dir, Ok)
    }

    /// A line on stdout: `value` as JSON if that was asked for, else `text`.
    pub fn print(&self, text: &str, value: &impl Serialize) -> Result<()> {
        if self.json { print(&serde_json::to_string(value)?) } else { print(text) }
    }
}

/// A line on stdout; a reader that went away is an error like any other, not a panic.
pub fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to stdout")
}

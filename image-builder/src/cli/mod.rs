//! The commands, one a file: each has an `Args` that clap fills and a `run`.
//!
//! Images and disks share two verbs: `ls` alone lists the store's images and `ls DISK [PATH]` a folder on a disk, for a
//! list of images takes options only. `cat` and `diff` are of disks alone.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use image_builder::store::{self, DamagedRecord, ImageStore};
use serde::Serialize;

pub mod build;
pub mod cat;
pub mod diff;
pub mod export;
mod human;
pub mod images;
pub mod inspect;
pub mod load;
pub mod ls;
mod names;
mod progress;
pub mod pull;
pub mod rm;
mod source;
pub mod tag;
pub mod verify;

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

    /// The store, which must be there: a folder that is not may be mistyped.
    pub fn store(&self) -> Result<ImageStore> {
        let dir = self.store_dir()?;
        ImageStore::existing(&dir)?.with_context(|| format!("no store at {}", dir.display()))
    }

    /// A line on stdout: `value` as JSON if that was asked for, else `text`.
    pub fn print(&self, text: &str, value: &impl Serialize) -> Result<()> {
        self.print_bytes(text.as_bytes(), value)
    }

    /// As [`Common::print`], of text that names of files make something else than UTF-8.
    pub fn print_bytes(&self, text: &[u8], value: &impl Serialize) -> Result<()> {
        let mut line = if self.json { serde_json::to_vec(value)? } else { text.to_vec() };
        line.push(b'\n');
        Stdout.write_all(&line).context("cannot write to stdout")
    }
}

/// The errors of a command that goes on with what it can do, as one.
fn all(failed: &[String]) -> Result<()> {
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Of records that cannot be read, each by name: the command did what it could with the others.
fn damaged(records: &[DamagedRecord]) -> Result<()> {
    all(&records.iter().map(DamagedRecord::to_string).collect::<Vec<_>>())
}

/// A line on stderr.
pub fn say(line: &str) {
    put(&format!("{line}\n"));
}

/// Text on stderr. If nobody reads it, there is nobody to tell; `eprintln!` would panic.
fn put(text: &str) {
    drop(io::stderr().write_all(text.as_bytes()));
}

/// A line on stdout.
pub fn print(line: &str) -> Result<()> {
    Stdout.write_all(format!("{line}\n").as_bytes()).context("cannot write to stdout")
}

/// Standard output. When its reader has gone (`ls | head -1`) the program ends, without a word and with the status of
/// SIGPIPE, as others do by that signal; we get an error instead, for connections and helpers can close as well.
struct Stdout;

impl Stdout {
    fn checked<T>(result: io::Result<T>) -> io::Result<T> {
        match result {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(128 + libc::SIGPIPE),
            other => other,
        }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::checked(io::stdout().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::checked(io::stdout().flush())
    }
}

//! A container in the background, and the command line on it.

use crate::harness::{command_with_store, eventually, temporary, vch};
use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::{Command, Stdio};

/// `vch COMMAND --store STORE ARGUMENTS`.
pub fn cli(store: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(vch());
    command.arg(arguments[0]).arg("--store").arg(store).args(&arguments[1..]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What it prints, when all goes well.
pub fn said(store: &Path, arguments: &[&str]) -> Result<String> {
    let output = cli(store, arguments).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {}, {error}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// `vch run -d`, in a store of its own; gone with the value.
pub struct Background {
    pub store: tempfile::TempDir,
    pub name: &'static str,
}

impl Background {
    pub fn run(name: &'static str, options: &[&str], arguments: &[&str]) -> Result<Self> {
        let store = temporary()?;
        let started = Self { store, name };
        started.again(name, options, arguments)?;
        Ok(started)
    }

    /// Another one in the same store; gives its ID.
    pub fn again(&self, name: &str, options: &[&str], arguments: &[&str]) -> Result<String> {
        let options = [&["-d"], options].concat();
        let mut command = command_with_store(self.store.path(), name, &options, arguments);
        // Kept when it has ended.
        let kept: Vec<_> = command.get_args().filter(|word| *word != "--rm").map(ToOwned::to_owned).collect();
        command = Command::new(command.get_program());
        let output = command.args(kept).stdin(Stdio::null()).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {error}", output.status);
        let id = String::from_utf8(output.stdout)?.trim().to_owned();
        ensure!(id.len() == 64, "{id:?}");
        Ok(id)
    }

    pub fn said(&self, arguments: &[&str]) -> Result<String> {
        said(self.store.path(), arguments)
    }

    pub fn cli(&self, arguments: &[&str]) -> Command {
        cli(self.store.path(), arguments)
    }

    /// The process that monitors it.
    pub fn monitor(&self) -> Result<Pid> {
        let store = self.store.path().as_os_str().as_encoded_bytes();
        for process in std::fs::read_dir("/proc")?.flatten() {
            let Ok(line) = std::fs::read(process.path().join("cmdline")) else { continue };
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            let monitors = words.get(1).is_some_and(|word| [&b"monitor"[..], b"adopt"].contains(word));
            if monitors && words.contains(&store) {
                return Ok(Pid::from_raw(process.file_name().to_string_lossy().parse()?));
            }
        }
        anyhow::bail!("no monitor")
    }

    pub fn kill_monitor(&self) -> Result<()> {
        let monitor = self.monitor()?;
        kill(monitor, Signal::SIGKILL)?;
        eventually("the monitor is gone", || self.monitor().ok() != Some(monitor))
    }
}

impl Drop for Background {
    /// A test that fails leaves no VM behind.
    fn drop(&mut self) {
        if let Ok(ids) = said(self.store.path(), &["ps", "-aq"]) {
            for id in ids.lines() {
                let _ = self.cli(&["rm", "-f", id]).output();
            }
        }
    }
}

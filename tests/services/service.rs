//! A service in the background, and the lines to it.

use crate::harness::{kernel_words, store, vch};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a service may take to come up, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// `vch ARGUMENTS`, with the tests' store.
pub fn vch_with(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(vch());
    command.env("CONTAINERVM_STORE", store()).args(arguments).stdin(Stdio::null());
    command.output().context("cannot run vch")
}

/// What it prints, when all goes well.
pub fn said(arguments: &[&str]) -> Result<String> {
    let output = vch_with(arguments)?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "vch {arguments:?}: {}: {error}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// A container; gone with the value.
pub struct Service {
    pub name: String,
}

impl Service {
    /// `vch run -d OPTIONS IMAGE COMMAND`.
    pub fn start(name: &str, options: &[&str], image: &str, command: &[&str]) -> Result<Self> {
        let service = Self { name: format!("{name}-{}", std::process::id()) };
        let kernel = kernel_words().map(|word| word.display().to_string());
        let begin =
            [&["run", "-d", "--name", &service.name][..], &kernel.each_ref().map(String::as_str)].concat();
        said(&[&begin, options, &[image], command].concat())?;
        Ok(service)
    }

    /// `vch exec`: its stdout.
    pub fn exec(&self, options: &[&str], command: &[&str]) -> Result<String> {
        said(&[&["exec"], options, &[&*self.name], command].concat())
    }

    /// Runs `command` in it until that says `wanted`.
    pub fn until(&self, options: &[&str], command: &[&str], wanted: &str) -> Result<()> {
        patiently(|| {
            let said = self.exec(options, command)?;
            ensure!(said.contains(wanted), "{command:?} says {said:?}, not {wanted:?}");
            Ok(())
        })
        .with_context(|| self.log())
    }

    /// A connection to a port of it that is published, when it greets.
    pub fn connect(&self, port: u16) -> Result<TcpStream> {
        let published = said(&["port", &self.name, &port.to_string()])?;
        let stream = TcpStream::connect(published.lines().next().unwrap_or_default().trim())
            .with_context(|| format!("cannot connect to {published}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(stream)
    }

    /// What it answers to `question`, `length` bytes of it.
    pub fn ask(&self, port: u16, question: &[u8], length: usize) -> Result<String> {
        let mut stream = self.connect(port)?;
        stream.write_all(question)?;
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Ends it as its image asks to be ended, and removes it; gives its exit status.
    pub fn stop(self) -> Result<String> {
        said(&["stop", "-t", "120", &self.name])?;
        said(&["wait", &self.name])
    }

    pub fn log(&self) -> String {
        match vch_with(&["logs", &self.name]) {
            Ok(output) => format!(
                "its log:\n{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => format!("its log cannot be read: {error:#}"),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _removed = vch_with(&["rm", "-f", &self.name]);
    }
}

/// A volume; gone with the value, which must outlive the services that use it.
pub struct Volume(pub String);

impl Volume {
    pub fn create(name: &str) -> Result<Self> {
        let volume = Self(format!("{name}-{}", std::process::id()));
        said(&["volume", "create", "--size", "1g", &volume.0])?;
        Ok(volume)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _removed = vch_with(&["volume", "rm", "-f", &self.0]);
    }
}

/// Tries again, until it works or patience ends.
pub fn patiently<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(500)),
            result => return result,
        }
    }
}

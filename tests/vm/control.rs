//! What is asked and said beside the container's data: the clock, statistics, processes that memory ran out for, the guest's
//! kernel log.

use crate::harness::{Test, command_with_store, temporary, vch};
use crate::tests;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub fn tests() -> Vec<Test> {
    tests![a_stopped_vm]
}

/// `vch COMMAND --store STORE ARGUMENTS`.
fn cli(store: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(vch());
    command.arg(arguments[0]).arg("--store").arg(store).args(&arguments[1..]).stdin(Stdio::null());
    Ok(command.output()?)
}

/// `vch run` in the foreground, in a store of its own, with stdin and stdout in our hands; killed with the value.
struct Foreground {
    store: tempfile::TempDir,
    name: &'static str,
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Foreground {
    fn run(name: &'static str, options: &[&str], script: &str) -> Result<Self> {
        let store = temporary()?;
        let options = [&["-i"], options].concat();
        let mut command = command_with_store(store.path(), name, &options, &["sh", "-c", script]);
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { store, name, child, stdout })
    }

    /// Its next line.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        if line.is_empty() {
            let mut error = String::new();
            self.child.stderr.take().context("no stderr")?.read_to_string(&mut error)?;
            anyhow::bail!("it has ended: {error}");
        }
        Ok(line.trim_end().to_owned())
    }

    /// What it answers to a line.
    fn answer(&mut self, line: &str) -> Result<String> {
        writeln!(self.child.stdin.as_mut().context("no stdin")?, "{line}")?;
        self.line()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = cli(self.store.path(), &["rm", "-f", self.name]);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A QMP client, as an administrator would have one.
struct Qmp(BufReader<UnixStream>);

impl Qmp {
    fn connect(path: &Path) -> Result<Self> {
        let mut qmp = Self(BufReader::new(UnixStream::connect(path)?));
        qmp.order("qmp_capabilities")?;
        Ok(qmp)
    }

    fn order(&mut self, name: &str) -> Result<()> {
        writeln!(self.0.get_mut(), "{{\"execute\":\"{name}\"}}")?;
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "QEMU is gone");
            ensure!(!line.contains("\"error\""), "{line}");
            if line.contains("\"return\"") {
                return Ok(());
            }
        }
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// One that was stopped for a while has the right time when it goes on.
fn a_stopped_vm() -> Result<()> {
    let dir = temporary()?;
    let socket = dir.path().join("qmp");
    let socket_argument = format!("--qemu-arg=unix:{},server=on,wait=off", socket.display());
    let mut vm = Foreground::run(
        "stopped",
        &["--qemu-arg=-qmp", &socket_argument],
        "while read line; do date +%s; done",
    )?;
    vm.answer("go")?;
    let mut qmp = Qmp::connect(&socket)?;
    qmp.order("stop")?;
    std::thread::sleep(Duration::from_secs(10));
    let before = seconds();
    qmp.order("cont")?;
    let mut told = 0;
    // The guest hears of the time a moment after it goes on.
    for _ in 0..20 {
        told = vm.answer("go")?.parse()?;
        if told >= before {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("the guest's clock says {told}, ours said {before}")
}

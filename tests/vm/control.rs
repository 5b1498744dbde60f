//! What is asked and said beside the container's data: the clock, statistics, processes that memory ran out for, the guest's
//! kernel log.

use crate::background::Background;
use crate::harness::{self, Test, command_with_store, eventually, temporary, vch};
use crate::tests;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vch::exit::End;

pub fn tests() -> Vec<Test> {
    tests![a_stopped_vm, what_it_uses, victims_of_the_memory, a_panic]
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
    // The guest hears of the time a moment after it goes on; by itself it would stay ten seconds behind.
    let end = Instant::now() + Duration::from_secs(180);
    loop {
        let (ours, told): (u64, u64) = (seconds(), vm.answer("go")?.parse()?);
        if told >= before && told + 1 >= ours {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the guest's clock says {told}, ours {ours}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn what_it_uses() -> Result<()> {
    let script = "dd if=/dev/zero of=/file bs=1M count=8 conv=fsync; echo up; while :; do :; done";
    let busy = Background::run("busy", &["--debug", "-m", "192m"], &["sh", "-c", script])?;
    eventually("it is up", || busy.said(&["logs", busy.name]).is_ok_and(|log| log.contains("up\n")))?;
    let first: Value = serde_json::from_str(&busy.said(&["stats", "--no-stream", "--format", "json"])?)?;
    let later = busy.said(&["stats", "--no-stream", "--format", "json", busy.name])?;
    let later: Value = serde_json::from_str(&later)?;
    let count = |stats: &Value, name: &str| stats["Counts"][name].as_u64().unwrap_or(0);
    ensure!(first["Name"] == busy.name && later["PIDs"] == "2", "{first} {later}");
    ensure!(
        count(&later, "at") > count(&first, "at") && count(&later, "cpu") > count(&first, "cpu"),
        "{later}"
    );
    ensure!(later["CPUPerc"] != "0.00%", "{later}");
    let (memory, limit) = (count(&later, "memory"), count(&later, "memoryLimit"));
    ensure!(memory > 64 << 10 && memory < limit && limit > 100 << 20 && limit < 192 << 20, "{later}");
    ensure!(count(&later, "written") >= 8 << 20, "{later}");
    // tether's init and the shell.
    ensure!(count(&later, "pids") == 2, "{later}");
    let table = busy.said(&["stats", "--no-stream", busy.name])?;
    ensure!(table.starts_with("CONTAINER ID") && table.lines().count() == 2, "{table}");
    // All of the kernel's log, for --debug.
    let kernel = busy.said(&["logs", "--guest", busy.name])?;
    ensure!(kernel.contains("Linux version"), "{kernel}");
    ensure!(busy.said(&["logs", "--guest", "-n", "3", busy.name])?.lines().count() == 3, "not three lines");
    busy.said(&["kill", busy.name])?;
    busy.said(&["wait", busy.name])?;
    let ended = busy.cli(&["stats", "--no-stream", busy.name]).output()?;
    ensure!(String::from_utf8_lossy(&ended.stderr).contains("container busy is not running"), "{ended:?}");
    ensure!(
        busy.said(&["logs", "--guest", busy.name])?.contains("Linux version"),
        "the guest's log has gone"
    );
    ensure!(busy.said(&["stats", "--no-stream", "--format", "json"])?.is_empty(), "it is still told of");
    Ok(())
}

/// One that is not the container's process, which hears of it; then that, too.
fn victims_of_the_memory() -> Result<()> {
    let script = "head -c 1000000000 /dev/zero | tail; echo $?; exec tail /dev/zero";
    let memory = Background { store: temporary()?, name: "victims" };
    let mut command =
        command_with_store(memory.store.path(), memory.name, &["-m", "128m"], &["sh", "-c", script]);
    let kept: Vec<_> = command.get_args().filter(|word| *word != "--rm").map(ToOwned::to_owned).collect();
    command = Command::new(command.get_program());
    let ran = command.args(kept).stdin(Stdio::null()).output()?;
    let error = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.code() == Some(137) && ran.stdout == b"137\n", "{ran:?}");
    ensure!(error.matches("the guest's kernel has killed process \"tail\"").count() == 2, "{error}");
    ensure!(error.contains("the container ran out of memory and was killed"), "{error}");
    let listed: Value = serde_json::from_str(&memory.said(&["ps", "-a", "--format", "json"])?)?;
    ensure!(listed["OOMKilled"] == true && listed["ExitCode"] == 137, "{listed}");
    let kernel = memory.said(&["logs", "--guest", memory.name])?;
    ensure!(kernel.matches("has killed process").count() == 2, "{kernel}");
    Ok(())
}

/// The guest's kernel gives up, at the wish of a container that is allowed to make it.
fn a_panic() -> Result<()> {
    let image = image_builder::source::open(&harness::busybox(), &image_builder::source::Options::default())?;
    let store = image_builder::store::LayerStore::open(harness::store())?;
    let disk = store.layer_disk(image.layers.first().context("busybox has a layer")?, &mut |_, _| {})?;
    let options = harness::shell("echo before; echo c > /proc/sysrq-trigger; sleep 1000");
    let ran =
        harness::machine(&options, &[(&disk.path, protocol::Uuid::from_bytes(disk.uuid))], |machine| {
            machine.config.linux.readonly_paths.clear();
        })?;
    let End::Panicked { reason, log } = &ran.outcome.end else { anyhow::bail!("{ran:?}") };
    ensure!(reason.contains("Kernel panic - not syncing: sysrq triggered crash"), "{reason}");
    ensure!(log.iter().any(|line| line.contains("Kernel panic")), "{log:?}");
    // Our own kernel traces calls at an oops, but not at a panic (DEBUG_BUGVERBOSE).
    let traces = harness::own_kernel().is_none();
    ensure!(!traces || log.iter().any(|line| line.contains("Call Trace")), "{log:?}");
    ensure!(ran.code() == 125, "{}", ran.code());
    let error = String::from_utf8_lossy(&ran.stderr);
    ensure!(log.iter().all(|line| error.contains(&format!("[guest] {line}\n"))), "{error}");
    Ok(())
}

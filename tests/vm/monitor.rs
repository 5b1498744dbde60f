//! Containers that outlive those who started them: `vch run -d`, `ps`, `logs`, `attach`, `kill`, `stop`, `wait`, `rm`, and
//! `kill -9` of the monitor.

use crate::harness::{Test, command_with_store, eventually, qemus, temporary, vch};
use crate::tests;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub fn tests() -> Vec<Test> {
    tests![
        in_the_background,
        attached_twice,
        the_client_is_killed,
        the_monitor_is_killed,
        a_client_finds_the_next_monitor,
        an_end_that_nobody_sees
    ]
}

/// `vch COMMAND --store STORE ARGUMENTS`.
fn cli(store: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(vch());
    command.arg(arguments[0]).arg("--store").arg(store).args(&arguments[1..]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What it prints, when all goes well.
fn said(store: &Path, arguments: &[&str]) -> Result<String> {
    let output = cli(store, arguments).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {}, {error}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// `vch run -d`, in a store of its own; gone with the value.
pub struct Background {
    pub store: tempfile::TempDir,
    name: &'static str,
}

impl Background {
    pub fn run(name: &'static str, options: &[&str], arguments: &[&str]) -> Result<Self> {
        let store = temporary()?;
        let started = Self { store, name };
        started.again(name, options, arguments)?;
        Ok(started)
    }

    /// Another one in the same store; gives its ID.
    fn again(&self, name: &str, options: &[&str], arguments: &[&str]) -> Result<String> {
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

fn in_the_background() -> Result<()> {
    let script =
        "trap 'echo hup' HUP; trap 'echo bye >&2; exit 7' TERM; echo up; while :; do sleep 0.1; done";
    let web = Background::run("background", &[], &["sh", "-c", script])?;
    ensure!(qemus("background") == 1, "it does not run");
    eventually("it says that it is up", || web.said(&["logs", web.name]).is_ok_and(|log| log == "up\n"))?;
    let row = web.said(&["ps", "--format", "json"])?;
    ensure!(row.contains("\"Names\":\"background\"") && row.contains("\"State\":\"running\""), "{row}");
    let id = web.said(&["ps", "-q", "--no-trunc"])?;
    let mut follower = web.cli(&["logs", "-f", "-t", &id[..10]]).spawn()?;
    let waiter = web.cli(&["wait", web.name]).spawn()?;
    web.said(&["kill", "-s", "HUP", web.name])?;
    eventually("it has got the signal", || {
        web.said(&["logs", "-n", "1", web.name]).is_ok_and(|log| log == "hup\n")
    })?;
    let refused = web.cli(&["rm", web.name]).output()?;
    ensure!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("running"),
        "{refused:?}"
    );
    web.said(&["stop", web.name])?;
    let waited = waiter.wait_with_output()?;
    ensure!(waited.stdout == b"7\n", "{waited:?}");
    ensure!(web.said(&["ps", "-q"])?.is_empty(), "it is listed as running");
    ensure!(web.said(&["ps", "-a"])?.contains("Exited (7)"), "{}", web.said(&["ps", "-a"])?);
    let followed = {
        let mut text = String::new();
        follower.stdout.take().context("no stdout")?.read_to_string(&mut text)?;
        follower.wait()?;
        text
    };
    let lines: Vec<_> =
        followed.lines().filter_map(|line| line.split_once("Z ")).map(|(_, text)| text).collect();
    ensure!(lines == ["up", "hup"], "{followed:?}");
    let logs = web.cli(&["logs", web.name]).output()?;
    ensure!(logs.stdout == b"up\nhup\n" && logs.stderr == b"bye\n", "{logs:?}");
    ensure!(web.said(&["wait", web.name])? == "7\n", "the exit status is forgotten");
    let attached = web.cli(&["attach", web.name]).output()?;
    ensure!(String::from_utf8_lossy(&attached.stderr).contains("has ended"), "{attached:?}");
    web.said(&["rm", web.name])?;
    ensure!(web.said(&["ps", "-aq"])?.is_empty() && qemus("background") == 0, "it is still there");
    let gone = web.cli(&["logs", web.name]).output()?;
    ensure!(String::from_utf8_lossy(&gone.stderr).contains("no such container"), "{gone:?}");

    // One that does not heed the stop signal.
    web.again("deaf", &[], &["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"])?;
    eventually("it is deaf", || web.said(&["logs", "deaf"]).is_ok_and(|log| log == "up\n"))?;
    web.said(&["stop", "-t", "1", "deaf"])?;
    ensure!(web.said(&["wait", "deaf"])? == "137\n", "not killed");
    web.said(&["rm", "-f", "deaf"]).map(drop)
}

/// Numbered lines, so that what is missing shows.
const NUMBERS: &str = "i=0; while [ $i -lt 200000 ]; do echo $i; i=$((i+1)); done";

fn numbers() -> String {
    (0..200_000).map(|i| format!("{i}\n")).collect()
}

/// That `text` is the end of the numbers, from a line's beginning on or from within one.
fn is_end_of_numbers(text: &str, least: usize) -> Result<()> {
    ensure!(text.len() >= least, "only {} bytes", text.len());
    ensure!(
        numbers().ends_with(text),
        "not the end of it: {:?}...{:?}",
        &text[..40],
        &text[text.len() - 40..]
    );
    Ok(())
}

fn read_all(child: &mut Child) -> Result<String> {
    let mut text = String::new();
    child.stdout.take().context("no stdout")?.read_to_string(&mut text)?;
    Ok(text)
}

fn attached_twice() -> Result<()> {
    let script = format!("read go; {NUMBERS}; exit 3");
    let store = Background::run("attached", &["-i"], &["sh", "-c", &script])?;
    let mut slow = store.cli(&["attach", "--no-stdin", store.name]).spawn()?;
    let mut quick = store.cli(&["attach", store.name]).stdin(Stdio::piped()).spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    use std::io::Write;
    quick.stdin.take().context("no stdin")?.write_all(b"go\n")?;
    is_end_of_numbers(&read_all(&mut quick)?, numbers().len())?;
    ensure!(quick.wait()?.code() == Some(3), "another exit status");
    // It has read nothing so far.
    is_end_of_numbers(&read_all(&mut slow)?, numbers().len())?;
    ensure!(slow.wait()?.code() == Some(3), "another exit status");
    Ok(())
}

fn the_client_is_killed() -> Result<()> {
    let store = Background { store: temporary()?, name: "client" };
    let arguments = ["sh", "-c", "echo up; read line; echo $line; exit 4"];
    let mut client = command_with_store(store.store.path(), store.name, &["-i"], &arguments)
        .stdin(Stdio::piped())
        .spawn()?;
    let _stdin = client.stdin.take();
    let mut line = [0; 3];
    client.stdout.take().context("no stdout")?.read_exact(&mut line)?;
    client.kill()?;
    client.wait()?;
    ensure!(store.said(&["ps", "-q"])?.lines().count() == 1, "it has ended with its client");
    let mut attached = store.cli(&["attach", store.name]).stdin(Stdio::piped()).spawn()?;
    use std::io::Write;
    attached.stdin.take().context("no stdin")?.write_all(b"hello\n")?;
    ensure!(read_all(&mut attached)? == "hello\n", "not what it was told");
    ensure!(attached.wait()?.code() == Some(4), "another exit status");
    eventually("--rm removes it", || store.said(&["ps", "-aq"]).is_ok_and(|ids| ids.is_empty()))
}

fn the_monitor_is_killed() -> Result<()> {
    let store = Background::run("survivor", &[], &["sh", "-c", &format!("{NUMBERS}; exit 5")])?;
    let mut follower = store.cli(&["logs", "-f", store.name]).spawn()?;
    let mut attached = store.cli(&["attach", store.name]).spawn()?;
    for round in 0..8 {
        std::thread::sleep(Duration::from_millis(150 + 70 * round));
        if store.said(&["ps", "-q"])?.is_empty() {
            break;
        }
        // Whoever looks next starts another.
        if store.monitor().is_ok() {
            store.kill_monitor()?;
        }
    }
    is_end_of_numbers(&read_all(&mut attached)?, 1)?;
    ensure!(attached.wait()?.code() == Some(5), "another exit status");
    ensure!(store.said(&["wait", store.name])? == "5\n", "another exit status");
    ensure!(store.said(&["logs", store.name])? == numbers(), "the log is not complete");
    ensure!(read_all(&mut follower)? == numbers(), "what was followed is not complete");
    follower.wait()?;
    Ok(())
}

/// `vch run` in the foreground goes on with one monitor after the other.
fn a_client_finds_the_next_monitor() -> Result<()> {
    let store = Background { store: temporary()?, name: "foreground" };
    let script = format!("{NUMBERS}; exit 6");
    let arguments = ["sh", "-c", &script];
    let mut client = command_with_store(store.store.path(), store.name, &[], &arguments).spawn()?;
    let mut stdout = client.stdout.take().context("no stdout")?;
    let mut text = vec![0; 10];
    stdout.read_exact(&mut text)?;
    for _ in 0..5 {
        store.kill_monitor()?;
        let read = text.len();
        text.resize(read + 50_000, 0);
        stdout.read_exact(&mut text[read..])?;
    }
    stdout.read_to_end(&mut text)?;
    ensure!(text == numbers().as_bytes(), "the output is not complete");
    ensure!(client.wait()?.code() == Some(6), "another exit status");
    eventually("--rm removes it", || store.said(&["ps", "-aq"]).is_ok_and(|ids| ids.is_empty()))
}

fn an_end_that_nobody_sees() -> Result<()> {
    let store = Background::run("unseen", &[], &["sh", "-c", "sleep 2; echo late; exit 9"])?;
    store.kill_monitor()?;
    std::thread::sleep(Duration::from_secs(4));
    ensure!(qemus("unseen") == 1, "the guest does not wait for a host");
    ensure!(store.said(&["wait", store.name])? == "9\n", "another exit status");
    ensure!(store.said(&["logs", store.name])? == "late\n", "its last words are lost");
    eventually("the VM is gone", || qemus("unseen") == 0)
}

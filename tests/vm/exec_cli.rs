//! `vch exec`, as a user has it: streams, exit statuses, signals, many at once, and what ends under it.

use crate::background::Background;
use crate::harness::{Test, eventually};
use crate::tests;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};

pub fn tests() -> Vec<Test> {
    tests![beside_a_container, when_something_ends]
}

/// Says that it is up, and stays until it is told to go.
const CONTAINER: &str = "
    echo 'web:x:33:34::/srv:' >> /etc/passwd
    trap 'exit 7' TERM
    echo no program > /tmp/plain
    echo up
    while :; do sleep 0.2; done";

fn container(name: &'static str) -> Result<Background> {
    let container = Background::run(name, &["-e", "GIVEN=by-run"], &["sh", "-c", CONTAINER])?;
    eventually("the container is up", || container.said(&["logs", name]).is_ok_and(|log| log == "up\n"))?;
    Ok(container)
}

impl Background {
    /// `vch exec OPTIONS NAME COMMAND`.
    fn exec(&self, options: &[&str], command: &[&str]) -> Command {
        self.cli(&[&["exec"], options, &[self.name], command].concat())
    }

    fn shell(&self, options: &[&str], script: &str) -> Command {
        self.exec(options, &["sh", "-c", script])
    }
}

/// Checks all that a command gives; of stderr, that it holds `error`.
fn gives(mut command: Command, code: i32, out: &str, error: &str) -> Result<()> {
    let output = command.output()?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(code), "{command:?}: {}, not {code}: {stderr}", output.status);
    ensure!(stdout == out, "{command:?}: {stdout:?}, not {out:?}");
    ensure!(stderr.contains(error) && stderr.is_empty() == error.is_empty(), "{command:?}: {stderr:?}");
    Ok(())
}

/// Starts a command, and waits for its first line, which must be `up`.
fn started(mut command: Command) -> Result<(Child, BufReader<std::process::ChildStdout>)> {
    let mut child = command.spawn()?;
    let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    ensure!(line == "up\n", "{command:?}: {line:?}, {:?}", child.wait_with_output());
    Ok((child, stdout))
}

fn ends(child: Child, code: i32, error: &str) -> Result<()> {
    let Output { status, stderr, .. } = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&stderr);
    ensure!(status.code() == Some(code), "{status}, not {code}: {stderr}");
    ensure!(stderr.contains(error) && stderr.is_empty() == error.is_empty(), "{stderr:?}");
    Ok(())
}

fn beside_a_container() -> Result<()> {
    let web = container("execs")?;
    what_it_gets(&web)?;
    what_is_wrong(&web)?;
    signals(&web)?;
    streams(&web)?;
    clients_that_go(&web)?;
    all_codes_fifty_at_once(&web)?;
    ensure!(web.said(&["logs", web.name])? == "up\n", "an exec's output is in the container's log");
    Ok(())
}

fn what_it_gets(web: &Background) -> Result<()> {
    gives(web.shell(&[], "echo out; echo err >&2; exit 3"), 3, "out\n", "err\n")?;
    gives(web.shell(&[], "echo $GIVEN; pwd; id -u; cat"), 0, "by-run\n/\n0\n", "")?; // no stdin
    let options = ["-e", "GIVEN=by-exec", "-e", "OTHER=x y", "-w", "/tmp", "-u", "web"];
    gives(
        web.shell(&options, "echo $GIVEN $OTHER; pwd; id -u; id -g"),
        0,
        "by-exec x y\n/tmp\n33\n34\n",
        "",
    )?;
    // What follows the container is the command's.
    gives(web.exec(&[], &["echo", "-i", "-t", "--", "-w"]), 0, "-i -t -- -w\n", "")?;
    let mut input = web.exec(&["-i"], &["sh", "-c", "cat; echo end"]);
    let mut child = input.stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(b"typed\n")?;
    let output = child.wait_with_output()?;
    ensure!(output.stdout == b"typed\nend\n" && output.status.success(), "{output:?}");
    Ok(())
}

fn what_is_wrong(web: &Background) -> Result<()> {
    gives(
        web.exec(&[], &["nothing"]),
        127,
        "",
        "could not run the command: executing the command: \"nothing\"",
    )?;
    gives(web.exec(&[], &["/tmp/plain"]), 126, "", "/tmp/plain")?;
    gives(web.exec(&["-u", "nobody-here"], &["true"]), 125, "", "nobody-here")?;
    gives(web.exec(&["-w", "/not/there"], &["true"]), 125, "", "/not/there")?;
    gives(web.exec(&["-it"], &["sh"]), 125, "", "the input device is not a TTY")?;
    gives(web.exec(&["--privileged"], &["true"]), 125, "", "--privileged")?;
    gives(web.exec(&["-e", "=x"], &["true"]), 125, "", "has no name")?;
    gives(web.cli(&["exec", "no-such", "true"]), 125, "", "no such container: no-such")?;
    gives(web.exec(&["-d"], &["nothing"]), 127, "", "\"nothing\"")
}

fn signals(web: &Background) -> Result<()> {
    for (number, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let (child, _stdout) = started(web.shell(&[], "echo up; exec sleep 1000"))?;
        kill(Pid::from_raw(child.id().cast_signed()), number)?;
        ends(child, code, "")?;
    }
    let (child, mut stdout) =
        started(web.shell(&[], "trap 'echo caught' TERM; echo up; while :; do sleep 0.2; done"))?;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    ensure!(line == "caught\n", "{line:?}");
    // Who asks a second time insists.
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
    ends(child, 137, "")
}

/// Bytes that tell where they stand.
fn pattern(length: u64) -> Vec<u8> {
    (0..length).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[5]).collect()
}

fn streams(web: &Background) -> Result<()> {
    // One that is not read slows nobody: not the next, which moves 10 MiB each way.
    let (mut slow, mut slow_stdout) =
        started(web.shell(&[], "echo up; head -c 3000000 /dev/zero; echo; echo end"))?;
    let mut child = web.exec(&["-i"], &["cat"]).stdin(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let sent = pattern(10 << 20);
    let sender = std::thread::spawn({
        let sent = sent.clone();
        move || stdin.write_all(&sent)
    });
    let output = child.wait_with_output()?;
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    ensure!(output.status.success(), "{}: {:?}", output.status, String::from_utf8_lossy(&output.stderr));
    ensure!(output.stdout == sent, "other bytes came back, {} of them", output.stdout.len());
    ensure!(slow.try_wait()?.is_none(), "the slow one has ended");
    let mut text = vec![];
    slow_stdout.read_to_end(&mut text)?;
    ensure!(text.len() == 3_000_005 && text.ends_with(b"\0\nend\n"), "{} bytes", text.len());
    ends(slow, 0, "")?;
    // Its stdout is closed: it learns of that as it would from a pipe.
    let (child, stdout) = started(web.shell(&[], "echo up; exec yes"))?;
    drop(stdout);
    ends(child, 141, "")?;
    // What it leaves behind holds its stdout, and nobody waits for that.
    let left = "head -c 300000 /dev/zero; (sleep 1000; echo late) & echo $! > /tmp/left; exit 4";
    let output = web.shell(&[], left).output()?;
    ensure!(output.status.code() == Some(4) && output.stdout.len() == 300_000, "{}", output.stdout.len());
    gives(web.shell(&[], "kill $(cat /tmp/left) && echo there"), 0, "there\n", "")
}

fn clients_that_go(web: &Background) -> Result<()> {
    // What runs goes on; what it writes goes nowhere, and its stdin ends.
    let script =
        "echo $$ > /tmp/pid; echo up; cat; head -c 1000000 /dev/zero; echo $? > /tmp/wrote; exec sleep 1000";
    let (mut child, _stdout) = {
        let mut command = web.shell(&["-i"], script);
        command.stdin(Stdio::piped());
        started(command)?
    };
    child.kill()?;
    child.wait()?;
    let wrote = "while ! grep -q . /tmp/wrote 2>/dev/null; do sleep 0.1; done; cat /tmp/wrote";
    gives(web.shell(&[], wrote), 0, "0\n", "")?;
    gives(web.shell(&[], "kill $(cat /tmp/pid) && echo there"), 0, "there\n", "")?;
    // Detached: known to run, and no more.
    gives(web.shell(&["-d"], "echo $$ > /tmp/detached; echo said; exec sleep 1000"), 0, "", "")?;
    let alive = "while ! grep -q . /tmp/detached 2>/dev/null; do sleep 0.1; done; kill $(cat /tmp/detached) && echo there";
    gives(web.shell(&[], alive), 0, "there\n", "")
}

fn all_codes_fifty_at_once(web: &Background) -> Result<()> {
    let codes: Vec<u8> = (0..=255).collect();
    for batch in codes.chunks(50) {
        let start = |code: &u8| -> Result<(u8, Child)> {
            let mut command = web.shell(&[], &format!("echo {code}; echo {code} >&2; exit {code}"));
            Ok((*code, command.spawn()?))
        };
        for (code, child) in batch.iter().map(start).collect::<Result<Vec<_>>>()? {
            let output = child.wait_with_output()?;
            ensure!(output.status.code() == Some(code.into()), "{code}: {output:?}");
            let text = format!("{code}\n");
            ensure!(output.stdout == text.as_bytes() && output.stderr == text.as_bytes(), "{output:?}");
        }
    }
    Ok(())
}

fn when_something_ends() -> Result<()> {
    let web = container("ending")?;
    // The monitor: the container and the exec go on, the exec's client knows no more.
    let (child, _stdout) = started(web.shell(&[], "echo $$ > /tmp/pid; echo up; exec sleep 1000"))?;
    web.kill_monitor()?;
    ends(child, 125, "the monitor of container ending has died")?;
    gives(web.shell(&[], "kill $(cat /tmp/pid) && echo there"), 0, "there\n", "")?;
    // One that writes while nobody takes it is not stopped for good by that.
    gives(web.shell(&["-d"], "head -c 1000000 /dev/zero; echo done > /tmp/done"), 0, "", "")?;
    web.kill_monitor()?;
    gives(web.shell(&[], "while ! [ -e /tmp/done ]; do sleep 0.1; done; echo on"), 0, "on\n", "")?;

    // The container: one exec that waits, one that is not read, one that ends with it.
    let waiting = started(web.shell(&[], "echo up; exec sleep 1000"))?;
    let slow = started(web.shell(&[], "echo up; exec cat /dev/zero"))?;
    let waiter = web.cli(&["wait", web.name]).spawn()?;
    web.said(&["stop", web.name])?;
    let waited = waiter.wait_with_output()?;
    ensure!(waited.stdout == b"7\n", "{waited:?}");
    ends(waiting.0, 137, "the container has ended, and the command with it")?;
    let mut rest = vec![];
    let (child, mut stdout) = slow;
    stdout.read_to_end(&mut rest)?;
    ensure!(!rest.is_empty() && rest.iter().all(|byte| *byte == 0), "{} bytes", rest.len());
    ends(child, 137, "the container has ended, and the command with it")?;
    gives(web.exec(&[], &["true"]), 125, "", "is not running")?;

    // The VM itself.
    web.again("killed", &[], &["sleep", "1000"])?;
    let killed = |script| web.cli(&["exec", "killed", "sh", "-c", script]);
    let (child, _stdout) = started(killed("echo up; exec sleep 1000"))?;
    web.said(&["kill", "killed"])?;
    ends(child, 137, "the container has ended, and the command with it")
}

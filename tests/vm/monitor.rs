//! Containers that outlive those who started them: `vch run -d`, `ps`, `logs`, `attach`, `kill`, `stop`, `wait`, `rm`, and
//! `kill -9` of the monitor.

use crate::background::Background;
use crate::harness::{Test, command_with_store, eventually, qemus, temporary};
use crate::tests;
use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub fn tests() -> Vec<Test> {
    tests![
        in_the_background,
        attached_twice,
        the_client_is_killed,
        the_monitor_is_killed,
        a_client_finds_the_next_monitor,
        an_end_that_nobody_sees,
        killed_before_the_container_runs,
        no_descriptor_is_kept
    ]
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

    // One that does not heed the stop signal, when who has stopped it does not wait for that.
    let script = "trap 'echo asked' TERM; echo up; while :; do sleep 0.1; done";
    web.again("deaf", &[], &["sh", "-c", script])?;
    let has_said = |text: &str| eventually(text, || web.said(&["logs", "deaf"]).is_ok_and(|log| log == text));
    has_said("up\n")?;
    let mut stop = web.cli(&["stop", "-t", "10", "deaf"]).spawn()?;
    has_said("up\nasked\n")?;
    stop.kill()?;
    stop.wait()?;
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
    let script = format!("read word; echo $word; read go; {NUMBERS}; exit 3");
    let store = Background::run("attached", &["-i"], &["sh", "-c", &script])?;
    let mut slow = store.cli(&["attach", store.name]).stdin(Stdio::piped()).spawn()?;
    // It is there when it has its own word back; and then it does not read for a while.
    let _slow_stdin = say(&mut slow, "slow\n")?;
    let mut word = [0; 5];
    slow.stdout.as_mut().context("no stdout")?.read_exact(&mut word)?;
    ensure!(&word == b"slow\n", "{word:?}");
    let mut quick = store.cli(&["attach", store.name]).stdin(Stdio::piped()).spawn()?;
    let _quick_stdin = say(&mut quick, "go\n")?;
    is_end_of_numbers(&read_all(&mut quick)?, numbers().len())?;
    ensure!(quick.wait()?.code() == Some(3), "another exit status");
    is_end_of_numbers(&read_all(&mut slow)?, numbers().len())?;
    ensure!(slow.wait()?.code() == Some(3), "another exit status");
    Ok(())
}

fn say(child: &mut Child, text: &str) -> Result<std::process::ChildStdin> {
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(text.as_bytes())?;
    Ok(stdin)
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
        // It may end while it is looked for.
        let _gone = store.kill_monitor();
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
        // What is read may have been on its way before there was a new one.
        eventually("there is a monitor", || store.monitor().is_ok())?;
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
    let store = Background::run("unseen", &[], &["sh", "-c", "sleep 10; echo late; exit 9"])?;
    store.kill_monitor()?;
    std::thread::sleep(Duration::from_secs(14));
    ensure!(qemus("unseen") == 1, "the guest does not wait for a host");
    ensure!(store.said(&["wait", store.name])? == "9\n", "another exit status");
    ensure!(store.said(&["logs", store.name])? == "late\n", "its last words are lost");
    eventually("the VM is gone", || qemus("unseen") == 0)
}

/// Whatever the guest was told by then, another monitor starts the container, and once.
fn killed_before_the_container_runs() -> Result<()> {
    let store = Background { store: temporary()?, name: "early" };
    let script = "echo up; while ! [ -e /tmp/go ]; do sleep 0.1; done; exit 8";
    let client = command_with_store(store.store.path(), store.name, &[], &["sh", "-c", script]).spawn()?;
    eventually("there is a VM", || qemus(store.name) == 1)?;
    for round in 0..6 {
        // The client starts the next one.
        eventually("there is a monitor", || store.monitor().is_ok())?;
        std::thread::sleep(Duration::from_millis(40 * round));
        store.kill_monitor()?;
    }
    eventually("it runs", || store.said(&["logs", store.name]).is_ok_and(|log| log == "up\n"))?;
    store.said(&["exec", store.name, "touch", "/tmp/go"])?;
    let output = client.wait_with_output()?;
    ensure!(output.status.code() == Some(8) && output.stdout == b"up\n", "{output:?}");
    Ok(())
}

/// What the caller has left open is neither the monitor's nor QEMU's.
fn no_descriptor_is_kept() -> Result<()> {
    let store = Background { store: temporary()?, name: "descriptors" };
    let run = command_with_store(store.store.path(), store.name, &["-d"], &["sleep", "1000"]);
    // A shell's redirections are not close-on-exec.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 9>&1 >&2", "sh"]).arg(run.get_program()).args(run.get_args());
    let mut shell = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut reader = shell.stdout.take().context("no stdout")?;
    ensure!(shell.wait()?.success() && qemus(store.name) == 1, "it does not run");
    eventually("nobody holds it", || {
        let mut held = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        poll(&mut held, PollTimeout::ZERO) == Ok(1)
    })?;
    let mut nothing = vec![];
    reader.read_to_end(&mut nothing)?;
    ensure!(nothing.is_empty(), "{nothing:?}");
    Ok(())
}

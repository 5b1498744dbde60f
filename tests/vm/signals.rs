//! Signals sent to `vch`, at any moment.

use crate::harness::{Test, command, eventually, qemus};
use crate::tests;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::time::Duration;

pub fn tests() -> Vec<Test> {
    tests![
        interrupted_at_any_moment,
        passed_on_to_the_process,
        passed_on_as_often_as_they_come,
        the_second_one_stops_the_vm
    ]
}

fn interrupted_at_any_moment() -> Result<()> {
    for millis in [300, 500, 1000, 1700, 2500, 4000] {
        let child = command("interrupted", &[], &["sleep", "1000"]).spawn()?;
        std::thread::sleep(Duration::from_millis(millis));
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
        let output = child.wait_with_output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(130), "after {millis} ms: {}, {error}", output.status);
        ensure!(error.starts_with("vch: ") && error.contains("SIGINT"), "after {millis} ms: {error}");
        eventually("QEMU is gone", || qemus("interrupted") == 0)?;
    }
    Ok(())
}

fn passed_on_to_the_process() -> Result<()> {
    let script = "trap 'echo caught; exit 9' TERM; echo up; while :; do sleep 0.1; done";
    let mut child = command("passed-on", &[], &["sh", "-c", script]).spawn()?;
    let mut stdout = child.stdout.take().context("no stdout")?;
    let mut line = [0; 3];
    stdout.read_exact(&mut line)?;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
    let mut rest = String::new();
    stdout.read_to_string(&mut rest)?;
    let status = child.wait()?;
    ensure!(rest == "caught\n" && status.code() == Some(9), "{rest:?}, {status}");
    Ok(())
}

fn passed_on_as_often_as_they_come() -> Result<()> {
    let script = "trap 'echo hup' HUP; trap 'echo usr1' USR1; trap 'exit 6' USR2; echo up; while :; do sleep 0.1; done";
    let mut child = command("often", &[], &["sh", "-c", script]).spawn()?;
    let mut stdout = child.stdout.take().context("no stdout")?;
    let mut expect = |line: &str| -> Result<()> {
        let mut bytes = vec![0; line.len()];
        stdout.read_exact(&mut bytes)?;
        ensure!(bytes == line.as_bytes(), "{:?}, not {line:?}", String::from_utf8_lossy(&bytes));
        Ok(())
    };
    expect("up\n")?;
    let pid = Pid::from_raw(child.id().cast_signed());
    for (signal, line) in [(Signal::SIGHUP, "hup\n"), (Signal::SIGHUP, "hup\n"), (Signal::SIGUSR1, "usr1\n")]
    {
        kill(pid, signal)?;
        expect(line)?;
    }
    kill(pid, Signal::SIGUSR2)?;
    let status = child.wait()?;
    ensure!(status.code() == Some(6), "{status}");
    Ok(())
}

fn the_second_one_stops_the_vm() -> Result<()> {
    let script = "trap '' INT; echo up; while :; do sleep 0.1; done";
    let mut child = command("second", &[], &["sh", "-c", script]).spawn()?;
    let mut line = [0; 3];
    child.stdout.take().context("no stdout")?.read_exact(&mut line)?;
    let pid = Pid::from_raw(child.id().cast_signed());
    kill(pid, Signal::SIGINT)?;
    std::thread::sleep(Duration::from_millis(700));
    ensure!(child.try_wait()?.is_none(), "the process ignores SIGINT, so the first must not end it");
    kill(pid, Signal::SIGINT)?;
    let status = child.wait()?;
    ensure!(status.code() == Some(130) && qemus("second") == 0, "{status}");
    Ok(())
}

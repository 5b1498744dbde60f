//! A container's life beyond one run: restarts, health, and what is known of it.

use crate::background::Background;
use crate::harness::{Test, command_with_store, eventually};
use crate::tests;
use anyhow::{Context, Result, ensure};

pub fn tests() -> Vec<Test> {
    tests![restarts_keep_what_was_written, a_stop_is_final, health]
}

fn restarts_keep_what_was_written() -> Result<()> {
    let script = "echo x >> /rounds; echo round $(wc -l < /rounds); exit $((10 - $(wc -l < /rounds)))";
    let container = Background::run("again", &["--restart", "on-failure:2"], &["sh", "-c", script])?;
    ensure!(container.said(&["wait", "again"])? == "7\n", "the third round's");
    let log = container.said(&["logs", "again"])?;
    ensure!(log == "round 1\nround 2\nround 3\n", "{log:?}");
    let known = container.said(&["inspect", "again"])?;
    for part in [
        "\"RestartCount\": 2",
        "\"RestartPolicy\": \"on-failure:2\"",
        "\"ExitCode\": 7",
        "\"Status\": \"exited\"",
    ] {
        ensure!(known.contains(part), "no {part} in {known}");
    }
    container.said(&["rm", "again"])?;
    let refused =
        command_with_store(container.store.path(), "never", &["--restart", "always"], &["true"]).output()?;
    let error = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(125) && error.contains("--rm and --restart"), "{error}");
    Ok(())
}

fn a_stop_is_final() -> Result<()> {
    let container = Background::run(
        "stopped",
        &["--restart", "always"],
        &["sh", "-c", "trap 'exit 3' TERM; echo up; sleep 1000 & wait"],
    )?;
    eventually("it is up", || container.said(&["logs", "stopped"]).is_ok_and(|log| log == "up\n"))?;
    container.said(&["stop", "-t", "120", "stopped"])?;
    let known = container.said(&["inspect", "stopped"])?;
    ensure!(known.contains("\"RestartCount\": 0") && known.contains("\"ExitCode\": 3"), "{known}");
    ensure!(container.said(&["ps", "-q"])?.is_empty(), "it runs again");
    container.said(&["rm", "stopped"]).map(drop)
}

fn health() -> Result<()> {
    let options = [
        "--health-cmd",
        "echo checked $A; test -e /well",
        "--health-interval",
        "500ms",
        "--health-retries",
        "2",
        "-e",
        "A=1",
        "--label",
        "of=tests",
    ];
    let container = Background::run(
        "health",
        &options,
        &["sh", "-c", "trap 'exit 0' TERM; touch /well; sleep 1000 & wait"],
    )?;
    let status = |word: &str| {
        let listed = container.said(&["ps"]);
        listed.is_ok_and(|listed| listed.contains(&format!("({word})")))
    };
    eventually("it is healthy", || status("healthy"))?;
    container.said(&["exec", "health", "rm", "/well"])?;
    eventually("it is unhealthy", || status("unhealthy"))?;
    let known = container.said(&["inspect", "health"])?;
    for part in ["\"Status\": \"unhealthy\"", "checked 1\\n", "\"of\": \"tests\""] {
        ensure!(known.contains(part), "no {part} in {known}");
    }
    container.said(&["exec", "health", "touch", "/well"])?;
    eventually("it is healthy again", || status("healthy"))?;
    container.said(&["rm", "-f", "health"]).context("removing it").map(drop)
}

//! What each transport owes: another monitor opens the channel again, nothing is left behind, and a guest that lies is found
//! out.

use crate::background::Background;
use crate::harness::{self, Test, booted, error_of, eventually, on, probe, run, temporary};
use crate::{tests, tests_over_each};
use anyhow::{Result, ensure};
use image_builder::initramfs::Initramfs;
use std::fs;
use std::path::Path;
use std::time::Duration;
use vch::transport::Channel;

pub fn tests() -> Vec<Test> {
    let mut all = tests_over_each![another_monitor, found_by_what_is_there];
    all.extend(tests![liars]);
    all
}

fn options(over: Channel) -> &'static [&'static str] {
    match over {
        Channel::VirtioSerial => &[],
        Channel::Vsock => &["--channel", "vsock", "--vhost", "helper"],
        Channel::Serial => &["--channel", "serial"],
    }
}

/// Processes whose working directory is below `dir`, as the helper's is.
fn processes_in(dir: &Path) -> usize {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let cwds = processes.flatten().filter_map(|process| fs::read_link(process.path().join("cwd")).ok());
    cwds.filter(|cwd| cwd.starts_with(dir)).count()
}

/// `kill -9` of one monitor after the other, while the container writes and when it has ended.
fn another_monitor(over: Channel) -> Result<()> {
    let (name, lines) = match over {
        Channel::VirtioSerial => ("adopted-port", 200_000),
        Channel::Vsock => ("adopted-vsock", 200_000),
        Channel::Serial => ("adopted-serial", 15_000),
    };
    let script =
        format!("i=0; while [ $i -lt {lines} ]; do echo $i; i=$((i+1)); done; echo last >&2; exit 5");
    let web = Background::run(name, options(over), &["sh", "-c", &script])?;
    let all: String = (0..lines).map(|i| format!("{i}\n")).collect();
    if over == Channel::Vsock {
        ensure!(processes_in(web.store.path()) > 0, "the helper is not there, or not seen");
    }
    for part in 1..=4 {
        eventually("it goes on", || {
            web.said(&["logs", name]).is_ok_and(|log| log.len() >= all.len() * part / 5)
        })?;
        if web.said(&["ps", "-q"])?.is_empty() {
            break;
        }
        // It may end while it is looked for.
        let _gone = web.kill_monitor();
    }
    ensure!(web.said(&["wait", name])? == "5\n", "another exit status");
    let logs = web.cli(&["logs", name]).output()?;
    ensure!(logs.stdout == all.as_bytes(), "{} bytes of {}", logs.stdout.len(), all.len());
    ensure!(logs.stderr == b"last\n", "{:?}", String::from_utf8_lossy(&logs.stderr));
    eventually("nothing of it is left", || processes_in(web.store.path()) == 0)
}

/// A kernel whose command line does not say what the transport is.
fn found_by_what_is_there(over: Channel) -> Result<()> {
    let mut options =
        on(over, booted(harness::shell("tr ' ' '\\n' < /proc/cmdline | grep -c containervm; exit 0")));
    let plain = "console=ttyS0 quiet panic=-1 random.trust_cpu=on";
    options.qemu_arg = vec!["-append".into(), plain.into()];
    run(&options)?.gives("0\n")
}

/// Instead of tether, the test's own program speaks to the host.
fn liars() -> Result<()> {
    let dir = temporary()?;
    let initrd = fs::read(harness::kernel().1)?;
    let probe = fs::read(probe())?;
    let lie = |over, lie: &str, expected: &str| -> Result<()> {
        // What comes later in an initramfs takes the place of what came before.
        let mut archive = Initramfs::new();
        archive.file("init", 0o755, &probe).file("lie", 0o644, lie.as_bytes());
        let mut bytes = initrd.clone();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        archive.finish(&mut bytes)?;
        let path = dir.path().join("initrd");
        fs::write(&path, bytes)?;
        let mut options = on(over, harness::shell("true"));
        options.initrd = Some(path);
        options.boot_timeout = Some(Duration::from_secs(180));
        let error = error_of(run(&options))?;
        ensure!(error.contains(expected), "{lie}: {error:?} does not say {expected:?}");
        ensure!(!error.contains('\n') && error.len() < 1000, "more than a sentence: {error:?}");
        Ok(())
    };
    let broken = "the guest broke the channel's protocol";
    lie(Channel::VirtioSerial, "garbage", broken)?;
    lie(Channel::VirtioSerial, "length", "4294967295 bytes")?;
    lie(Channel::VirtioSerial, "credit", broken)?;
    lie(Channel::VirtioSerial, "stream", broken)?;
    lie(Channel::VirtioSerial, "sessions", broken)
}

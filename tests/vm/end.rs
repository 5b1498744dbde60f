//! The end of a containerVM: asked for in all ways, by whoever, and whatever the container is doing. What it has written is on its
//! volumes then, which are clean.

use crate::background::Background;
use crate::harness::{
    Test, eventually, options, probe, qemus, relay, run, shell, start_shell, temporary, vch,
};
use crate::tests;
use crate::volumes::is_clean;
use anyhow::{Context, Result, ensure};
use image_builder::disk::Disk;
use image_builder::testimage::{self, Tar};
use oci_spec::image::Config;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use vch::volumes::{Volume, Volumes, parse};

pub fn tests() -> Vec<Test> {
    tests![
        stop_signal,
        power_button,
        frozen,
        removed_while_it_writes,
        fork_bomb,
        full_disks,
        thrown_away,
        orphans
    ]
}

/// `vch run -d` of a script, once it has said that it is ready.
fn ready(name: &'static str, options: &[&str], script: &str) -> Result<Background> {
    let vm = Background::run(name, options, &["sh", "-c", script])?;
    let mut logs = vm.cli(&["logs", "-f", name]).spawn()?;
    let mut line = String::new();
    let read = BufReader::new(logs.stdout.as_mut().context("no stdout")?).read_line(&mut line);
    let _ = logs.kill();
    let _ = logs.wait();
    read?;
    ensure!(line == "ready\n", "{name} says {line:?}");
    Ok(vm)
}

fn volume(vm: &Background) -> Result<Volume> {
    Volumes::of(vm.store.path()).find("end-data")
}

/// What is in a file of a clean volume.
fn on(volume: &Volume, path: &str) -> Result<String> {
    is_clean(volume)?;
    let disk = Disk::open(&volume.disk())?;
    let mut text = String::new();
    disk.contents(&disk.find(format!("/data/{path}").as_bytes(), false)?)?.read_to_string(&mut text)?;
    Ok(text)
}

fn stop_signal() -> Result<()> {
    let script = "trap 'exit 3' USR1; echo ready; while :; do sleep 1; done";
    let vm = ready("end-signal", &["--stop-signal", "USR1"], script)?;
    vm.said(&["stop", "-t", "120", "end-signal"])?;
    ensure!(vm.said(&["wait", "end-signal"])? == "3\n");
    Ok(())
}

/// An order to QEMU, as an administrator would give it.
pub fn order(socket: &Path, order: &str) -> Result<()> {
    let mut qmp = BufReader::new(UnixStream::connect(socket)?);
    for order in [r#"{"execute":"qmp_capabilities"}"#, order] {
        writeln!(qmp.get_mut(), "{order}")?;
        let mut line = String::new();
        while !line.contains("\"return\"") {
            line.clear();
            ensure!(qmp.read_line(&mut line)? > 0, "QEMU is gone");
            ensure!(!line.contains("\"error\""), "{line}");
        }
    }
    Ok(())
}

/// The power button gives the stop signal, and the machine ends as the container does; so it is on a machine with ACPI and on the
/// usual one.
fn power_button() -> Result<()> {
    power_button_on(&["--machine", "q35"])?;
    power_button_on(&[])
}

fn power_button_on(machine: &[&str]) -> Result<()> {
    let dir = temporary()?;
    let socket = dir.path().join("qmp");
    let qmp = format!("--qemu-arg=unix:{},server=on,wait=off", socket.display());
    let script = "trap 'echo bye > /data/bye; exit 7' TERM; echo ready; while :; do sleep 1; done";
    let options = [&["-v", "end-data:/data", "--qemu-arg=-qmp", &qmp], machine].concat();
    let vm = ready("end-button", &options, script)?;
    order(&socket, r#"{"execute":"system_powerdown"}"#)?;
    ensure!(vm.said(&["wait", "end-button"])? == "7\n");
    eventually("the VM is gone", || qemus("end-button") == 0)?;
    ensure!(on(&volume(&vm)?, "bye")? == "bye\n");
    Ok(())
}

/// A container that has frozen itself is killed all the same, and its volume is clean.
fn frozen() -> Result<()> {
    // (Who is frozen dies of a signal without a handler.)
    let script = "trap '' TERM; mount -o remount,rw /sys/fs/cgroup; echo text > /data/file; echo ready; \
        echo 1 > /sys/fs/cgroup/cgroup.freeze; echo thawed";
    let vm = ready("end-frozen", &["--privileged", "-v", "end-data:/data"], script)?;
    // One that begins just before is frozen, too, and never ends.
    let exec = || {
        let mut exec = Command::new("timeout");
        exec.arg("20").arg(vch()).args(["exec", "--store"]).arg(vm.store.path());
        exec.args(["end-frozen", "true"]).output()
    };
    eventually("it is frozen", || exec().is_ok_and(|output| output.status.code() == Some(125)))?;
    let error = String::from_utf8(exec()?.stderr)?;
    ensure!(error.contains("the container is frozen"), "{error}");
    vm.said(&["stop", "-t", "1", "end-frozen"])?;
    ensure!(vm.said(&["wait", "end-frozen"])? == "137\n");
    ensure!(vm.said(&["logs", "end-frozen"])? == "ready\n", "it was not frozen");
    ensure!(on(&volume(&vm)?, "file")? == "text\n");
    Ok(())
}

/// `vch rm -f` kills the process, but does not cut off what is still to be written.
fn removed_while_it_writes() -> Result<()> {
    let script = "echo early > /data/early; echo ready; \
        while :; do dd if=/dev/zero of=/data/big bs=1M count=50 2>/dev/null; done";
    let vm = ready("end-writer", &["-v", "end-data:/data"], script)?;
    let volume = volume(&vm)?;
    vm.said(&["rm", "-f", "end-writer"])?;
    eventually("the VM is gone", || qemus("end-writer") == 0)?;
    ensure!(on(&volume, "early")? == "early\n");
    Ok(())
}

/// One is held by the limit that there is if nobody gives one: the machine answers, can be stopped, and writes out what it has.
fn fork_bomb() -> Result<()> {
    // The second is what cannot be forked: the shell that is told so ends.
    let script = "echo kept > /data/kept; b() { b | b & }; (b) & echo ready; exec tail -f /dev/null";
    let vm = ready("end-bomb", &["-m", "96m", "-v", "end-data:/data"], script)?;
    let events = ["exec", "end-bomb", "grep", "-c", "max [1-9]", "/sys/fs/cgroup/pids.events"];
    eventually("the limit is reached", || vm.said(&events).is_ok())?;
    vm.said(&["stop", "-t", "1", "end-bomb"])?;
    eventually("the VM is gone", || qemus("end-bomb") == 0)?;
    ensure!(on(&volume(&vm)?, "kept")? == "kept\n");
    Ok(())
}

/// Where there is no space left, the container is told so, and what was there before stays.
fn full_disks() -> Result<()> {
    let dir = temporary()?;
    let script = "for f in /fill /data/fill; do echo text > ${f}er; dd if=/dev/zero of=$f bs=64k 2>&1 | grep -o 'No space.*'; \
        sync; cat ${f}er; rm $f; sync; dd if=/dev/zero of=$f bs=64k count=64 2>/dev/null && echo again; done";
    let mut options = shell(script);
    options.store = Some(dir.path().to_owned());
    options.scratch_size = 24 << 20;
    options.volumes.mount = vec![parse::mount("source=end-data,target=/data,volume-opt=size=16m")?];
    run(&options)?.gives(&"No space left on device\ntext\nagain\n".repeat(2))?;
    let volume = Volumes::of(dir.path()).find("end-data")?;
    ensure!(on(&volume, "filler")? == "text\n");
    Ok(())
}

/// What is in memory only is not written to a disk that nobody will read: the end does not wait for that.
fn thrown_away() -> Result<()> {
    const WRITTEN: u64 = 8 << 20;
    let mut options = shell(&format!("head -c {WRITTEN} /dev/urandom > /file && stat -c %s /file"));
    // Nor does the kernel write it because of its age.
    options.limits.sysctl = vec!["vm.dirty_writeback_centisecs=0".into()];
    let running = start_shell(&options)?;
    let scratch = running.scratch.try_clone()?;
    relay(running, &options)?.gives(&format!("{WRITTEN}\n"))?;
    let taken = scratch.metadata()?.blocks() * 512;
    ensure!(taken < WRITTEN, "{taken} bytes of the scratch disk are taken");
    Ok(())
}

/// Orphans are reaped, however many there are.
fn orphans() -> Result<()> {
    let dir = temporary()?;
    let layer = Tar::new().file("probe", 0o755, &fs::read(probe())?).finish();
    testimage::write(dir.path(), &[layer], Config::default())?;
    run(&options(&dir.path().display().to_string(), &["/probe", "orphans", "10000"]))?
        .gives("10000 orphans are gone\n")
}

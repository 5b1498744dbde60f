//! When things go wrong: one clear sentence, and nothing left behind.

use crate::harness::{
    Test, booted, command, command_with_store, error_of, eventually, files, options, qemus, run,
    run_with_layers, shell, store, temporary, vch, workspace,
};
use crate::tests;
use anyhow::{Context, Result, ensure};
use image_builder::testimage::{self, Tar};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::image::Config;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::process::{Command, Output};
use vch::options::Kernel;

pub fn tests() -> Vec<Test> {
    let mut all = tests![
        bad_images,
        missing_files,
        no_qemu,
        no_kvm,
        kernel_panic,
        guest_that_never_comes_up,
        missing_disk,
        corrupt_disk,
        stdout_closed,
        vch_killed,
        name_taken,
    ];
    all.push(Test::new("failures::host_disk_full", host_disk_full).needs(may_mount()));
    all
}

fn refused(options: &vch::RunOptions, words: &[&str]) -> Result<()> {
    let error = error_of(run(options))?;
    for word in words {
        ensure!(error.contains(word), "{error:?} does not say {word:?}");
    }
    ensure!(!error.contains('\n'), "more than a sentence: {error:?}");
    Ok(())
}

fn bad_images() -> Result<()> {
    refused(&options("/no/such/image", &[]), &["/no/such/image"])?;
    let dir = temporary()?;
    let image = dir.path().display().to_string();
    refused(&options(&image, &[]), &["oci-layout"])?;
    testimage::write(dir.path(), &[Tar::new().file("only-here", 0o644, b"x").finish()], Config::default())?;
    refused(&options(&image, &[]), &["no command"])?;
    for blob in files(&dir.path().join("blobs")) {
        let mut bytes = fs::read(&blob)?;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(blob, bytes)?;
        }
    }
    let mut fresh = options(&image, &["x"]); // the tests' store has the layer already
    fresh.store = Some(dir.path().join("store"));
    refused(&fresh, &["sha256:"])?;
    fs::write(dir.path().join("index.json"), "{\"schemaVersion\":")?;
    refused(&options(&image, &[]), &["index.json"])
}

fn missing_files() -> Result<()> {
    let mut options = shell("true");
    options.kernel = Some(Kernel::File("/no/such/kernel".into()));
    refused(&options, &["/no/such/kernel"])
}

fn said(output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{}: {error}", output.status);
    for word in words {
        ensure!(error.contains(word), "{error:?} does not say {word:?}");
    }
    // A kernel that waits long for a processor may have said so on its console, which is shown before.
    let ours: Vec<_> = error.lines().filter(|line| !line.starts_with("[guest] ")).collect();
    ensure!(matches!(*ours, [line] if line.starts_with("vch: ")), "not one sentence: {error:?}");
    Ok(())
}

fn no_qemu() -> Result<()> {
    let dir = temporary()?;
    std::os::unix::fs::symlink("/usr/sbin/mke2fs", dir.path().join("mke2fs"))?;
    let output = command("no-qemu", &[], &["true"]).env("PATH", dir.path()).output()?;
    said(&output, 125, &["qemu-system-x86"])
}

fn no_kvm() -> Result<()> {
    let output = command("no-kvm", &["--accel", "kvm"], &["echo", "with KVM"]).output()?;
    if output.status.success() {
        return Ok(()); // this host has it
    }
    said(&output, 125, &["KVM"])
}

/// An initramfs without an init.
fn kernel_panic() -> Result<()> {
    let dir = temporary()?;
    let mut options = booted(shell("true"));
    options.initrd = Some(dir.path().join("initrd"));
    fs::write(dir.path().join("initrd"), [0; 512])?;
    refused(&options, &["Kernel panic"])
}

fn guest_that_never_comes_up() -> Result<()> {
    let mut options = booted(shell("true"));
    options.qemu_arg = vec!["-S".into()]; // the CPU does not start
    options.boot_timeout = Some(std::time::Duration::from_secs(1));
    refused(&options, &["within 1 s"])
}

fn missing_disk() -> Result<()> {
    let absent = protocol::Uuid::from_bytes([0xab; 16]);
    let dir = temporary()?;
    let disk = dir.path().join("disk");
    fs::write(&disk, [0; 4096])?;
    let error = run_with_layers(&options("", &["true"]), &[(&disk, absent)]).err().context("it ran")?;
    let error = format!("{error:#}");
    ensure!(error.contains("layer 1 (filesystem UUID abababab-abab"), "{error}");
    Ok(())
}

/// A disk whose superblock is right, and nothing else: the kernel refuses to mount it.
fn corrupt_disk() -> Result<()> {
    let dir = temporary()?;
    run(&shell("true"))?; // the store has a disk now
    let disk = files(&store().join("layers"))
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "erofs"))
        .context("no disk in the store")?;
    let mut bytes = fs::read(disk)?;
    let uuid = protocol::Uuid::from_slice(&bytes[1024 + 48..1024 + 64])?;
    bytes[4096..].fill(0xff);
    let corrupt = dir.path().join("corrupt");
    fs::write(&corrupt, bytes)?;
    let error = run_with_layers(&options("", &["true"]), &[(&corrupt, uuid)]).err().context("it ran")?;
    let error = format!("{error:#}");
    ensure!(error.contains("(erofs) on /layers/0"), "{error}");
    Ok(())
}

fn stdout_closed() -> Result<()> {
    let mut child = command("stdout-closed", &[], &["yes"]).spawn()?;
    let mut first = [0; 4];
    child.stdout.take().context("no stdout")?.read_exact(&mut first)?;
    let output = child.wait_with_output()?;
    ensure!(&first == b"y\ny\n", "{first:?}");
    said(&output, 141, &["stdout"])?;
    ensure!(qemus("stdout-closed") == 0, "QEMU is still there");
    Ok(())
}

/// The container outlives the client, and with `--rm` nothing of it is left when it has ended; the image stays in the store.
fn vch_killed() -> Result<()> {
    let dir = temporary()?;
    ensure!(command_with_store(dir.path(), "vch-killed", &[], &["true"]).output()?.status.success());
    let before: BTreeSet<_> = files(dir.path()).into_iter().collect();
    let mut child =
        command_with_store(dir.path(), "vch-killed", &[], &["sh", "-c", "echo up; sleep 1000"]).spawn()?;
    let mut line = [0; 3];
    child.stdout.take().context("no stdout")?.read_exact(&mut line)?;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL)?;
    child.wait()?;
    ensure!(qemus("vch-killed") == 1, "QEMU does not run any more");
    let stopped = Command::new(vch()).args(["rm", "-f", "vch-killed", "--store"]).arg(dir.path()).output()?;
    ensure!(stopped.status.success(), "{stopped:?}");
    eventually("QEMU ends", || qemus("vch-killed") == 0)?;
    let left: BTreeSet<_> = files(dir.path()).into_iter().collect();
    ensure!(left == before, "left behind: {left:?}, before it was {before:?}");
    Ok(())
}

fn name_taken() -> Result<()> {
    let mut first = command("name-taken", &[], &["sh", "-c", "echo up; sleep 1000"]).spawn()?;
    let mut line = [0; 3];
    first.stdout.take().context("no stdout")?.read_exact(&mut line)?;
    let second = command("name-taken", &[], &["true"]).output()?;
    kill(Pid::from_raw(first.id().cast_signed()), Signal::SIGKILL)?;
    first.wait()?;
    let removed = Command::new(vch()).args(["rm", "-f", "name-taken", "--store"]).arg(store()).output()?;
    ensure!(removed.status.success(), "{removed:?}");
    said(&second, 125, &["name-taken"])
}

fn may_mount() -> Result<()> {
    let status =
        Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]).output()?.status;
    ensure!(status.success(), "mounting a small tmpfs needs root");
    Ok(())
}

/// A store on a tmpfs too small for the layer, and then one too small for what the container writes.
fn host_disk_full() -> Result<()> {
    for (size, words) in [("300k", "No space left"), ("12m", "full")] {
        let dir = workspace().join("target/tests/full");
        fs::create_dir_all(&dir)?;
        let script = format!("mount -t tmpfs -o size={size} none {} && exec \"$@\"", dir.display());
        let inner = command_with_store(
            &dir,
            "disk-full",
            &["--boot=direct"],
            &["dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=40"],
        );
        let output = Command::new("unshare")
            .args(["-m", "sh", "-c", &script, "sh"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .output()?;
        said(&output, 125, &[words])?;
    }
    ensure!(qemus("disk-full") == 0, "QEMU is still there");
    Ok(())
}

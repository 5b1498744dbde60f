//! Bytes in, bytes out, and how the process ended.

use crate::harness::{Test, busybox, input, on, options, probe, run, run_with, shell, temporary};
use crate::{tests, tests_over_each};
use anyhow::{Result, ensure};
use image_builder::testimage::{self, Tar};
use oci_spec::image::ConfigBuilder;
use protocol::ExitStatus;
use sha2::{Digest, Sha256};
use vch::End;
use vch::transport::Channel;

pub fn tests() -> Vec<Test> {
    let mut all = tests_over_each![
        streams_and_status,
        killed_by_itself,
        not_found,
        megabytes_of_stdin,
        megabytes_both_ways,
        stdin_closed_early,
        a_grandchild_holds_stdout,
        stdout_held_by_nobody,
        output_at_the_very_end,
    ];
    all.extend(tests![hello, not_executable, stdin_from_a_fifo_whose_writer_has_gone, out_of_memory]);
    all
}

/// How many bytes count as many: a UART takes some seconds for these.
fn many(over: Channel) -> usize {
    match over {
        Channel::Serial => 150_000,
        Channel::VirtioSerial | Channel::Vsock => 10 << 20,
    }
}

fn hello() -> Result<()> {
    run(&options(&busybox(), &["echo", "hello"]))?.gives("hello\n")
}

fn streams_and_status(over: Channel) -> Result<()> {
    let ran = run(&on(over, shell("echo out; echo err >&2; exit 7")))?;
    ensure!((ran.stdout.as_slice(), ran.stderr.as_slice(), ran.code()) == (b"out\n", b"err\n", 7), "{ran:?}");
    Ok(())
}

fn killed_by_itself(over: Channel) -> Result<()> {
    let ran = run(&on(over, shell("kill -9 $$")))?;
    ensure!(ran.outcome.end == End::Exited(ExitStatus::Signal { signal: 9, core: false }), "{ran:?}");
    ensure!(ran.code() == 137, "{ran:?}");
    Ok(())
}

fn not_found(over: Channel) -> Result<()> {
    let ran = run(&on(over, options(&busybox(), &["no-such-command"])))?;
    ensure!(ran.code() == 127, "{ran:?}");
    ensure!(ran.outcome.sentence().is_some_and(|why| why.contains("\"no-such-command\"")), "{ran:?}");
    Ok(())
}

fn not_executable() -> Result<()> {
    let ran = run(&options(&busybox(), &["/etc/passwd"]))?;
    ensure!(ran.code() == 126, "{ran:?}");
    ensure!(
        ran.outcome.sentence().is_some_and(|why| why.contains("/etc/passwd: Permission denied")),
        "{ran:?}"
    );
    Ok(())
}

/// Bytes that no compression and no repetition makes look right by accident.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn megabytes_of_stdin(over: Channel) -> Result<()> {
    let bytes = noise(many(over));
    let mut options = on(over, options(&busybox(), &["sha256sum"]));
    options.interactive = true;
    run_with(&options, input(&bytes)?)?.gives(&format!("{}  -\n", hash(&bytes)))
}

fn megabytes_both_ways(over: Channel) -> Result<()> {
    let bytes = noise(many(over));
    let mut options = on(over, options(&busybox(), &["sh", "-c", "tee /dev/stderr"]));
    options.interactive = true;
    let ran = run_with(&options, input(&bytes)?)?;
    ensure!(ran.stdout == bytes, "stdout: {} bytes, {}", ran.stdout.len(), hash(&ran.stdout));
    ensure!(ran.stderr == bytes, "stderr: {} bytes, {}", ran.stderr.len(), hash(&ran.stderr));
    ensure!(ran.code() == 0, "exit status {}", ran.code());
    Ok(())
}

/// The process reads a little of a lot and ends.
fn stdin_closed_early(over: Channel) -> Result<()> {
    let bytes = noise(many(over));
    let mut options = on(over, options(&busybox(), &["sh", "-c", "head -c 3; exec <&-; sleep 1; exit 4"]));
    options.interactive = true;
    let ran = run_with(&options, input(&bytes)?)?;
    ensure!(ran.stdout == bytes[..3] && ran.code() == 4, "{} bytes, {}", ran.stdout.len(), ran.code());
    Ok(())
}

/// Such a FIFO, opened anew, would never tell of its end.
fn stdin_from_a_fifo_whose_writer_has_gone() -> Result<()> {
    let dir = temporary()?;
    let path = dir.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;
    let writer = std::thread::spawn({
        let path = path.clone();
        move || std::fs::write(path, b"through a FIFO")
    });
    let reader = std::fs::File::open(&path)?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer has panicked"))??;
    let mut options = options(&busybox(), &["cat"]);
    options.interactive = true;
    run_with(&options, reader.into())?.gives("through a FIFO")
}

fn a_grandchild_holds_stdout(over: Channel) -> Result<()> {
    let ran = run(&on(over, shell("sleep 1000 & echo $!; exit 5")))?;
    ensure!(ran.stdout == b"3\n" && ran.code() == 5, "{ran:?}");
    Ok(())
}

/// All processes are gone, but the pipe's other end is not closed.
fn stdout_held_by_nobody(over: Channel) -> Result<()> {
    let dir = temporary()?;
    let layer = Tar::new().file("probe", 0o755, &std::fs::read(probe())?).finish();
    testimage::write(dir.path(), &[layer], ConfigBuilder::default().build()?)?;
    let options = options(&dir.path().display().to_string(), &["/probe", "stdout-in-flight"]);
    let ran = run(&on(over, options))?;
    ensure!(ran.stdout == b"hello\n" && ran.code() == 5, "{ran:?}");
    Ok(())
}

fn output_at_the_very_end(over: Channel) -> Result<()> {
    let options = options(&busybox(), &["dd", "if=/dev/zero", "bs=1M", "count=1", "status=none"]);
    let ran = run(&on(over, options))?;
    ensure!(ran.stdout.len() == 1 << 20 && ran.code() == 0, "{} bytes, {}", ran.stdout.len(), ran.code());
    Ok(())
}

fn out_of_memory() -> Result<()> {
    let mut options = options(&busybox(), &["tail", "/dev/zero"]);
    options.memory = 128 << 20;
    let ran = run(&options)?;
    ensure!(ran.outcome.end == End::Exited(ExitStatus::Oom) && ran.code() == 137, "{ran:?}");
    Ok(())
}

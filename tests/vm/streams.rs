//! What streams promise, over each transport: many processes in one VM, most of them at the same time.

use crate::exec_host::Host;
use crate::harness::Test;
use crate::tests_over_each;
use anyhow::{Result, ensure};
use protocol::{ExitStatus, Stream};
use std::time::{Duration, Instant};
use vch::exit::End;
use vch::transport::Channel;

pub fn tests() -> Vec<Test> {
    tests_over_each![all_at_once]
}

/// Bytes in no order that could come about by accident.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    (0..count as u64)
        .map(|at| (at ^ seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[5])
        .collect()
}

fn exited(code: u8) -> End {
    End::Exited(ExitStatus::Code(code))
}

/// How many bytes are many, and how many of a test's small things there are.
struct Amounts {
    many: usize,
    /// What a process writes before it exits at once.
    last: usize,
    lines: u32,
    signals: Vec<i32>,
}

impl Amounts {
    fn over(channel: Channel) -> Self {
        match channel {
            Channel::Serial => Self { many: 40_000, last: 60_000, lines: 300, signals: vec![1, 9, 15, 64] },
            Channel::VirtioSerial | Channel::Vsock => Self {
                many: 10 << 20,
                last: 1 << 20,
                lines: 10_000,
                // Those that end a shell: all that end a process but SIGQUIT, and but for what the C library has for itself.
                signals: (1..=64)
                    .filter(|n| ![3, 17, 18, 19, 20, 21, 22, 23, 28, 32, 33].contains(n))
                    .collect(),
            },
        }
    }
}

fn all_at_once(over: Channel) -> Result<()> {
    let amounts = Amounts::over(over);
    let mut host = Host::boot(over, "echo up; while :; do sleep 1000; done")?;
    host.until("the container is up", |host| host.output(0).contains("up\n"))?;
    let run = |host: &mut Host, script: &str, stdin: &[u8]| {
        host.exec(host.process(&["sh", "-c", script]), None, Some(stdin))
    };

    // These go on while all the others come and go: a reader that stops for ten seconds, one that never reads, a process whose
    // output is not read for a while, and one that leaves a grandchild with its stdout.
    let paused = noise(1, amounts.many / 4);
    let pause = run(&mut host, "sleep 10; cat", &paused)?;
    let never = run(&mut host, "echo up; exec sleep 1000", &noise(2, 300_000))?;
    let unread = run(&mut host, "cat", &paused)?;
    host.unread.insert(unread);
    let began = Instant::now();
    let grandchild = run(&mut host, "sleep 1000 & echo $!; exit 5", b"")?;

    let both = noise(3, amounts.many);
    let there_and_back = run(&mut host, "tee /dev/stderr", &both)?;
    let done = host.finish(there_and_back)?;
    ensure!(done.out == both && done.err == both, "{} and {} bytes", done.out.len(), done.err.len());
    ensure!(done.end == exited(0), "{:?}", done.end);

    // 64 KiB is what a pipe holds.
    let bytes = noise(4, 65_537);
    let session = run(&mut host, "sleep 1; wc -c", &bytes)?;
    host.finish(session)?.gives("65537\n")?;
    let session = run(&mut host, "cat; echo end", b"")?;
    host.finish(session)?.gives("end\n")?;
    let binary: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    let session = run(&mut host, "cat", &binary)?;
    ensure!(host.finish(session)?.out == binary, "binary bytes");

    at_the_end(&mut host, amounts.last)?;
    interleaved(&mut host, amounts.lines)?;
    closed_early(&mut host)?;
    killed(&mut host, &amounts.signals)?;

    host.until("what left a grandchild has ended", |host| {
        host.execs
            .state(grandchild)
            .is_some_and(|state| matches!(state, vch::execs::State::Ended(end) if *end == exited(5)))
    })?;
    ensure!(host.execs.ended(&host.link, grandchild).is_none(), "its stdout has ended");
    host.run(&format!("kill {}", host.output(grandchild).trim()))?;
    host.finish(grandchild)?;

    if began.elapsed() < Duration::from_secs(10) {
        host.until("ten seconds are over", |_| began.elapsed() >= Duration::from_secs(10))?;
    }
    host.unread.remove(&unread);
    ensure!(host.finish(unread)?.out == paused, "what was read late");
    ensure!(host.finish(pause)?.out == paused, "what a process read late");
    ensure!(host.output(never) == "up\n", "{:?}", host.output(never));
    host.execs.signal(&mut host.link, never, 9)?;
    let killed = End::Exited(ExitStatus::Signal { signal: 9, core: false });
    ensure!(host.finish(never)?.end == killed, "what never read");
    Ok(())
}

/// Much output, and an exit at once.
fn at_the_end(host: &mut Host, count: usize) -> Result<()> {
    let session = host.shell(&format!("dd if=/dev/zero bs={count} count=1 status=none; exit 7"))?;
    let done = host.finish(session)?;
    ensure!(done.out.len() == count && done.end == exited(7), "{} bytes, {:?}", done.out.len(), done.end);
    Ok(())
}

/// Lines to stdout and stderr in turn: each in order.
fn interleaved(host: &mut Host, lines: u32) -> Result<()> {
    let script = format!("i=0; while [ $i -lt {lines} ]; do echo o$i; echo e$i >&2; i=$((i+1)); done");
    let session = host.shell(&script)?;
    let done = host.finish(session)?;
    let expected = |letter| -> String { (0..lines).map(|i| format!("{letter}{i}\n")).collect() };
    ensure!(done.out == expected('o').as_bytes(), "stdout: {} bytes", done.out.len());
    ensure!(done.err == expected('e').as_bytes(), "stderr: {} bytes", done.err.len());
    Ok(())
}

/// A reader that goes: the writer gets SIGPIPE, as in a shell's pipeline.
fn closed_early(host: &mut Host) -> Result<()> {
    let session = host.shell("yes")?;
    host.until("it writes", |host| host.output(session).len() > 1000)?;
    host.link.stop(session, Stream::Stdout);
    let end = host.finish(session)?.end;
    ensure!(end == End::Exited(ExitStatus::Signal { signal: 13, core: false }), "{end:?}");
    Ok(())
}

fn killed(host: &mut Host, signals: &[i32]) -> Result<()> {
    let start =
        |host: &mut Host, signal: &i32| Ok((*signal, host.shell(&format!("kill -{signal} $$; exit 99"))?));
    for some in signals.chunks(16) {
        let sessions = some.iter().map(|signal| start(host, signal)).collect::<Result<Vec<_>>>()?;
        for (signal, session) in sessions {
            let end = host.finish(session)?.end;
            let is_right =
                matches!(end, End::Exited(ExitStatus::Signal { signal: found, .. }) if found == signal);
            ensure!(is_right, "{signal}: {end:?}");
        }
    }
    Ok(())
}

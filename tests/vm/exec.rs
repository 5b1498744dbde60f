//! What runs beside the container's process.

use crate::exec_host::{Done, Host};
use crate::harness::Test;
use crate::tests_over_each;
use anyhow::{Result, ensure};
use protocol::oci::{ConsoleSize, ExecCpuAffinity};
use protocol::{Exec, ExitStatus, Stage, Stream, ToGuest};
use std::time::Instant;
use vch::execs::State;
use vch::exit::End;
use vch::transport::Channel;

pub fn tests() -> Vec<Test> {
    tests_over_each![beside_a_container, until_it_ends]
}

/// Two users, a file, and nothing else.
const CONTAINER: &str = "
    echo 'web:x:33:34::/srv:' >> /etc/passwd
    echo 'log:x:4:web' >> /etc/group
    echo ours > /tmp/file
    echo no program > /tmp/plain
    echo up
    while :; do sleep 1000; done";

fn failed(done: &Done, stage: Stage, errno: Option<i32>, code: u8, text: &str) -> Result<()> {
    let End::Failed(failure) = &done.end else { anyhow::bail!("{text}: it ran: {done:?}") };
    ensure!(failure.stage == stage && failure.errno == errno && done.end.code() == code, "{failure:?}");
    ensure!(failure.message.contains(text), "{text:?} is not in {failure:?}");
    Ok(())
}

fn up(host: &mut Host) -> Result<()> {
    host.until("the container is up", |host| host.output(0).contains("up\n"))
}

fn beside_a_container(over: Channel) -> Result<()> {
    let mut host = Host::boot(over, CONTAINER)?;
    host.until("it is told what to run", |host| host.told_to_start)?;
    let done = host.run("true")?;
    failed(&done, Stage::Run, None, 125, "the container does not run yet")?;
    up(&mut host)?;
    let began = Instant::now();
    host.run("echo out; echo err >&2; exit 3").and_then(|done| {
        let expected = (End::Exited(ExitStatus::Code(3)), b"out\n".to_vec(), b"err\n".to_vec());
        ensure!((done.end.clone(), done.out.clone(), done.err.clone()) == expected, "{done:?}");
        Ok(())
    })?;
    println!("an exec: {:?}", began.elapsed());
    surroundings(&mut host)?;
    failures(&mut host)?;
    users(&mut host)?;
    all_codes(&mut host)?;
    signals(&mut host)?;
    terminal(&mut host)?;
    fifty_at_once(&mut host, if over == Channel::Serial { 500 } else { 100_000 })
}

fn surroundings(host: &mut Host) -> Result<()> {
    host.run("cat /tmp/file; hostname; cat /proc/self/cgroup; pwd")?.gives("ours\nexec-test\n0::/\n/\n")?;
    host.run("tr '\\0' ' ' < /proc/2/cmdline | head -c 6")?.gives("sh -c ")?;
    host.run("for n in pid mnt ipc uts cgroup net; do [ $(readlink /proc/2/ns/$n) = $(readlink /proc/$$/ns/$n) ] || echo $n; done")?
        .gives("")?;
    // (Neither in a pipeline nor redirected: the shell has descriptors of its own for both.)
    host.run("ls /proc/$$/fd; grep -c . /proc/$$/limits")?.gives("0\n1\n2\n17\n")?;
    host.run("echo theirs >> /tmp/file; cat /proc/$$/oom_score_adj; ls -l /proc/$$/exe | sed 's/.*> //'")?
        .gives("0\n/bin/busybox\n")?;
    host.run("cat /tmp/file")?.gives("ours\ntheirs\n")?;
    let input = host.exec(host.process(&["cat"]), None, Some(b""))?;
    host.finish(input)?.gives("")?;
    host.run("cat")?.gives("") // no stdin
}

fn failures(host: &mut Host) -> Result<()> {
    let mut of = |args: &[&str], user, cwd: &str| {
        let mut process = host.process(args);
        process.cwd = cwd.into();
        let session = host.exec(process, user, None)?;
        host.finish(session)
    };
    failed(&of(&["nothing"], None, "/")?, Stage::Exec, Some(2), 127, "\"nothing\": executable file not")?;
    failed(&of(&["/no/thing"], None, "/")?, Stage::Exec, Some(2), 127, "/no/thing")?;
    failed(&of(&["/tmp/plain"], None, "/")?, Stage::Exec, Some(13), 126, "/tmp/plain")?;
    failed(&of(&["/bin"], None, "/")?, Stage::Exec, Some(13), 126, "/bin")?;
    failed(&of(&["true"], Some("nobody-here"), "/")?, Stage::Config, None, 125, "user \"nobody-here\"")?;
    failed(&of(&["true"], None, "/no")?, Stage::Config, Some(2), 125, "process.cwd /no")?;
    failed(&of(&["true"], None, "no")?, Stage::Config, None, 125, "not an absolute path")?;
    failed(&of(&[], None, "/")?, Stage::Config, None, 125, "process.args is empty")?;
    // A field that is about execs alone. The VM has no such CPU.
    let mut process = host.process(&["true"]);
    process.exec_cpu_affinity = Some(ExecCpuAffinity { initial: "0".into(), after: "200".into() });
    let session = host.exec(process, None, None)?;
    failed(&host.finish(session)?, Stage::Config, Some(22), 125, "process.execCPUAffinity \"200\"")?;
    let long = "x".repeat(100_000);
    let mut of = |args: &[&str], cwd: &str| {
        let mut process = host.process(args);
        process.cwd = cwd.into();
        let session = host.exec(process, None, None)?;
        host.finish(session)
    };
    failed(&of(&[&long], "/")?, Stage::Exec, Some(2), 127, "xxx")?;
    let done = of(&["true"], &long)?;
    failed(&done, Stage::Config, None, 125, "process.cwd")
}

fn users(host: &mut Host) -> Result<()> {
    let script = "id -u; id -g; id -G; echo $HOME; grep CapEff /proc/self/status";
    for (user, expected) in [
        ("web", "33\n34\n34 4\n/srv\nCapEff:\t0000000000000000\n"),
        ("web:log", "33\n4\n4\n/srv\nCapEff:\t0000000000000000\n"),
        ("77:5", "77\n5\n5\n/\nCapEff:\t0000000000000000\n"),
    ] {
        let session = host.exec(host.process(&["sh", "-c", script]), Some(user), None)?;
        host.finish(session)?.gives(expected)?;
    }
    // Whoever it is may open its own stdout.
    let process = host.process(&["sh", "-c", "echo x > /dev/stdout"]);
    let session = host.exec(process, Some("web"), None)?;
    host.finish(session)?.gives("x\n")
}

fn all_codes(host: &mut Host) -> Result<()> {
    for batch in 0..8 {
        let codes = batch * 32..batch * 32 + 32;
        let mut start = |code: u8| Ok((code, host.shell(&format!("echo {code}; exit {code}"))?));
        let sessions: Vec<(u8, u32)> =
            codes.map(u8::try_from).map(|code| start(code?)).collect::<Result<_>>()?;
        for (code, session) in sessions {
            let done = host.finish(session)?;
            ensure!(done.end == End::Exited(ExitStatus::Code(code)), "{code}: {done:?}");
            ensure!(done.text() == format!("{code}\n"), "{done:?}");
        }
    }
    Ok(())
}

fn signals(host: &mut Host) -> Result<()> {
    let by = |signal, core| End::Exited(ExitStatus::Signal { signal, core });
    for signal in [1, 2, 9, 13, 14, 15, 34, 64] {
        let done = host.run(&format!("kill -{signal} $$; sleep 1000"))?;
        ensure!(done.end == by(signal, false), "{signal}: {done:?}");
        let session = host.shell("echo up; exec sleep 1000")?;
        host.until("it sleeps", |host| !host.output(session).is_empty())?;
        host.execs.signal(&mut host.link, session, signal)?;
        let done = host.finish(session)?;
        ensure!(done.end == by(signal, false), "sent {signal}: {done:?}");
    }
    let session = host.shell("trap 'echo caught; exit 9' TERM; echo up; while :; do sleep 0.1; done")?;
    host.until("it waits", |host| !host.output(session).is_empty())?;
    host.execs.signal(&mut host.link, session, 15)?;
    let done = host.finish(session)?;
    ensure!(done.text() == "up\ncaught\n" && done.end == End::Exited(ExitStatus::Code(9)), "{done:?}");
    host.execs.signal(&mut host.link, session, 9)?; // to nobody
    host.execs.signal(&mut host.link, 4_000_000_000, 9)
}

fn terminal(host: &mut Host) -> Result<()> {
    let mut process = host.process(&["sh", "-c", "stty size; tty; read x; stty size; echo $x >&2; read y"]);
    process.terminal = true;
    process.console_size = Some(ConsoleSize { height: 31, width: 117 });
    let session = host.exec(process, None, None)?;
    host.until("it has a terminal", |host| host.output(session).contains("/dev/pts/"))?;
    ensure!(host.output(session).starts_with("31 117\r\n"), "{:?}", host.output(session));
    host.resize(session, 50, 200)?;
    host.types(session, b"typed\r")?;
    host.until("it answers", |host| host.output(session).ends_with("50 200\r\ntyped\r\n"))?;
    host.types(session, b"\x03")?;
    let done = host.finish(session)?;
    let interrupted = End::Exited(ExitStatus::Signal { signal: 2, core: false });
    ensure!(done.end == interrupted && done.err.is_empty(), "{done:?}");
    // ^D is what the end of input becomes.
    let mut process = host.process(&["cat"]);
    process.terminal = true;
    let session = host.exec(process, Some("web"), Some(b"line\n"))?;
    let done = host.finish(session)?;
    ensure!(done.text() == "line\r\nline\r\n" && done.end.code() == 0, "{done:?}");
    Ok(())
}

fn fifty_at_once(host: &mut Host, length: u64) -> Result<()> {
    let input = |number: u32| -> Vec<u8> {
        (0..length)
            .map(|at| {
                (at + u64::from(number) * 1_000_003).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[5]
            })
            .collect()
    };
    let start = |number: u32| {
        let script = format!("echo {number} >&2; cat; exit {number}");
        let session = host.exec(host.process(&["sh", "-c", &script]), None, Some(&input(number)))?;
        Ok((number, session))
    };
    let sessions: Vec<(u32, u32)> = (1..=50).map(start).collect::<Result<_>>()?;
    for (number, session) in sessions {
        let done = host.finish(session)?;
        ensure!(done.out == input(number), "{number}: other bytes came back, {} of them", done.out.len());
        ensure!(done.err == format!("{number}\n").as_bytes(), "{done:?}");
        ensure!(u32::from(done.end.code()) == number, "{done:?}");
    }
    Ok(())
}

fn until_it_ends(over: Channel) -> Result<()> {
    let mut host = Host::boot(over, CONTAINER)?;
    up(&mut host)?;
    what_is_left_behind(&mut host)?;
    closed(&mut host)?;
    too_many(&mut host, if over == Channel::Serial { 200 } else { 20_000 })?;
    one_that_nobody_reads(&mut host)?;

    let sleeping: Vec<u32> =
        (0..5).map(|_| host.shell("echo up; sleep 1000 & sleep 1000")).collect::<Result<_>>()?;
    for session in &sleeping {
        host.until("it sleeps", |host| !host.output(*session).is_empty())?;
    }
    host.ended_before = 0;
    host.link.send(&ToGuest::Signal { session: 0, signal: 9 })?;
    host.until("the container's exit", |host| host.exited.is_some())?;
    let killed = ExitStatus::Signal { signal: 9, core: false };
    ensure!(host.exited == Some(killed), "{:?}", host.exited);
    ensure!(host.ended_before == sleeping.len() + 1, "{} were reported before", host.ended_before);
    for session in sleeping {
        let done = host.finish(session)?;
        ensure!(done.end == End::WithContainer && done.text() == "up\n", "{done:?}");
    }
    println!("tether's largest resident set: {} KiB", host.peak_rss);
    let late = host.run("true")?;
    failed(&late, Stage::Run, None, 125, "the container has ended")?;
    host.link.send(&ToGuest::Acknowledged)?;
    let later = host.run("true")?;
    failed(&later, Stage::Run, None, 125, "the container has ended")?;
    host.until("the last word", |host| host.stopped)
}

/// What an exec leaves behind holds its stdout, and lives on; its exit is known at once.
fn what_is_left_behind(host: &mut Host) -> Result<()> {
    let session = host.shell("echo up; (sleep 3; echo still; sleep 1000) & echo $! > /tmp/pid; exit 4")?;
    host.until("it ends", |host| matches!(host.execs.state(session), Some(State::Ended(_))))?;
    ensure!(host.execs.state(session) == Some(&State::Ended(End::Exited(ExitStatus::Code(4)))), "not 4");
    host.until("what it left speaks", |host| host.output(session) == "up\nstill\n")?;
    ensure!(host.execs.ended(&host.link, session).is_none(), "its stdout has ended");
    host.run("kill $(cat /tmp/pid); killall sleep")?;
    ensure!(host.finish(session)?.text() == "up\nstill\n", "something else came");
    Ok(())
}

/// A session that is closed takes its process with it.
fn closed(host: &mut Host) -> Result<()> {
    let session = host.shell("echo up; echo $$ > /tmp/pid; exec sleep 1000")?;
    host.until("it sleeps", |host| !host.output(session).is_empty())?;
    host.execs.close(&mut host.link, session);
    host.run("while kill -0 $(cat /tmp/pid) 2>/dev/null; do sleep 0.1; done; echo gone")?.gives("gone\n")?;
    // Closed before it has come to anything.
    for _ in 0..20 {
        let session = host.shell("sleep 1000")?;
        host.execs.close(&mut host.link, session);
    }
    host.run("echo on")?.gives("on\n")
}

/// Orders without a session, or for one that has a process, change nothing.
fn too_many(host: &mut Host, orders: u32) -> Result<()> {
    let session = host.shell("echo up; read x < /dev/zero; sleep 1000")?;
    host.until("it is up", |host| !host.output(session).is_empty())?;
    let process = host.process(&["true"]);
    for _ in 0..orders {
        let exec = Exec { session: 0, process: process.clone(), user: None, stdin: false };
        host.link.send(&ToGuest::Exec(Box::new(exec)))?;
    }
    host.execs.close(&mut host.link, session);
    host.run("echo on")?.gives("on\n")?;
    // As many as there may be.
    host.until("all closed ones are gone", |host| !host.link.unacknowledged())?;
    let sessions: Vec<u32> = std::iter::from_fn(|| host.shell("read x; echo on").ok()).take(100).collect();
    ensure!(sessions.len() == protocol::MOST_SESSIONS - 1, "{} at once", sessions.len());
    for session in sessions {
        host.finish(session)?.gives("on\n")?;
    }
    Ok(())
}

/// One session that nobody reads stops no other; it is still there when the container ends.
fn one_that_nobody_reads(host: &mut Host) -> Result<()> {
    let session = host.shell("cat /dev/zero")?;
    host.unread.insert(session);
    host.until("its window is full", |host| {
        host.link.pending(session, Stream::Stdout).len() as u64 == protocol::EXEC_WINDOW
    })?;
    host.run("echo on")?.gives("on\n")?;
    ensure!(host.execs.state(session) == Some(&State::Running), "{:?}", host.execs.state(session));
    Ok(())
}

//! The loop against a guest made of a thread: real sockets and pipes, no VM.

mod guest;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;
use protocol::{ExitStatus, Stream, ToGuest, ToHost};

use super::CONTROL;
use super::message::ToMonitor;
use crate::client::control::{Control, Heard};
use crate::containers::{State, sockets};
use crate::conversation::SESSION;
use crate::exit::{End, Outcome};
use guest::{Guest, User, all, between, container, plan, within};

const MANY: usize = 10 << 20;

const MINUTE: Duration = Duration::from_secs(60);

fn error(outcome: Result<Outcome>) -> String {
    format!("{:#}", outcome.unwrap_err())
}

fn pattern(count: usize) -> Vec<u8> {
    (0_u32..).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()).take(count).collect()
}

#[test]
fn ten_mebibytes_there_and_back() {
    let echo = |guest: Guest| {
        let mut guest = guest.started();
        while !guest.link.finished(SESSION, Stream::Stdin) {
            let bytes = guest.link.pending(SESSION, Stream::Stdin).to_vec();
            guest.write(Stream::Stdout, &bytes);
            guest.link.consume(SESSION, Stream::Stdin, bytes.len());
            assert!(guest.pump());
        }
        guest.write(Stream::Stderr, b"done");
        guest.leaves(ExitStatus::Code(3));
    };
    let user = |user: User| {
        let stdin = user.stdin;
        let feeder = thread::spawn(move || std::fs::File::from(stdin).write_all(&pattern(MANY)).unwrap());
        assert!(all(user.stdout) == pattern(MANY));
        feeder.join().unwrap();
        assert_eq!(all(user.stderr), b"done");
    };
    let outcome = between(echo, user, MINUTE).unwrap();
    assert_eq!((outcome.end, outcome.peak_rss), (End::Exited(ExitStatus::Code(3)), 7));
}

#[test]
fn the_exit_is_acknowledged_when_all_output_is_kept_and_read_later() {
    let (tell, told) = std::sync::mpsc::channel();
    let guest = move |guest: Guest| {
        let mut guest = guest.started();
        guest.write(Stream::Stdout, &pattern(200_000));
        guest.leaves(ExitStatus::Code(0));
        tell.send(()).unwrap();
    };
    let user = move |user: User| {
        told.recv().unwrap();
        assert!(all(user.stdout) == pattern(200_000));
    };
    assert_eq!(between(guest, user, MINUTE).unwrap().code(), 0);
}

#[test]
fn an_owner_that_does_not_read_holds_the_container_back() {
    let (tell, told) = std::sync::mpsc::channel();
    let guest = move |guest: Guest| {
        let mut guest = guest.started();
        let mut written = 0;
        for _ in 0..200 {
            let put = |room: &mut [u8]| Ok::<_, Infallible>(room.len());
            written += guest.link.fill(SESSION, Stream::Stdout, put).unwrap().unwrap_or(0);
            assert!(guest.pump());
        }
        assert!(written < 2 << 20, "{written}");
        tell.send(()).unwrap();
        guest.leaves(ExitStatus::Code(0));
    };
    let user = move |user: User| {
        told.recv().unwrap();
        all(user.stdout);
    };
    assert_eq!(between(guest, user, MINUTE).unwrap().code(), 0);
}

#[test]
fn an_unread_stdout_does_not_stop_stderr() {
    let (tell, told) = std::sync::mpsc::channel();
    let guest = |guest: Guest| {
        let mut guest = guest.started();
        guest.write(Stream::Stdout, &pattern(250_000));
        guest.write(Stream::Stderr, b"still here");
        guest.leaves(ExitStatus::Code(0));
    };
    let user = move |user: User| {
        let mut text = [0; 10];
        std::fs::File::from(user.stderr).read_exact(&mut text).unwrap();
        tell.send(text).unwrap();
        assert!(all(user.stdout) == pattern(250_000));
    };
    assert_eq!(between(guest, user, MINUTE).unwrap().code(), 0);
    assert_eq!(&told.recv().unwrap(), b"still here");
}

#[test]
fn a_closed_stdout_ends_it() {
    let guest = |guest: Guest| {
        let mut guest = guest.started();
        while guest.pump() {
            let put = |room: &mut [u8]| Ok::<_, Infallible>(room.len());
            guest.link.fill(SESSION, Stream::Stdout, put).unwrap();
        }
    };
    let user = |user: User| {
        std::fs::File::from(user.stdout).read_exact(&mut [0; 100]).unwrap();
    };
    let outcome = between(guest, user, MINUTE).unwrap();
    assert_eq!((outcome.code(), outcome.end), (141, End::Closed(Stream::Stdout)));
}

#[test]
fn liars() {
    let garbage = |guest: Guest| {
        let mut guest = guest.greeted();
        guest.channel.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n").unwrap();
    };
    let told = error(between(garbage, drop, MINUTE));
    assert!(told.starts_with("the guest broke the channel's protocol: a frame begins with"), "{told}");

    let early = |guest: Guest| guest.greeted().exited(ExitStatus::Code(0));
    let told = error(between(early, drop, MINUTE));
    assert!(told.contains("it says Exited while booting"), "{told}");

    let twice = |guest: Guest| {
        guest.started().send(&ToHost::Ready { tether: String::new(), timeline: vec![], restored: false });
    };
    let told = error(between(twice, drop, MINUTE));
    assert!(told.contains("it says Ready while the container runs"), "{told}");

    let damaged = |layer| ToHost::Damaged { layer, block: 1 };
    let no_such_layer = move |guest: Guest| guest.started().send(&damaged(1));
    let told = error(between(no_such_layer, drop, MINUTE));
    assert!(told.contains("that layer 1 is damaged"), "{told}");
    let again = move |guest: Guest| {
        let mut guest = guest.started();
        guest.send(&damaged(0));
        guest.send(&damaged(0));
    };
    let told = error(between(again, |user: User| drop(all(user.stderr)), MINUTE));
    assert!(told.contains("that layer 0 is damaged"), "{told}");
}

#[test]
fn a_damaged_layer_is_named_and_the_container_goes_on() {
    let guest = |guest: Guest| {
        let mut guest = guest.started();
        guest.write(Stream::Stderr, b"before\n");
        guest.send(&ToHost::Damaged { layer: 0, block: u64::MAX });
        guest.leaves(ExitStatus::Code(5));
    };
    let user = |user: User| {
        let text = String::from_utf8(all(user.stderr)).unwrap();
        let warning =
            format!("vch: warning: layer 1 of 1: block {}, of the hash tree, is damaged; ", u64::MAX);
        assert!(text.contains("before\n") && text.contains(&warning), "{text}");
    };
    assert_eq!(between(guest, user, MINUTE).unwrap().code(), 5);
}

#[test]
fn a_panic_is_quoted() {
    let guest = |guest: Guest| {
        let mut guest = guest.started();
        guest.console.write_all(b"[ 1.0] Kernel panic - not syncing: Attempted to kill init!\r\n").unwrap();
        guest.monitor.write_all(b"{\"event\":\"SHUTDOWN\",\"data\":{\"reason\":\"guest-reset\"}}\n").unwrap();
    };
    let sentence = |ran: Result<Outcome>| ran.unwrap().sentence().unwrap();
    let told = sentence(between(guest, drop, MINUTE));
    assert!(told.contains("gave up after 0."), "{told}");
    assert!(told.ends_with("Kernel panic - not syncing: Attempted to kill init!"), "{told}");
    // The same, when the machine does not reset.
    let hangs = |guest: Guest| {
        let mut guest = guest.started();
        guest.console.write_all(b"Kernel panic - not syncing: stuck\n").unwrap();
        while guest.pump() {}
    };
    assert!(sentence(between(hangs, drop, MINUTE)).contains("not syncing: stuck"));
}

#[test]
fn a_guest_that_does_not_come_up() {
    let silent = |mut guest: Guest| {
        guest.console.write_all(b"SeaBIOS\n").unwrap();
        while guest.channel.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
    };
    let told = error(between(silent, drop, Duration::from_millis(300)));
    assert!(
        told.contains("had not got as far as opening the channel; the console's last line: SeaBIOS"),
        "{told}"
    );
    let stuck = |mut guest: Guest| {
        let step = protocol::Step { name: "channel".into(), at: 1 };
        guest.send(&ToHost::Ready { tether: String::new(), timeline: vec![step], restored: false });
        while guest.pump() {}
    };
    let told = error(between(stuck, drop, Duration::from_millis(300)));
    assert!(told.contains("tether was starting the container (its last step: channel)"), "{told}");
    let asks = |mut guest: Guest| {
        guest.send(&ToHost::Ready { tether: String::new(), timeline: vec![], restored: false });
        while guest.pump() {}
    };
    let dir = tempfile::tempdir().unwrap();
    let nic = r#"{"mac":"02:00:00:00:00:01","name":"eth0","dhcp":true}"#;
    let mut plan = plan(Duration::from_millis(300));
    plan.machine.network.nics = vec![serde_json::from_str(nic).unwrap()];
    let told = error(within(container(dir.path(), vec![]), asks, drop, plan));
    assert!(told.contains("which needs the answer of a DHCP server on eth0"), "{told}");
    let off = |mut guest: Guest| {
        guest
            .monitor
            .write_all(b"{\"event\":\"SHUTDOWN\",\"data\":{\"reason\":\"guest-shutdown\"}}\n")
            .unwrap();
    };
    let told = error(between(off, drop, MINUTE));
    assert!(told.contains("switched itself off"), "{told}");
}

#[test]
fn a_full_host_disk() {
    let guest = |guest: Guest| {
        let mut guest = guest.started();
        let event = "{\"event\":\"BLOCK_IO_ERROR\",\"data\":{\"action\":\"stop\",\"nospace\":true}}\n";
        guest.monitor.write_all(event.as_bytes()).unwrap();
        while guest.pump() {}
    };
    assert!(error(between(guest, drop, MINUTE)).contains("the host's disk is full"));
}

#[test]
fn signals_stop_a_start_and_are_passed_on_once() {
    let booting = |mut guest: Guest| while guest.pump() {};
    let outcome = between(booting, |user: User| user.signal(Signal::SIGTERM), MINUTE).unwrap();
    assert_eq!((outcome.code(), outcome.end), (143, End::Killed(Signal::SIGTERM)));

    let (tell, told) = std::sync::mpsc::channel();
    let obeys = move |guest: Guest| {
        let mut guest = guest.started();
        tell.send(()).unwrap();
        assert_eq!(guest.message(), ToGuest::Signal { session: 0, signal: 2 });
        guest.leaves(ExitStatus::Signal { signal: 2, core: false });
    };
    let once = move |user: User| {
        told.recv().unwrap();
        thread::sleep(Duration::from_millis(50));
        user.signal(Signal::SIGINT);
        all(user.stdout);
    };
    let outcome = between(obeys, once, MINUTE).unwrap();
    assert_eq!((outcome.code(), outcome.sentence().as_deref()), (130, Some("stopped by SIGINT")));

    let (tell, told) = std::sync::mpsc::channel();
    let deaf = move |guest: Guest| {
        let mut guest = guest.started();
        tell.send(()).unwrap();
        while guest.pump() {}
    };
    let twice = move |user: User| {
        told.recv().unwrap();
        thread::sleep(Duration::from_millis(50));
        user.signal(Signal::SIGINT);
        user.signal(Signal::SIGTERM);
        all(user.stdout);
    };
    assert_eq!(between(deaf, twice, MINUTE).unwrap().end, End::Killed(Signal::SIGTERM));
}

#[test]
fn who_is_to_be_killed_in_time_is_though_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let container = container(dir.path(), vec![]);
    let guest = |guest: Guest| {
        let mut guest = guest.started();
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            assert_eq!(guest.message(), ToGuest::Signal { session: 0, signal });
        }
        guest.leaves(ExitStatus::Signal { signal: libc::SIGKILL, core: false });
    };
    let seen = container.clone();
    let stops = move |user: User| {
        while !matches!(seen.state(), Ok(State::Running { .. })) {
            thread::sleep(Duration::from_millis(5));
        }
        let mut control = Control::new(sockets::connect(&seen.dir, CONTROL).unwrap()).unwrap();
        let messages =
            [ToMonitor::Signal { number: libc::SIGTERM, insists: false }, ToMonitor::KillAfter(20)];
        assert!(!matches!(control.say(&messages, None).unwrap(), Heard::Late | Heard::Lost));
        drop(control);
        all(user.stdout);
    };
    assert_eq!(within(container, guest, stops, plan(MINUTE)).unwrap().code(), 137);
}

#[test]
fn a_failure_comes_with_its_stage() {
    let guest = |mut guest: Guest| {
        guest.send(&ToHost::Ready { tether: String::new(), timeline: vec![], restored: false });
        guest.message();
        guest.send(&ToHost::Failed(protocol::Failure {
            stage: protocol::Stage::Exec,
            errno: Some(libc::ENOENT),
            message: "nope: No such file or directory".into(),
        }));
        guest.link.end(SESSION, Stream::Stdout);
        guest.link.end(SESSION, Stream::Stderr);
        while guest.pump() {}
    };
    let outcome = between(guest, drop, MINUTE).unwrap();
    assert_eq!(outcome.code(), 127);
    assert_eq!(
        outcome.sentence().unwrap(),
        "could not start the container: executing the command: nope: No such file or directory"
    );
    // The user knows nothing of the tags that the guest has for what is shared.
    let mount = |mut guest: Guest| {
        guest.send(&ToHost::Ready { tether: String::new(), timeline: vec![], restored: false });
        guest.message();
        guest.send(&ToHost::Failed(protocol::Failure {
            stage: protocol::Stage::Root,
            errno: Some(libc::EISDIR),
            message: "mounting \"share0\" on /etc: Is a directory".into(),
        }));
        guest.link.end(SESSION, Stream::Stdout);
        guest.link.end(SESSION, Stream::Stderr);
        while guest.pump() {}
    };
    let told = between(mount, drop, MINUTE).unwrap().sentence().unwrap();
    assert!(told.ends_with(": mounting \"/host/f\" on /etc: Is a directory"), "{told}");
}

/// With volumes it could take ten minutes to power off.
#[test]
fn a_guest_that_has_stopped_is_not_waited_for() {
    let guest = |guest: Guest| {
        let mut guest = guest.started();
        guest.exited(ExitStatus::Code(5));
        assert_eq!(guest.message(), ToGuest::Acknowledged);
        guest.send(&ToHost::Stopped { timeline: vec![] });
        let end = Instant::now() + 3 * MINUTE;
        while guest.pump() {
            assert!(Instant::now() < end, "the host still listens");
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let container = container(dir.path(), vec!["data".into()]);
    let outcome = within(container, guest, |_| {}, plan(MINUTE)).unwrap();
    assert_eq!(outcome.end, End::Exited(ExitStatus::Code(5)));
}

/// A lease that is given back is on its way to others.
#[test]
fn one_with_leases_is() {
    let mut plan = plan(MINUTE);
    plan.machine.network.nics = vec![protocol::network::Nic {
        mac: protocol::network::Mac([2; 6]),
        name: "eth0".into(),
        addresses: vec![],
        routes: vec![],
        dhcp: true,
        slaac: false,
        mtu: None,
        offload: false,
    }];
    let guest = |guest: Guest| {
        let mut guest = guest.started();
        guest.exited(ExitStatus::Code(5));
        assert_eq!(guest.message(), ToGuest::Acknowledged);
        guest.send(&ToHost::Stopped { timeline: vec![] });
        // What it is answered comes before the host could have hung up.
        assert_eq!(guest.message(), ToGuest::Acknowledged);
        for _ in 0..20 {
            assert!(guest.pump(), "the host has hung up");
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let container = container(dir.path(), vec!["data".into()]);
    let outcome = within(container, guest, |_| {}, plan).unwrap();
    assert_eq!(outcome.end, End::Exited(ExitStatus::Code(5)));
}

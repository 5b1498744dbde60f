//! What a link does, one promise at a time.

use protocol::{
    Event, ExitStatus, GuestLink, HIGH_WATER, HostLink, Kept, State, Stream, ToGuest, ToHost, frame,
};
use std::convert::Infallible;

const WINDOW: usize = 256 << 10;
const NONCE: [u8; 16] = *b"sixteen bytes...";

fn put(link: &mut GuestLink, session: u32, stream: Stream, bytes: &[u8]) -> usize {
    let put = |room: &mut [u8]| {
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        Ok::<_, Infallible>(count)
    };
    link.fill(session, stream, put).unwrap().unwrap_or(0)
}

/// As much as goes.
fn put_all(link: &mut GuestLink, session: u32, stream: Stream) -> usize {
    std::iter::from_fn(|| Some(put(link, session, stream, &[b'x'; 65536])).filter(|count| *count > 0)).sum()
}

fn pair() -> (HostLink, GuestLink) {
    let (mut host, mut guest) = (HostLink::host(NONCE, false), GuestLink::guest());
    exchange(&mut host, &mut guest);
    connected(&mut host, &mut guest);
    (host, guest)
}

fn connected(host: &mut HostLink, guest: &mut GuestLink) {
    assert_eq!(host.event(), Ok(Some(Event::Connected(2))));
    assert_eq!(guest.event(), Ok(Some(Event::Connected(2))));
}

fn exchange(host: &mut HostLink, guest: &mut GuestLink) {
    while !host.output().is_empty() || !guest.output().is_empty() {
        let bytes = host.output().to_vec();
        host.wrote(bytes.len());
        guest.receive(&bytes).unwrap();
        let bytes = guest.output().to_vec();
        guest.wrote(bytes.len());
        host.receive(&bytes).unwrap();
    }
}

fn exited(code: u8) -> ToHost {
    ToHost::Exited { status: ExitStatus::Code(code), timeline: vec![], peak_rss: 0 }
}

#[test]
fn an_unread_stream_stops_neither_the_other_nor_control() {
    let (mut host, mut guest) = pair();
    let mut out = 0;
    loop {
        let count = put(&mut guest, 0, Stream::Stdout, &[b'o'; 5000]);
        exchange(&mut host, &mut guest);
        if count == 0 {
            break;
        }
        out += count;
    }
    assert_eq!(out, WINDOW, "the sender stops at the window");
    assert_eq!(put(&mut guest, 0, Stream::Stderr, b"err"), 3);
    guest.send(&exited(3)).unwrap();
    exchange(&mut host, &mut guest);
    assert_eq!(host.pending(0, Stream::Stderr), b"err");
    assert!(matches!(host.event(), Ok(Some(Event::Message(ToHost::Exited { .. })))));
    host.consume(0, Stream::Stdout, WINDOW);
    exchange(&mut host, &mut guest);
    assert!(guest.room(0, Stream::Stdout) > 0, "credit came back");
}

/// A read of no bytes would look like the end of the stream.
#[test]
fn without_room_nothing_is_read() {
    let (_, mut guest) = pair();
    assert_eq!(put_all(&mut guest, 0, Stream::Stdout), WINDOW);
    let filled = guest.fill(0, Stream::Stdout, |_| -> Result<usize, ()> { panic!("read without room") });
    assert_eq!(filled, Ok(None));
    assert_eq!(guest.fill(7, Stream::Stdout, |_| -> Result<usize, ()> { panic!("no session") }), Ok(None));
}

#[test]
fn a_stopped_stream_is_dropped_and_the_sender_is_told() {
    let (mut host, mut guest) = pair();
    assert_eq!(put(&mut guest, 0, Stream::Stdout, b"one"), 3);
    host.stop(0, Stream::Stdout);
    exchange(&mut host, &mut guest);
    assert_eq!(host.pending(0, Stream::Stdout), b"");
    assert!(guest.unwanted(0, Stream::Stdout) && guest.delivered(0, Stream::Stdout));
    assert!(host.finished(0, Stream::Stdout));
    assert_eq!(put(&mut guest, 0, Stream::Stdout, b"two"), 0);
}

#[test]
fn an_end_is_confirmed_when_all_was_used() {
    let (mut host, mut guest) = pair();
    put(&mut guest, 0, Stream::Stdout, b"all");
    guest.end(0, Stream::Stdout);
    exchange(&mut host, &mut guest);
    assert!(!host.finished(0, Stream::Stdout) && guest.unacknowledged());
    host.consume(0, Stream::Stdout, 3);
    assert!(host.finished(0, Stream::Stdout) && !guest.delivered(0, Stream::Stdout));
    exchange(&mut host, &mut guest);
    assert!(guest.delivered(0, Stream::Stdout) && !guest.unacknowledged());
}

#[test]
fn messages_go_both_ways_in_pieces() {
    let (mut host, mut guest) = pair();
    let long = ToHost::Ready { tether: "x".repeat(900_000), timeline: vec![], restored: false };
    guest.send(&long).unwrap();
    guest.send(&long).unwrap();
    host.send(&ToGuest::Resize { session: 0, height: 24, width: 80 }).unwrap();
    host.send(&ToGuest::Signal { session: 0, signal: 15 }).unwrap();
    exchange(&mut host, &mut guest);
    assert_eq!(
        guest.event(),
        Ok(Some(Event::Message(ToGuest::Resize { session: 0, height: 24, width: 80 })))
    );
    assert_eq!(guest.event(), Ok(Some(Event::Message(ToGuest::Signal { session: 0, signal: 15 }))));
    assert_eq!(guest.event(), Ok(None));
    assert!(host.event() == Ok(Some(Event::Message(long.clone()))));
    assert_eq!(host.event(), Ok(None), "the second waits for the first to be taken");
    exchange(&mut host, &mut guest);
    assert!(host.event() == Ok(Some(Event::Message(long))));
    assert!(
        guest
            .send(&ToHost::Ready { tether: "x".repeat(1 << 20), timeline: vec![], restored: false })
            .is_err()
    );
}

#[test]
fn control_overtakes_data() {
    let (mut host, mut guest) = pair();
    put_all(&mut guest, 0, Stream::Stdout);
    put_all(&mut guest, 0, Stream::Stderr);
    guest.send(&exited(1)).unwrap();
    let mut before = 0;
    while host.event().unwrap().is_none() {
        let count = guest.output().len().min(1000);
        host.receive(&guest.output()[..count]).unwrap();
        guest.wrote(count);
        before += count;
    }
    assert!(before <= HIGH_WATER + frame::MAX_DATA + 2000, "{before} bytes");
}

#[test]
fn every_stream_has_its_turn() {
    let (mut host, mut guest) = pair();
    let sessions: Vec<u32> = std::iter::from_fn(|| host.open()).collect();
    assert_eq!(sessions.len(), 63);
    exchange(&mut host, &mut guest);
    for session in [0].into_iter().chain(sessions.clone()) {
        put_all(&mut guest, session, Stream::Stdout);
    }
    let mut bytes = 0;
    while !sessions.iter().all(|session| !host.pending(*session, Stream::Stdout).is_empty()) {
        let count = guest.output().len();
        bytes += count;
        host.receive(&guest.output()[..count]).unwrap();
        guest.wrote(count);
        let new = host.pending(0, Stream::Stdout).len();
        host.consume(0, Stream::Stdout, new);
        put_all(&mut guest, 0, Stream::Stdout);
    }
    assert!(bytes < 66 * 65600 + HIGH_WATER, "{bytes}");
}

#[test]
fn what_was_not_taken_comes_again_and_what_was_does_not() {
    let (mut host, mut guest) = pair();
    put(&mut guest, 0, Stream::Stdout, b"abcdef");
    guest.send(&exited(1)).unwrap();
    guest.send(&exited(2)).unwrap();
    exchange(&mut host, &mut guest);
    host.consume(0, Stream::Stdout, 2);
    assert!(matches!(host.event(), Ok(Some(Event::Message(message))) if message == exited(1)));
    host.disconnect();
    assert_eq!((host.state(), host.output().len()), (State::Down, 0));
    host.reattach();
    exchange(&mut host, &mut guest);
    connected(&mut host, &mut guest);
    assert_eq!(host.pending(0, Stream::Stdout), b"cdef");
    assert!(matches!(host.event(), Ok(Some(Event::Message(message))) if message == exited(2)));
    assert_eq!(host.event(), Ok(None));
}

#[test]
fn a_new_host_takes_over_where_the_old_one_was_on_disk() {
    let (mut host, mut guest) = pair();
    let exec = host.open().unwrap();
    let other = host.open().unwrap();
    exchange(&mut host, &mut guest);
    for session in [0, exec] {
        put(&mut guest, session, Stream::Stdout, b"abcdef");
        guest.end(session, Stream::Stdout);
    }
    host.fill(0, Stream::Stdin, |room| {
        room[..3].copy_from_slice(b"in1");
        Ok::<_, Infallible>(3)
    })
    .unwrap();
    guest.send(&exited(1)).unwrap();
    exchange(&mut host, &mut guest);
    // In the middle of a frame of stdin, and of a message.
    host.fill(0, Stream::Stdin, |room| Ok::<_, Infallible>(room.len())).unwrap();
    host.send(&ToGuest::Signal { session: 0, signal: 7 }).unwrap();
    let half = host.output().len() / 2;
    guest.receive(&host.output()[..half]).unwrap();
    let old = [put(&mut guest, 0, Stream::Stderr, b"lost on the way"), guest.output().len()][1];
    guest.wrote(old / 2);

    let kept = Kept::from([((0, Stream::Stdout), 4), ((9, Stream::Stdout), 1)]);
    let mut host = HostLink::adopting([9; 16], false, kept);
    assert_eq!(host.open(), None, "it does not know yet which there are");
    host.send(&ToGuest::Signal { session: 0, signal: 8 }).unwrap();
    exchange(&mut host, &mut guest);
    connected(&mut host, &mut guest);
    assert_eq!(host.sessions().collect::<Vec<_>>(), [0, exec, other]);
    assert_eq!(host.pending(0, Stream::Stdout), b"ef");
    assert_eq!(host.pending(exec, Stream::Stdout), b"abcdef");
    assert_eq!(host.pending(0, Stream::Stderr), b"lost on the way");
    assert_eq!((guest.pending(0, Stream::Stdin), host.position(0, Stream::Stdin)), (&b"in1"[..], 3));
    assert!(matches!(host.event(), Ok(Some(Event::Message(message))) if message == exited(1)));
    assert_eq!(guest.event(), Ok(Some(Event::Message(ToGuest::Signal { session: 0, signal: 8 }))));
    assert_eq!(host.open(), Some(other + 1));
    host.close(exec);
    exchange(&mut host, &mut guest);
    assert!(!guest.is_open(exec) && guest.is_open(other + 1));
}

#[test]
fn sessions_come_and_go_and_no_id_is_used_again() {
    let (mut host, mut guest) = pair();
    for round in 1..1000 {
        let session = host.open().unwrap();
        assert_eq!(session, round);
        if round % 3 > 0 {
            exchange(&mut host, &mut guest);
            assert_eq!(put(&mut guest, session, Stream::Stdout, b"x"), 1);
        }
        host.close(session);
        if round % 5 > 0 {
            exchange(&mut host, &mut guest);
        }
    }
    exchange(&mut host, &mut guest);
    assert!(host.sessions().eq([0]) && guest.sessions().eq([0]));
    host.close(0);
    assert!(host.is_open(0));
}

#[test]
fn a_host_that_does_not_listen_costs_the_guest_no_more_than_its_windows() {
    let mut guest = GuestLink::guest();
    assert_eq!(put_all(&mut guest, 0, Stream::Stdout), WINDOW);
    assert!(guest.output().len() < 100, "a knock");
}

/// On a slow line a dirty hello comes in pieces, and what the guest says to the first of them is gone before the rest is there.
#[test]
fn a_dirty_hello_in_pieces_is_answered_once() {
    let (mut host, mut guest) = (HostLink::host(NONCE, true), GuestLink::guest());
    exchange(&mut host, &mut guest);
    for resyncing_guest in [false, true] {
        connected(&mut host, &mut guest);
        if resyncing_guest {
            guest.resync();
        }
        host.resync();
        // What the host has written and the guest has not read.
        let (mut line, mut said) = (Vec::new(), 0);
        while !line.is_empty() || !host.output().is_empty() || !guest.output().is_empty() {
            line.extend(host.output());
            host.wrote(host.output().len());
            let rest = line.split_off(line.len().min(100));
            guest.receive(&line).unwrap();
            line = rest;
            let answer = guest.output().to_vec();
            guest.wrote(answer.len());
            host.receive(&answer).unwrap();
            said += answer.len();
            assert!(said < 20_000, "it does not end");
        }
        assert_eq!((host.state(), guest.state()), (State::Connected, State::Connected));
    }
}

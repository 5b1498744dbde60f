//! Both ends of the channel against each other, and against liars.

use protocol::frame::{HEADER, Header, Kind};
use protocol::{Event, ExitStatus, GuestLink, HostLink, ProtocolError, Stream, ToGuest, ToHost, handshake};
use std::convert::Infallible;

const WINDOW: usize = 256 << 10;

/// A generator of numbers that look random and are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }
}

fn put(link: &mut GuestLink, stream: Stream, bytes: &[u8]) -> usize {
    link.fill(stream, |room| {
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        Ok::<_, Infallible>(count)
    })
    .unwrap()
    .unwrap_or(0)
}

fn pair() -> (HostLink, GuestLink) {
    let (mut host, mut guest) = (HostLink::host(), GuestLink::guest());
    exchange(&mut host, &mut guest);
    assert_eq!(host.event(), Some(Event::Connected(1)));
    assert_eq!(guest.event(), Some(Event::Connected(1)));
    (host, guest)
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

#[test]
fn what_is_sent_arrives_however_the_line_cuts_it() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let (mut host, mut guest) = (HostLink::host(), GuestLink::guest());
        let sent = [random.bytes(700_000), random.bytes(300_000)];
        let streams = [Stream::Stdout, Stream::Stderr];
        let mut done = [0, 0];
        let mut got = [vec![], vec![]];
        let mut exited = false;
        while !(exited && streams.iter().all(|stream| host.finished(*stream))) {
            for i in 0..2 {
                done[i] += put(&mut guest, streams[i], &sent[i][done[i]..]);
                if done[i] == sent[i].len() {
                    guest.end(streams[i]);
                }
                let take = random.below(100_000).min(host.pending(streams[i]).len());
                got[i].extend_from_slice(&host.pending(streams[i])[..take]);
                host.consume(streams[i], take);
            }
            if done[0] == sent[0].len() && done[1] == sent[1].len() && !exited {
                exited = true;
                guest.send(&ToHost::Stopped { timeline: vec![] }).unwrap();
            }
            let cut = random.below(200_000).min(guest.output().len());
            host.receive(&guest.output()[..cut]).unwrap();
            guest.wrote(cut);
            let cut = random.below(30).min(host.output().len());
            guest.receive(&host.output()[..cut]).unwrap();
            host.wrote(cut);
        }
        assert!(got == sent, "seed {seed}");
    }
}

#[test]
fn an_unread_stream_stops_neither_the_other_nor_control() {
    let (mut host, mut guest) = pair();
    let mut out = 0;
    loop {
        let count = put(&mut guest, Stream::Stdout, &[b'o'; 5000]);
        exchange(&mut host, &mut guest);
        if count == 0 {
            break;
        }
        out += count;
    }
    assert_eq!(out, WINDOW, "the sender stops at the window");
    assert_eq!(put(&mut guest, Stream::Stderr, b"err"), 3);
    guest.send(&ToHost::Exited { status: ExitStatus::Code(3), timeline: vec![], peak_rss: 0 }).unwrap();
    exchange(&mut host, &mut guest);
    assert_eq!(host.pending(Stream::Stderr), b"err");
    assert!(matches!(host.event(), Some(Event::Message(ToHost::Exited { .. }))));
    host.consume(Stream::Stdout, WINDOW);
    exchange(&mut host, &mut guest);
    assert!(guest.room(Stream::Stdout) > 0, "credit came back");
}

/// A read of no bytes would look like the end of the stream.
#[test]
fn without_room_nothing_is_read() {
    let (_, mut guest) = pair();
    while put(&mut guest, Stream::Stdout, &[0; 65536]) > 0 {}
    assert_eq!(guest.room(Stream::Stderr), 0, "the output is full");
    let filled = guest.fill(Stream::Stderr, |_| -> Result<usize, ()> { panic!("read without room") });
    assert_eq!(filled, Ok(None));
}

/// A guest that talks but does not listen.
#[test]
fn credit_does_not_pile_up() {
    let (mut host, _) = pair();
    let mut sent = 0;
    for _ in 0..100_000 {
        let bytes = frame(Kind::Data, Stream::Stdout, 0, sent, &[0; 65536]);
        sent += 65536;
        if host.receive(&bytes).is_err() {
            break; // it has used up the credit that it was told of, or would have been
        }
        host.consume(Stream::Stdout, usize::MAX);
    }
    assert!(host.output().len() < WINDOW, "{} bytes wait to be read", host.output().len());
}

#[test]
fn a_stopped_stream_is_dropped_and_the_sender_is_told() {
    let (mut host, mut guest) = pair();
    assert_eq!(put(&mut guest, Stream::Stdout, b"one"), 3);
    host.stop(Stream::Stdout);
    exchange(&mut host, &mut guest);
    assert_eq!(host.pending(Stream::Stdout), b"");
    assert!(guest.unwanted(Stream::Stdout));
    assert!(host.finished(Stream::Stdout));
    assert_eq!(put(&mut guest, Stream::Stdout, b"two"), 0);
}

#[test]
fn messages_go_both_ways() {
    let (mut host, mut guest) = pair();
    host.send(&ToGuest::Resize { height: 24, width: 80 }).unwrap();
    host.send(&ToGuest::Signal(15)).unwrap();
    exchange(&mut host, &mut guest);
    assert_eq!(guest.event(), Some(Event::Message(ToGuest::Resize { height: 24, width: 80 })));
    assert_eq!(guest.event(), Some(Event::Message(ToGuest::Signal(15))));
    assert_eq!(guest.event(), None);
}

fn frame(kind: Kind, stream: Stream, session: u32, offset: u64, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut bytes = Header { kind, stream, session, offset, length }.encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// A lying guest: each row is one thing it may send after the handshake.
#[test]
fn lies_are_refused() {
    let data = |offset, payload: &[u8]| frame(Kind::Data, Stream::Stdout, 0, offset, payload);
    let rows: [(&str, Vec<u8>); 9] = [
        ("no frame", b"GET / HTTP/1.1\r\n\r\n and more".to_vec()),
        ("a gap", data(1, b"x")),
        ("an offset that overflows", data(u64::MAX, b"x")),
        ("another session", frame(Kind::Data, Stream::Stdout, 9, 0, b"x")),
        ("stdin from the guest", frame(Kind::Data, Stream::Stdin, 0, 0, b"x")),
        ("credit for stdout", frame(Kind::Credit, Stream::Stdout, 0, 9, b"")),
        ("not JSON", frame(Kind::Control, Stream::Stdin, 0, 0, b"{\"ready\"")),
        ("an unknown message", frame(Kind::Control, Stream::Stdin, 0, 0, b"{\"dance\":{}}")),
        ("data after the end", [frame(Kind::End, Stream::Stdout, 0, 0, b""), data(0, b"x")].concat()),
    ];
    for (name, bytes) in rows {
        let (mut host, _) = pair();
        assert!(host.receive(&bytes).is_err(), "{name}");
    }
    let (mut host, _) = pair();
    let flood: Vec<u8> = (0..5).flat_map(|i| data(i << 16, &[0; 65536])).collect();
    assert_eq!(
        host.receive(&flood),
        Err(ProtocolError::Offset {
            stream: Stream::Stdout,
            expected: 4 << 16,
            found: 4 << 16,
            length: 65536
        }),
        "more than the window"
    );
    let mut host = HostLink::host();
    assert!(matches!(host.receive(&handshake::encode((7, 9))), Err(ProtocolError::Version { .. })));
}

#[test]
fn mangled_frames_never_panic_and_never_pass_the_window() {
    let mut random = Random(99);
    for _ in 0..2000 {
        let (mut host, _) = pair();
        let mut bytes = frame(Kind::Data, Stream::Stdout, 0, 0, b"hello");
        for _ in 0..random.below(4) {
            let at = random.below(HEADER);
            bytes[at] = random.byte();
        }
        let accepted = host.receive(&bytes).is_ok();
        let pending = host.pending(Stream::Stdout);
        assert!(if accepted {
            pending.is_empty() || b"hello".starts_with(pending)
        } else {
            pending.is_empty()
        });
    }
}

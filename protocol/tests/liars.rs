//! Other sides that lie: an error, and no more memory than an honest one takes.

use protocol::frame::{HEADER, Header, Kind, Lane, Seal};
use protocol::handshake::{self, Greeting, Hail};
use protocol::{Event, GuestLink, HostLink, ProtocolError, State, Stream, ToGuest};

const OUT: Lane = Lane::Stream(Stream::Stdout);
const IN: Lane = Lane::Stream(Stream::Stdin);

/// A guest, or a host, that makes its frames itself.
struct Liar(Seal);

impl Liar {
    fn frame(&mut self, kind: Kind, lane: Lane, session: u32, offset: u64, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        let head = Header { kind, lane, session, offset, length }.encode();
        let bytes = [&head[..], payload, &self.0.trailer(&head, payload)].concat();
        self.0.advance();
        bytes
    }

    fn data(&mut self, offset: u64, payload: &[u8]) -> Vec<u8> {
        self.frame(Kind::Data, OUT, 0, offset, payload)
    }
}

type Point = (u8, u64, u64);

fn points(points: &[Point]) -> Vec<u8> {
    let bytes = |(flags, from, to): &Point| [&[*flags][..], &from.to_be_bytes(), &to.to_be_bytes()].concat();
    points.iter().flat_map(bytes).collect()
}

/// The payload of a Resume of a session 0 that stands there: control sent, control received, stdin, stdout, stderr.
fn resume(at: [Point; 5]) -> Vec<u8> {
    [points(&at[..2]), vec![0; 4], points(&at[2..])].concat()
}

const FRESH: [Point; 5] = [(0, 0, 0); 5];

/// A guest's answer to the host's hello.
fn welcome(host: &mut HostLink) -> (Liar, Vec<u8>) {
    let hello = host.output().to_vec();
    host.wrote(hello.len());
    let (_, Some(hail)) = Hail::find(&hello) else { panic!("no hello") };
    let tag = u32::from_be_bytes(hail.nonce[..4].try_into().unwrap());
    let liar = Liar(Seal { tag, count: 0, checked: hail.checked });
    (liar, Hail { greeting: Greeting::Welcome, ..hail }.encode().to_vec())
}

fn knock() -> [u8; handshake::LEN] {
    Hail { greeting: Greeting::Knock, checked: false, versions: (2, 2), nonce: [0; 16] }.encode()
}

fn host() -> (HostLink, Liar) {
    let mut host = HostLink::host([5; 16], false);
    host.receive(&knock()).unwrap();
    let (mut liar, welcome) = welcome(&mut host);
    host.receive(&welcome).unwrap();
    host.receive(&liar.frame(Kind::Resume, IN, 0, 0, &resume(FRESH))).unwrap();
    assert_eq!(host.event(), Ok(Some(Event::Connected(2))));
    (host, liar)
}

fn guest() -> (GuestLink, Liar) {
    let mut guest = GuestLink::guest();
    let hello = Hail { greeting: Greeting::Hello, checked: false, versions: (2, 2), nonce: [5; 16] };
    guest.receive(&hello.encode()).unwrap();
    let mut liar = Liar(Seal { tag: 0x0505_0505, count: 0, checked: false });
    guest.receive(&liar.frame(Kind::Resume, IN, 0, 0, &resume(FRESH))).unwrap();
    assert_eq!(guest.event(), Ok(Some(Event::Connected(2))));
    (guest, liar)
}

/// Each row is what a guest may say after the handshake.
#[test]
fn lies_are_refused() {
    type Lie = fn(&mut Liar) -> Vec<u8>;
    let rows: [(&str, Lie); 22] = [
        ("no frame", |_| b"GET / HTTP/1.1\r\n\r\n and more, and even more".to_vec()),
        ("a huge length", |liar| {
            let mut bytes = liar.data(0, b"x");
            bytes[16] = 0x7f;
            bytes
        }),
        ("another connection's trailer", |_| Liar(Seal { tag: 1, count: 0, checked: false }).data(0, b"x")),
        ("the same frame twice", |liar| liar.data(0, b"x").repeat(2)),
        ("a gap", |liar| liar.data(1, b"x")),
        ("an offset that overflows", |liar| liar.data(u64::MAX, b"x")),
        ("another session", |liar| liar.frame(Kind::Data, OUT, 9, 0, b"x")),
        ("stdin from the guest", |liar| liar.frame(Kind::Data, IN, 0, 0, b"x")),
        ("credit for stdout", |liar| liar.frame(Kind::Credit, OUT, 0, 0, b"")),
        ("credit beyond what was sent", |liar| liar.frame(Kind::Credit, IN, 0, 1, b"")),
        ("control credit beyond what was sent", |liar| liar.frame(Kind::Credit, Lane::Control, 0, 1, b"")),
        ("done with what has not ended", |liar| liar.frame(Kind::Done, IN, 0, 0, b"")),
        ("the end of control", |liar| liar.frame(Kind::End, Lane::Control, 0, 0, b"")),
        ("control of another session", |liar| liar.frame(Kind::Data, Lane::Control, 1, 0, b"x")),
        ("a second resume", |liar| liar.frame(Kind::Resume, IN, 0, 0, &resume(FRESH))),
        ("a session from the guest", |liar| liar.frame(Kind::Open, IN, 1, 0, b"")),
        ("a close from the guest", |liar| liar.frame(Kind::Close, IN, 0, 0, b"")),
        ("a confirmation of nothing", |liar| liar.frame(Kind::Closed, IN, 0, 0, b"")),
        ("data after the end", |liar| [liar.frame(Kind::End, OUT, 0, 0, b""), liar.data(0, b"x")].concat()),
        ("an end beyond the data", |liar| liar.frame(Kind::End, OUT, 0, 1, b"")),
        ("a hello", |_| {
            Hail { greeting: Greeting::Hello, checked: false, versions: (2, 2), nonce: [7; 16] }
                .encode()
                .to_vec()
        }),
        ("more than the window", |liar| (0..5).flat_map(|i| liar.data(i << 16, &[0; 65536])).collect()),
    ];
    for (name, lie) in rows {
        let (mut host, mut liar) = host();
        assert!(host.receive(&lie(&mut liar)).is_err(), "{name}");
    }
}

#[test]
fn messages_that_are_none() {
    for stream in [
        &b"\0\0\0\x08{\"ready\""[..],
        b"\0\0\0\x0c{\"dance\":{}}",
        b"\0\0\0\0",
        b"\0\x10\0\x01more than a message may be",
        b"\xff\xff\xff\xff",
    ] {
        let (mut host, mut liar) = host();
        host.receive(&liar.frame(Kind::Data, Lane::Control, 0, 0, stream)).unwrap();
        assert!(matches!(host.event(), Err(ProtocolError::Message(_))), "{stream:?}");
    }
}

#[test]
fn versions_that_do_not_meet() {
    let mut host = HostLink::host([5; 16], false);
    host.receive(&knock()).unwrap();
    let (_, Some(hail)) = Hail::find(host.output()) else { panic!("no hello") };
    let answer = Hail { greeting: Greeting::Welcome, versions: (7, 9), ..hail };
    assert!(matches!(host.receive(&answer.encode()), Err(ProtocolError::Version { .. })));

    let mut guest = GuestLink::guest();
    let hello = Hail { versions: (1, 1), ..hail };
    assert!(matches!(guest.receive(&hello.encode()), Err(ProtocolError::Version { .. })));
    assert!(matches!(Hail::find(guest.output()), (_, Some(Hail { versions: (2, 2), .. }))), "it says why");
}

/// A host that has sent 3 bytes of stdin, of which 1 was used, and has used 4 bytes of stdout, and has 2 more.
#[test]
fn resumes_that_cannot_be() {
    let good = [(0, 0, 0), (0, 0, 0), (0, 1, 3), (0, 4, 6), (0, 0, 0)];
    let with = |at: usize, point| {
        let mut all = good;
        all[at] = point;
        resume(all)
    };
    let sessions = |ids: &[u32]| {
        let session = |id: &u32| [&id.to_be_bytes()[..], &points(&[(0, 0, 0); 3])].concat();
        [resume(good), ids.iter().flat_map(session).collect()].concat()
    };
    let many: Vec<u32> = (1..65).collect();
    let rows: [(&str, u64, Vec<u8>, bool); 20] = [
        ("the truth", 0, resume(good), true),
        ("what the guest has used since", 0, with(2, (0, 3, 3)), true),
        ("what the guest has made since", 0, with(3, (1, 0, 99)), true),
        ("received beyond what was sent", 0, with(2, (0, 1, 4)), false),
        ("used beyond what was received", 0, with(2, (0, 3, 2)), false),
        ("less used than before", 0, with(2, (0, 0, 3)), false),
        ("the end of what has not ended", 0, with(2, (1, 3, 3)), false),
        ("done and not ended", 0, with(2, (4, 3, 3)), false),
        ("bytes that are kept no more", 0, with(3, (0, 7, 9)), false),
        ("fewer bytes than there were", 0, with(3, (0, 0, 5)), false),
        ("a stop that was not said", 0, with(3, (2, 6, 6)), false),
        ("control received beyond what was sent", 0, with(1, (0, 5, 5)), false),
        ("control that has ended", 0, with(0, (1, 0, 0)), false),
        ("an unknown flag", 0, with(2, (8, 1, 3)), false),
        ("a number too large", 0, with(3, (0, 4, 1 << 62)), false),
        ("an unknown session", 1, sessions(&[1]), false),
        ("a session twice", 1, sessions(&[0]), false),
        ("too many sessions", 99, sessions(&many), false),
        ("sessions that were never opened", 1, resume(good), false),
        ("half a session", 0, [resume(good), vec![0; 20]].concat(), false),
    ];
    for (name, last, payload, honest) in rows {
        let (mut host, mut liar) = host();
        let put = |room: &mut [u8]| Ok::<_, ()>(room[..3].len());
        host.fill(0, Stream::Stdin, put).unwrap();
        host.receive(&liar.frame(Kind::Credit, IN, 0, 1, b"")).unwrap();
        host.receive(&liar.data(0, b"abcdef")).unwrap();
        host.consume(0, Stream::Stdout, 4);
        host.disconnect();
        host.reattach();
        let (mut liar, welcome) = welcome(&mut host);
        host.receive(&welcome).unwrap();
        let result = host.receive(&liar.frame(Kind::Resume, IN, 0, last, &payload));
        assert_eq!(result.is_ok(), honest, "{name}: {result:?}");
    }
    let mut host = HostLink::adopting([5; 16], false, [((0, Stream::Stdout), 9)].into());
    let (mut liar, welcome) = welcome(&mut host);
    host.receive(&welcome).unwrap();
    let lost = liar.frame(Kind::Resume, IN, 0, 0, &with(3, (0, 10, 12)));
    assert!(host.receive(&lost).is_err(), "what was confirmed only when it was on disk");
}

/// A guest that talks but does not listen.
#[test]
fn credit_does_not_pile_up() {
    let (mut host, mut liar) = host();
    let mut sent = 0;
    for _ in 0..100_000 {
        if host.receive(&liar.data(sent, &[0; 65536])).is_err() {
            break; // it has used up the credit that it was told of, or would have been
        }
        sent += 65536;
        host.consume(0, Stream::Stdout, usize::MAX);
    }
    assert!(host.output().len() < 256 << 10, "{} bytes wait to be read", host.output().len());
}

#[test]
fn a_million_knocks_and_greetings_cost_nothing() {
    let (mut host, _) = host();
    for _ in 0..1_000_000 / 64 {
        host.receive(&knock().repeat(64)).unwrap();
        assert!(host.output().len() <= handshake::LEN);
    }
    assert_eq!(host.state(), State::Greeting);
}

#[test]
fn a_million_sessions() {
    for id in [1, 2, u32::MAX] {
        let (mut host, mut liar) = host();
        assert_eq!(host.receive(&liar.frame(Kind::Data, OUT, id, 0, b"x")), Err(ProtocolError::Session(id)));
    }
    // Those that are closed and not confirmed count, too.
    let (mut host, _) = host();
    let opened = (0..1_000_000).map_while(|_| host.open().inspect(|id| host.close(*id))).count();
    assert_eq!(opened, 63);
    // A host that opens as many.
    let (mut guest, mut liar) = guest();
    let accepted =
        (1..1_000_000).take_while(|id| guest.receive(&liar.frame(Kind::Open, IN, *id, 0, b"")).is_ok());
    assert_eq!(accepted.count(), 63);
    let (mut guest, mut liar) = self::guest();
    let accepted = (1..1_000_000).take_while(|id| {
        guest.receive(&liar.frame(Kind::Open, IN, *id, 0, b"")).is_ok()
            && guest.receive(&liar.frame(Kind::Close, IN, *id, 0, b"")).is_ok()
            && guest.output().len() < 1 << 20
    });
    assert!(accepted.count() < 10_000, "it does not read the confirmations");
}

#[test]
fn a_guest_ignores_what_is_no_frame_until_the_next_hello() {
    let (mut guest, _) = guest();
    guest.receive(&[b'x'; 1000]).unwrap();
    assert_eq!(guest.state(), State::Waiting);
    let hello = Hail { greeting: Greeting::Hello, checked: true, versions: (1, 9), nonce: [6; 16] };
    guest.receive(&hello.encode()).unwrap();
    assert_eq!(guest.state(), State::Resuming);
    let mut liar = Liar(Seal { tag: 0x0606_0606, count: 0, checked: true });
    guest.receive(&liar.frame(Kind::Resume, IN, 0, 0, &resume(FRESH))).unwrap();
    let message = [&[0, 0, 0, 11][..], br#"{"clock":9}"#].concat();
    guest.receive(&liar.frame(Kind::Data, Lane::Control, 0, 0, &message)).unwrap();
    assert_eq!(guest.event(), Ok(Some(Event::Connected(2))));
    assert_eq!(guest.event(), Ok(Some(Event::Message(ToGuest::Clock(9)))));
}

#[test]
fn mangled_frames_never_panic_and_never_pass_the_window() {
    let mut state = 99_u64;
    let mut next = |bound: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        usize::try_from((state >> 33) % bound).unwrap()
    };
    for _ in 0..2000 {
        let (mut host, mut liar) = host();
        let mut bytes = liar.data(0, b"hello");
        for _ in 0..next(4) {
            bytes[next(HEADER as u64)] = u8::try_from(next(256)).unwrap();
        }
        let accepted = host.receive(&bytes).is_ok();
        let pending = host.pending(0, Stream::Stdout);
        assert!(pending.is_empty() || accepted && b"hello".starts_with(pending));
    }
}

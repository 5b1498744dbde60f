//! `PROTOCOL.md`: the session in it is what the code makes.

use protocol::frame::HEADER;
use protocol::{Event, GuestLink, HostLink, Stream, ToGuest, ToHost, handshake};
use std::convert::Infallible;
use std::fmt::Write;

const PAGE: &str = include_str!("../PROTOCOL.md");
/// Bytes in a line of the page.
const WIDTH: usize = 20;

/// What was said: a paragraph for each greeting and frame, and `...` where the line was cut.
#[derive(Default)]
struct Transcript(String);

impl Transcript {
    fn add(&mut self, who: &str, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            if *first == 0 {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                bytes = &bytes[zeros..];
                writeln!(self.0, "{who:5} 00 x {zeros}\n").unwrap();
                continue;
            }
            let length = match first {
                0xc5 => handshake::LEN,
                _ => HEADER + u32::from_be_bytes(bytes[16..20].try_into().unwrap()) as usize + 4,
            };
            let (item, rest) = bytes.split_at(length);
            bytes = rest;
            let header = if *first == 0xc5 { 16 } else { HEADER };
            let (head, payload) = item.split_at(header);
            for (at, line) in [head].into_iter().chain(payload.chunks(WIDTH)).enumerate() {
                let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(self.0, "{:5} {}", if at == 0 { who } else { "" }, hex.join(" ")).unwrap();
            }
            self.0.push('\n');
        }
    }

    /// Each side says all that it has to, in turn; the host first.
    fn exchange(&mut self, host: &mut HostLink, guest: &mut GuestLink) {
        while !host.output().is_empty() || !guest.output().is_empty() {
            self.add("host", host.output());
            guest.receive(host.output()).unwrap();
            host.wrote(host.output().len());
            self.add("guest", guest.output());
            host.receive(guest.output()).unwrap();
            guest.wrote(guest.output().len());
        }
    }
}

fn put<In, Out>(link: &mut protocol::Link<In, Out>, session: u32, stream: Stream, bytes: &[u8])
where
    In: serde::de::DeserializeOwned,
    Out: serde::Serialize,
{
    let put = |room: &mut [u8]| {
        room[..bytes.len()].copy_from_slice(bytes);
        Ok::<_, Infallible>(bytes.len())
    };
    assert_eq!(link.fill(session, stream, put), Ok(Some(bytes.len())));
}

fn session() -> String {
    let nonce = std::array::from_fn(|at| u8::try_from(0xa0 + at).unwrap());
    let (mut host, mut guest) = (HostLink::host(nonce, true), GuestLink::guest());
    let mut said = Transcript::default();
    said.exchange(&mut host, &mut guest);
    assert_eq!(host.event(), Ok(Some(Event::Connected(2))));
    assert_eq!(guest.event(), Ok(Some(Event::Connected(2))));

    host.send(&ToGuest::Clock(500)).unwrap();
    let exec = host.open().unwrap();
    put(&mut host, exec, Stream::Stdin, b"in");
    host.end(exec, Stream::Stdin);
    said.exchange(&mut host, &mut guest);
    assert_eq!(guest.event(), Ok(Some(Event::Message(ToGuest::Clock(500)))));
    guest.consume(exec, Stream::Stdin, 2);
    guest.send(&ToHost::Stopped { timeline: vec![] }).unwrap();
    put(&mut guest, exec, Stream::Stdout, b"out");
    said.exchange(&mut host, &mut guest);

    // The host has used two of the three bytes, but could not say so before the line went.
    host.consume(exec, Stream::Stdout, 2);
    host.disconnect();
    guest.end(exec, Stream::Stdout);
    guest.wrote(10);
    said.0.push_str("...\n\n");
    host.reattach();
    said.exchange(&mut host, &mut guest);
    host.consume(exec, Stream::Stdout, 1);
    assert!(host.finished(exec, Stream::Stdout));
    assert_eq!(host.event(), Ok(Some(Event::Connected(2))));
    assert_eq!(host.event(), Ok(Some(Event::Message(ToHost::Stopped { timeline: vec![] }))));
    host.stop(exec, Stream::Stderr);
    host.close(exec);
    said.exchange(&mut host, &mut guest);
    said.0
}

/// The page without what stands behind a `#`, and without empty lines.
fn plain(text: &str) -> Vec<String> {
    let words = |line: &str| {
        let before = line.split('#').next().unwrap_or_default();
        before.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    text.lines().map(words).filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_session_on_the_page_is_what_the_code_makes() {
    let real = session();
    let block = PAGE.split("```session\n").nth(1).and_then(|rest| rest.split("```").next());
    if plain(block.unwrap_or_default()) != plain(&real) {
        panic!("PROTOCOL.md has another session than the code makes:\n{real}");
    }
}

#[test]
fn the_numbers_on_the_page_are_the_codes() {
    for number in [
        format!("| HELLO | {} |", handshake::Greeting::Hello as u8),
        format!("{} bytes", handshake::LEN),
        format!("versions {} to {}", handshake::VERSIONS.0, handshake::VERSIONS.1),
        format!("{} KiB in session 0, {} KiB", protocol::WINDOW >> 10, protocol::EXEC_WINDOW >> 10),
        format!("at most {} sessions", protocol::MOST_SESSIONS),
    ] {
        assert!(PAGE.contains(&number), "{number}");
    }
}

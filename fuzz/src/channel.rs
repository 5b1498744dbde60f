//! One end of the channel against a line of any bytes.
//!
//! An input is [`CHOICES`] bytes that say how the line is cut and what the owner does, then the line itself.

use std::convert::Infallible;
use std::fmt::Debug;

use protocol::frame::{HEADER, Header, Kind, Lane, MAX_DATA, Seal, TRAILER};
use protocol::handshake::{self, Greeting, Hail};
use protocol::{Event, GuestLink, HIGH_WATER, HostLink, Link, ProtocolError, Stream, WINDOW};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before the line.
pub const CHOICES: usize = 8;

/// The host's, so that a line can have the answer.
pub const NONCE: [u8; 16] = [5; 16];

/// The host's end.
pub fn host() -> HostLink {
    HostLink::host(NONCE, false)
}

/// What only a host's owner does.
pub fn host_acts(link: &mut HostLink, choice: u8) {
    match choice {
        0..8 => drop(link.open()),
        8..16 => link.close(u32::from(choice) - 8),
        16 => link.reattach(),
        17 => link.listen(),
        _ => {}
    }
}

/// What only a guest's owner does.
pub fn guest_acts(link: &mut GuestLink, choice: u8) {
    if choice == 16 {
        link.knock();
    }
}

/// Feeds `input` to an end that `new` makes, and checks what the protocol promises of it: the cuts of the line do not
/// show, no stream passes its window, and every message it understands is one that `peer` can send.
pub fn check<In, Out>(
    input: &[u8],
    new: fn() -> Link<In, Out>,
    peer: fn() -> Link<Out, In>,
    acts: fn(&mut Link<In, Out>, u8),
) where
    In: DeserializeOwned + Serialize + Debug + PartialEq,
    Out: DeserializeOwned + Serialize + Debug + PartialEq,
{
    let Some((choices, line)) = input.split_first_chunk::<CHOICES>() else { return };
    let (mut whole, mut cut) = (new(), new());
    let at_once = whole.receive(line);
    assert_eq!(at_once, pieces(line, choices).try_for_each(|piece| cut.receive(piece)));
    let pending = |link: &Link<In, Out>| {
        let streams = link.sessions().flat_map(|session| Stream::ALL.map(|stream| (session, stream)));
        let bytes = |(session, stream)| link.pending(session, stream).to_vec();
        streams.map(bytes).collect::<Vec<_>>()
    };
    assert_eq!(pending(&whole), pending(&cut));
    while let (Ok(event), other) = (whole.event(), cut.event()) {
        assert_eq!(Ok(&event), other.as_ref());
        match event {
            Some(Event::Message(message)) => assert_eq!(sent(&message, peer(), new()), message),
            Some(Event::Connected(_)) => {}
            None => break,
        }
    }
    let _lies = owned(new(), line, choices, acts);
}

/// The line in pieces, as long as `choices` say in turn.
fn pieces<'a>(mut line: &'a [u8], choices: &'a [u8; CHOICES]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = choices.iter().cycle();
    std::iter::from_fn(move || {
        let length = 1 + usize::from(*lengths.next()?).pow(2) / 16;
        let (piece, rest) = line.split_at(length.min(line.len()));
        line = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// What arrives at `to` when `from` sends `message`.
fn sent<In, Out>(message: &In, mut from: Link<Out, In>, mut to: Link<In, Out>) -> In
where
    In: DeserializeOwned + Serialize + Debug + PartialEq,
    Out: DeserializeOwned + Serialize + Debug + PartialEq,
{
    from.send(message).expect("what was received can be sent");
    exchange(&mut from, &mut to);
    assert_eq!(to.event(), Ok(Some(Event::Connected(2))));
    match to.event() {
        Ok(Some(Event::Message(message))) => message,
        other => panic!("{other:?} instead of a message"),
    }
}

/// Each says all that it has to say. Gives what `b` has said.
pub fn exchange<In, Out>(a: &mut Link<In, Out>, b: &mut Link<Out, In>) -> Vec<u8>
where
    In: DeserializeOwned + Serialize,
    Out: DeserializeOwned + Serialize,
{
    let mut said = Vec::new();
    while !a.output().is_empty() || !b.output().is_empty() {
        b.receive(a.output()).expect("an honest side");
        a.wrote(a.output().len());
        said.extend_from_slice(b.output());
        a.receive(b.output()).expect("an honest side");
        b.wrote(b.output().len());
    }
    said
}

/// An owner at work between the pieces: it takes events, consumes, fills, ends, stops; the line goes and comes.
fn owned<In: DeserializeOwned, Out: Serialize>(
    mut link: Link<In, Out>,
    line: &[u8],
    choices: &[u8; CHOICES],
    acts: fn(&mut Link<In, Out>, u8),
) -> Result<(), ProtocolError> {
    let mut received = 0;
    for (piece, choice) in pieces(line, choices).zip(choices.iter().rev().cycle()) {
        let done = link.receive(piece);
        received += piece.len();
        while link.event()?.is_some() {}
        let window = usize::try_from(WINDOW).unwrap_or(usize::MAX);
        for session in link.sessions().collect::<Vec<_>>() {
            for stream in Stream::ALL {
                let pending = link.pending(session, stream).len();
                assert!(pending <= window.min(received), "{pending} bytes of {stream:?}");
            }
        }
        done?;
        let stream = Stream::ALL[usize::from(choice >> 6) % 3];
        let session = u32::from(choice >> 4 & 3) % 3;
        match choice & 15 {
            0 => link.stop(session, stream),
            1 => link.end(session, stream),
            2..6 => link.consume(session, stream, usize::MAX),
            6..8 => acts(&mut link, choice >> 3),
            8..11 => link.consume(session, stream, usize::from(*choice)),
            11 if choice >> 4 == 0 => link.disconnect(),
            _ => {
                let room = link.room(session, stream);
                let filled = link.fill(session, stream, |free| Ok::<_, Infallible>(free.len()));
                assert_eq!(filled, Ok((room > 0).then_some(room)));
            }
        }
        let output = link.output().len();
        assert!(output <= HIGH_WATER + MAX_DATA + 100, "{output} bytes wait to be written");
        link.wrote(output.min(usize::from(*choice) << 8));
    }
    Ok(())
}

/// Mostly (`seed`) sets greetings' checksums, frames' lengths to what follows up to the next one, the offsets to where the
/// streams stand, the lengths of control messages, and the trailers.
pub fn repair(input: &mut [u8], seed: u32) {
    let Some(line) = input.get_mut(CHOICES..) else { return };
    let is_start =
        |rest: &[u8]| rest.starts_with(&handshake::MAGIC) || matches!(rest, [0xc0, 0x7e, 1..=9, ..]);
    let starts: Vec<usize> = (0..line.len()).filter(|at| is_start(&line[*at..])).collect();
    let ends = starts.iter().skip(1).copied().chain([line.len()]);
    let mut seal = Seal { tag: 0x0505_0505, count: 0, checked: false };
    let mut offsets = [0; 4];
    for (start, end) in starts.iter().zip(ends) {
        let item = &mut line[*start..end];
        if let Some(bytes) = item.first_chunk_mut::<{ handshake::LEN }>()
            && bytes.starts_with(&handshake::MAGIC)
        {
            seal = greeting(bytes, seed);
        } else if item[0] != handshake::MAGIC[0] && frame(item, seal, &mut offsets, seed).is_some() {
            seal.advance();
        }
    }
}

fn greeting(bytes: &mut [u8; handshake::LEN], seed: u32) -> Seal {
    let [kind, flags, l0, l1, h0, h1, nonce @ ..] = bytes[16..38].first_chunk::<22>().expect("22 of 22");
    let known = [Greeting::Hello, Greeting::Welcome, Greeting::Knock];
    let numbers = (u16::from_be_bytes([*l0, *l1]), u16::from_be_bytes([*h0, *h1]));
    let hail = Hail {
        greeting: known.into_iter().find(|known| *known as u8 == *kind).unwrap_or(Greeting::Hello),
        checked: flags & 1 == 1,
        versions: if seed % 8 == 3 { numbers } else { handshake::VERSIONS },
        nonce: *nonce,
    };
    if seed % 8 != 4 {
        *bytes = hail.encode();
    }
    let [a, b, c, d, ..] = hail.nonce;
    Seal { tag: u32::from_be_bytes([a, b, c, d]), count: 0, checked: hail.checked }
}

fn frame(item: &mut [u8], seal: Seal, offsets: &mut [u64; 4], seed: u32) -> Option<()> {
    let length = item.len().checked_sub(HEADER + TRAILER)?;
    let (head, rest) = item.split_first_chunk_mut::<HEADER>()?;
    let (payload, trailer) = rest.split_at_mut(length);
    head[16..].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    let mut header = Header::decode(head, seal.max_payload()).ok()?;
    let offset = match header.lane {
        Lane::Stream(stream) => &mut offsets[stream as usize],
        Lane::Control => &mut offsets[3],
    };
    if matches!(header.kind, Kind::Data | Kind::End) && seed % 8 != 0 {
        header.offset = *offset;
        *offset += u64::from(header.length);
    }
    if header.lane == Lane::Control
        && seed % 8 != 5
        && let Some(prefix) = payload.first_chunk_mut::<4>()
    {
        *prefix = header.length.saturating_sub(4).to_be_bytes();
    }
    if seed % 16 != 1 {
        header.session = 0;
    }
    *head = header.encode();
    if seed % 16 != 6 {
        trailer.copy_from_slice(&seal.trailer(head, payload));
    }
    Some(())
}

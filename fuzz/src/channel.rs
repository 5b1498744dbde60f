//! One end of the channel against a line of any bytes.
//!
//! An input is [`CHOICES`] bytes that say how the line is cut and what the owner does, then the line itself.

use std::convert::Infallible;
use std::fmt::Debug;

use protocol::frame::{HEADER, Header, Kind, MAX_TO_GUEST};
use protocol::{Event, Link, Stream, handshake};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before the line.
pub const CHOICES: usize = 8;

/// The protocol's window: the most that a stream may hold in memory.
const WINDOW: usize = 256 << 10;

const STREAMS: [Stream; 3] = [Stream::Stdin, Stream::Stdout, Stream::Stderr];

/// Feeds `input` to an end that `new` makes, and checks what the protocol promises of it: the cuts of the line do not
/// show, no stream passes its window, and every message it understands is one that `peer` can send.
pub fn check<In, Out>(input: &[u8], new: fn() -> Link<In, Out>, peer: fn() -> Link<Out, In>)
where
    In: DeserializeOwned + Serialize + Debug + PartialEq,
    Out: DeserializeOwned + Serialize,
{
    let Some((choices, line)) = input.split_first_chunk::<CHOICES>() else { return };
    let (mut whole, mut cut) = (new(), new());
    let at_once = whole.receive(line);
    assert_eq!(at_once, pieces(line, choices).try_for_each(|piece| cut.receive(piece)));
    assert!(STREAMS.iter().all(|stream| whole.pending(*stream) == cut.pending(*stream)));
    while let Some(event) = whole.event() {
        assert_eq!(Some(&event), cut.event().as_ref());
        if let Event::Message(message) = event {
            assert_eq!(sent(&message, peer(), new()), message);
        }
    }
    assert!(cut.event().is_none());
    owned(new(), line, choices);
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
    Out: DeserializeOwned + Serialize,
{
    from.send(message).expect("what was received can be sent");
    to.receive(from.output()).expect("what was sent can be received");
    assert_eq!(to.event(), Some(Event::Connected(1)));
    match to.event() {
        Some(Event::Message(message)) => message,
        other => panic!("{other:?} instead of a message"),
    }
}

/// An owner at work between the pieces: it takes events, consumes, fills, ends, stops.
fn owned<In: DeserializeOwned, Out: Serialize>(
    mut link: Link<In, Out>,
    line: &[u8],
    choices: &[u8; CHOICES],
) {
    let mut received = 0;
    for (piece, choice) in pieces(line, choices).zip(choices.iter().rev().cycle()) {
        let done = link.receive(piece);
        received += piece.len();
        while link.event().is_some() {}
        for stream in STREAMS {
            let pending = link.pending(stream).len();
            assert!(pending <= WINDOW.min(received), "{pending} bytes of {stream:?}");
        }
        if done.is_err() {
            return;
        }
        let stream = STREAMS[usize::from(choice >> 6) % 3];
        match choice & 15 {
            0 => link.stop(stream),
            1 => link.end(stream),
            2..8 => link.consume(stream, usize::MAX),
            8..12 => link.consume(stream, usize::from(*choice)),
            _ => {
                let room = link.room(stream);
                let filled = link.fill(stream, |free| Ok::<_, Infallible>(free.len()));
                assert_eq!(filled, Ok((room > 0).then_some(room)));
            }
        }
        let output = link.output().len();
        assert!(output <= 512 << 10, "{output} bytes wait to be written");
        link.wrote(output.min(usize::from(*choice) << 8));
    }
}

/// Sets the lengths of the line's frames to what follows up to the next one, and mostly (`seed`) the offsets to where
/// the streams stand.
pub fn repair(input: &mut [u8], seed: u32) {
    let Some(line) = input.get_mut(CHOICES + handshake::LEN..) else { return };
    let mark =
        line.windows(3).enumerate().filter(|(_, w)| matches!(w, [0xc0, 0x7e, 1..=5])).map(|(at, _)| at);
    let starts: Vec<usize> = mark.collect();
    let ends = starts.iter().skip(1).copied().chain([line.len()]);
    let mut offsets = [0; 3];
    for (start, end) in starts.iter().zip(ends) {
        let Some(payload) = end.checked_sub(start + HEADER) else { continue };
        let head = &mut line[*start..][..HEADER];
        let payload = u32::try_from(payload).unwrap_or(u32::MAX);
        head[16..].copy_from_slice(&payload.to_be_bytes());
        let Some(Ok(mut header)) = head.first_chunk().map(|head| Header::decode(head, MAX_TO_GUEST)) else {
            continue;
        };
        let offset = &mut offsets[header.stream as usize];
        if matches!(header.kind, Kind::Data | Kind::End) && seed % 8 != 0 {
            header.offset = *offset;
            *offset += u64::from(payload);
        }
        if seed % 16 != 1 {
            header.session = 0;
        }
        head.copy_from_slice(&header.encode());
    }
}

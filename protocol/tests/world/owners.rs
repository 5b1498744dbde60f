//! Who uses the links: a host that may be killed and has a disk, and a guest.

use super::random::Random;
use super::{byte, plan};
use protocol::{Event, GuestLink, HostLink, Kept, Stream, ToGuest, ToHost};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

const OUTPUTS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// Puts up to `most` of the bytes that come next into a stream.
fn fill(position: u64, length: u64, most: usize, session: u32, stream: Stream, room: &mut [u8]) -> usize {
    let left = usize::try_from(length.saturating_sub(position)).unwrap();
    let count = room.len().min(left).min(most);
    for (offset, free) in (position..).zip(&mut room[..count]) {
        *free = byte(session, stream, offset);
    }
    count
}

fn check(seed: u64, session: u32, stream: Stream, position: u64, bytes: &[u8]) {
    for (offset, found) in (position..).zip(bytes) {
        assert_eq!(*found, byte(session, stream, offset), "seed {seed}: {stream:?} of {session} at {offset}");
    }
}

/// What survives the host's process is `disk`, `messages`, `complete` and `closed`.
pub struct HostOwner {
    seed: u64,
    disk: Kept,
    /// Messages from the guest.
    messages: u64,
    /// Streams that have come to their end, or were stopped.
    complete: BTreeSet<(u32, Stream)>,
    closed: BTreeSet<u32>,
    /// How many sessions it wants in all.
    wishes: usize,
    pub opened: usize,
    pub bytes: u64,
    /// Messages to the guest, in all and so far.
    to_say: i32,
    said: i32,
    /// This process has taken over, and has not heard from the guest yet.
    new: bool,
    /// Messages may come again that the one before had taken.
    again: bool,
}

impl HostOwner {
    pub fn new(seed: u64, random: &mut Random) -> Self {
        Self {
            seed,
            disk: BTreeMap::new(),
            messages: 0,
            complete: BTreeSet::new(),
            closed: BTreeSet::new(),
            wishes: if random.once_in(20) { 100 } else { random.below(8) },
            opened: 0,
            bytes: 0,
            to_say: i32::try_from(random.below(30)).unwrap(),
            said: 0,
            new: false,
            again: false,
        }
    }

    /// kill -9, and another takes over.
    pub fn replace(&mut self, nonce: [u8; 16], checked: bool, random: &mut Random) -> HostLink {
        (self.new, self.again) = (true, true);
        self.disk.retain(|(session, _), _| !self.closed.contains(session));
        let mut known = self.disk.clone();
        if random.once_in(4) {
            let lost = known.keys().nth(random.below(known.len())).copied();
            lost.map(|lost| known.remove(&lost));
        }
        HostLink::adopting(nonce, checked, known)
    }

    pub fn act(&mut self, link: &mut HostLink, random: &mut Random, chaos: bool, taken: i32) {
        while let Some(event) = link.event().unwrap() {
            match event {
                Event::Connected(version) => {
                    assert_eq!(version, 2);
                    self.connected(link, taken);
                }
                Event::Message(ToHost::Damaged { block, .. }) => {
                    assert!(
                        block == self.messages || self.again && block < self.messages,
                        "seed {}",
                        self.seed
                    );
                    self.messages = self.messages.max(block + 1);
                }
                other => panic!("{other:?}"),
            }
            if random.once_in(3) {
                break;
            }
        }
        if self.new {
            return;
        }
        if self.opened < self.wishes && random.once_in(2) && link.open().is_some() {
            self.opened += 1;
        }
        if self.said < self.to_say && random.once_in(3) {
            link.send(&ToGuest::Signal { session: 0, signal: self.said }).unwrap();
            self.said += 1;
        }
        for session in link.sessions().collect::<Vec<_>>() {
            let early = chaos && session != 0 && random.once_in(300);
            if random.once_in(3) {
                continue;
            }
            self.serve(link, random, session);
            let over = OUTPUTS.iter().all(|stream| self.complete.contains(&(session, *stream)))
                && link.delivered(session, Stream::Stdin);
            if session != 0 && (over && random.once_in(3) || early) {
                link.close(session);
                self.closed.insert(session);
            }
        }
    }

    /// Of what the other process had begun, the rest.
    fn connected(&mut self, link: &mut HostLink, taken: i32) {
        if !self.new {
            return;
        }
        self.new = false;
        self.said = taken;
        for session in link.sessions().collect::<Vec<_>>() {
            if self.closed.contains(&session) {
                link.close(session); // the guest was not told in time
                continue;
            }
            for stream in OUTPUTS {
                self.disk.insert((session, stream), link.position(session, stream));
            }
        }
        // The guest has never heard of the others, so they are to be made anew.
        let lost = |(session, _): &(u32, Stream)| *session == 0 || link.is_open(*session);
        self.disk.retain(|key, _| lost(key));
    }

    fn serve(&mut self, link: &mut HostLink, random: &mut Random, session: u32) {
        let length = plan(self.seed, session, Stream::Stdin).length;
        let position = link.position(session, Stream::Stdin);
        let most = random.size(100_000) + 1;
        let filled = link.fill(session, Stream::Stdin, |room| {
            Ok::<_, Infallible>(fill(position, length, most, session, Stream::Stdin, room))
        });
        if link.unwanted(session, Stream::Stdin) || position + filled.unwrap().unwrap_or(0) as u64 >= length {
            link.end(session, Stream::Stdin);
        }
        for stream in OUTPUTS {
            let count = random.size(link.pending(session, stream).len());
            let position = link.position(session, stream);
            check(self.seed, session, stream, position, &link.pending(session, stream)[..count]);
            self.disk.insert((session, stream), position + count as u64);
            self.bytes += count as u64;
            link.consume(session, stream, count);
            let plan = plan(self.seed, session, stream);
            if position >= plan.wanted && !link.finished(session, stream) {
                link.stop(session, stream);
                self.complete.insert((session, stream));
            }
            if link.finished(session, stream) {
                let all = link.position(session, stream) == plan.length;
                assert!(all || plan.wanted != u64::MAX, "seed {}: {session} {stream:?} is short", self.seed);
                self.complete.insert((session, stream));
            }
        }
    }

    pub fn is_done(&self, link: &HostLink, guest: &GuestOwner) -> bool {
        let over = |stream| self.complete.contains(&(0, stream)) && link.finished(0, stream);
        self.opened == self.wishes
            && link.sessions().eq([0])
            && over(Stream::Stdout)
            && over(Stream::Stderr)
            && link.delivered(0, Stream::Stdin)
            && self.messages == guest.to_say
            && guest.taken == self.to_say
            && !link.unacknowledged()
    }

    pub fn whereabouts(&self, host: &HostLink, guest: &GuestLink) -> String {
        let streams: Vec<_> = host
            .sessions()
            .flat_map(|session| Stream::ALL.map(|stream| (session, stream)))
            .map(|(session, stream)| {
                let ends = (host.position(session, stream), guest.position(session, stream));
                let done = (host.finished(session, stream), host.delivered(session, stream));
                let length = plan(self.seed, session, stream).length;
                (session, stream, ends, done, guest.delivered(session, stream), length)
            })
            .collect();
        format!("{}/{} {streams:?}", self.said, self.to_say)
    }
}

pub struct GuestOwner {
    seed: u64,
    pub to_say: u64,
    said: u64,
    /// Messages that it has got.
    pub taken: i32,
    /// How much of stdin it has got.
    stdin: BTreeMap<u32, u64>,
    pub bytes: u64,
}

impl GuestOwner {
    pub fn new(seed: u64, random: &mut Random) -> Self {
        let to_say = random.below(30) as u64;
        Self { seed, to_say, said: 0, taken: 0, stdin: BTreeMap::new(), bytes: 0 }
    }

    pub fn act(&mut self, link: &mut GuestLink, random: &mut Random) {
        while let Some(event) = link.event().unwrap() {
            match event {
                Event::Connected(version) => assert_eq!(version, 2),
                Event::Message(ToGuest::Signal { signal: number, .. }) => {
                    assert_eq!(number, self.taken, "seed {}", self.seed);
                    self.taken += 1;
                }
                other => panic!("{other:?}"),
            }
            if random.once_in(3) {
                break;
            }
        }
        if self.said < self.to_say && random.once_in(3) {
            link.send(&ToHost::Damaged { layer: 0, block: self.said }).unwrap();
            self.said += 1;
        }
        for session in link.sessions().collect::<Vec<_>>() {
            if random.once_in(3) {
                continue;
            }
            for stream in OUTPUTS {
                let length = plan(self.seed, session, stream).length;
                let position = link.position(session, stream);
                let most = random.size(100_000) + 1;
                let filled = link.fill(session, stream, |room| {
                    Ok::<_, Infallible>(fill(position, length, most, session, stream, room))
                });
                let end = position + filled.unwrap().unwrap_or(0) as u64;
                if end >= length || link.unwanted(session, stream) {
                    link.end(session, stream);
                }
            }
            let plan = plan(self.seed, session, Stream::Stdin);
            let position = self.stdin.entry(session).or_default();
            let count = random.size(link.pending(session, Stream::Stdin).len());
            let pending = &link.pending(session, Stream::Stdin)[..count];
            check(self.seed, session, Stream::Stdin, *position, pending);
            *position += count as u64;
            self.bytes += count as u64;
            link.consume(session, Stream::Stdin, count);
            if *position >= plan.wanted && !link.finished(session, Stream::Stdin) {
                link.stop(session, Stream::Stdin);
            }
            let whole = *position == plan.length || plan.wanted != u64::MAX;
            assert!(whole || !link.finished(session, Stream::Stdin), "seed {}: stdin is short", self.seed);
        }
    }

    pub fn is_done(&self, link: &GuestLink) -> bool {
        link.sessions().eq([0]) && OUTPUTS.iter().all(|stream| link.delivered(0, *stream))
    }
}

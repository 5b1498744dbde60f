//! Both ends of the channel, their owners, and a line that does to them what lines do, by the numbers of a seed.

mod line;
mod owners;
mod random;

use line::Wire;
use owners::{GuestOwner, HostOwner};
use protocol::{CHECKED_HIGH_WATER, GuestLink, HIGH_WATER, HostLink, State, Stream, frame};
use random::Random;

/// What the runs together have seen, so that a test can say that they tested something.
#[derive(Default, Debug)]
pub struct Seen {
    pub cuts: usize,
    pub kills: usize,
    pub damages: usize,
    pub resyncs: usize,
    pub sessions: usize,
    pub bytes: u64,
}

/// What the streams of a session carry, and how far they are wanted. Both owners know it, as if by agreement.
#[derive(Clone, Copy)]
pub struct Plan {
    pub length: u64,
    /// The receiver stops here, if that is less.
    pub wanted: u64,
}

pub fn plan(seed: u64, session: u32, stream: Stream) -> Plan {
    let mut random = Random(seed ^ u64::from(session) << 8 ^ (stream as u64) << 40 ^ 0x1234);
    let most = if random.once_in(12) { 400_000 } else { 5_000 };
    let length = random.size(most) as u64;
    let wanted = if random.once_in(6) { random.below(5000) as u64 } else { u64::MAX };
    Plan { length, wanted }
}

/// The byte at `offset` of a stream.
pub fn byte(session: u32, stream: Stream, offset: u64) -> u8 {
    let place = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(session) << 32 ^ (stream as u64) << 50;
    (place ^ place >> 29).to_le_bytes()[3]
}

pub struct World {
    seed: u64,
    checked: bool,
    random: Random,
    host: HostLink,
    guest: GuestLink,
    host_owner: HostOwner,
    guest_owner: GuestOwner,
    to_guest: Wire,
    to_host: Wire,
    nonces: u8,
}

/// Steps in which the line misbehaves; later it only delays and splits.
const CHAOS: usize = 600;
/// Steps until which every run must end.
const END: usize = 60_000;

impl World {
    pub fn new(seed: u64, checked: bool) -> Self {
        let mut random = Random(seed);
        let (host_owner, guest_owner) =
            (HostOwner::new(seed, &mut random), GuestOwner::new(seed, &mut random));
        Self {
            seed,
            checked,
            random,
            host: HostLink::host([1; 16], checked),
            guest: GuestLink::guest(),
            host_owner,
            guest_owner,
            to_guest: Wire::default(),
            to_host: Wire::default(),
            nonces: 1,
        }
    }

    /// Runs until both owners have what they want.
    pub fn run(mut self, seen: &mut Seen) {
        for step in 0.. {
            assert!(step < END, "seed {}: it does not end: {}", self.seed, self.whereabouts());
            let chaos = step < CHAOS;
            self.turn(chaos, seen);
            if !chaos && self.is_done() {
                break;
            }
        }
        seen.sessions += self.host_owner.opened;
        seen.bytes += self.host_owner.bytes + self.guest_owner.bytes;
    }

    fn turn(&mut self, chaos: bool, seen: &mut Seen) {
        let random = &mut self.random;
        for _ in 0..1 + random.below(6) {
            match random.below(6) {
                0 => self.host_owner.act(&mut self.host, random, chaos, self.guest_owner.taken),
                1 => self.guest_owner.act(&mut self.guest, random),
                2 => {
                    let damage = chaos && self.checked && random.once_in(8);
                    let count = random.size(self.host.output().len());
                    seen.damages += usize::from(damage);
                    self.to_guest.write(&self.host.output()[..count], damage.then_some(&mut *random));
                    self.host.wrote(count);
                }
                3 => {
                    let damage = chaos && self.checked && random.once_in(8);
                    let count = random.size(self.guest.output().len());
                    seen.damages += usize::from(damage);
                    self.to_host.write(&self.guest.output()[..count], damage.then_some(&mut *random));
                    self.guest.wrote(count);
                }
                4 => {
                    let bytes = self.to_guest.read(random);
                    self.guest.receive(&bytes).unwrap_or_else(|e| panic!("seed {}: guest: {e}", self.seed));
                }
                _ => {
                    let bytes = self.to_host.read(random);
                    self.host.receive(&bytes).unwrap_or_else(|e| panic!("seed {}: host: {e}", self.seed));
                }
            }
        }
        if chaos && self.random.once_in(40) {
            self.cut(seen);
        }
        if self.checked {
            self.look_at_the_clock(chaos, seen);
        }
        self.check_memory();
    }

    /// The line goes, and comes back.
    fn cut(&mut self, seen: &mut Seen) {
        seen.cuts += 1;
        let random = &mut self.random;
        self.nonces = self.nonces.wrapping_add(1);
        match random.below(4) {
            // Both notice, and the line is new: vsock.
            0 => {
                self.to_guest.lose_all();
                self.to_host.lose_all();
                self.host.disconnect();
                self.guest.disconnect();
                let kill = random.once_in(2);
                if kill {
                    seen.kills += 1;
                    self.host = self.host_owner.replace([self.nonces; 16], self.checked, random);
                }
                if !kill || random.once_in(2) {
                    self.host.listen();
                }
                self.guest.knock();
            }
            // The guest does not notice: virtio-serial. Any part of what was on its way may still come.
            kind => {
                self.to_guest.keep_front(random);
                self.to_host.keep_back(random);
                self.host.disconnect();
                if kind == 1 {
                    seen.kills += 1;
                    self.host = self.host_owner.replace([self.nonces; 16], self.checked, random);
                } else {
                    self.host.reattach();
                }
            }
        }
    }

    /// What owners with clocks do on a line that loses bytes: nothing moves, so somebody must.
    fn look_at_the_clock(&mut self, chaos: bool, seen: &mut Seen) {
        let still = self.to_guest.is_empty()
            && self.to_host.is_empty()
            && self.host.output().is_empty()
            && self.guest.output().is_empty();
        if still && self.random.once_in(8) || chaos && self.random.once_in(200) {
            if self.host.unacknowledged() && self.random.once_in(2) {
                seen.resyncs += 1;
                self.host.resync();
            } else if self.guest.unacknowledged() {
                seen.resyncs += 1;
                self.guest.resync();
            }
        }
    }

    fn check_memory(&self) {
        let output = if self.checked { CHECKED_HIGH_WATER } else { HIGH_WATER } + frame::MAX_DATA + 200;
        assert!(self.host.output().len() < output && self.guest.output().len() < output);
        assert!(self.host.sessions().count() <= protocol::MOST_SESSIONS);
        for session in self.guest.sessions() {
            let window = if session == 0 { protocol::WINDOW } else { protocol::EXEC_WINDOW };
            for stream in Stream::ALL {
                assert!(self.host.pending(session, stream).len() as u64 <= window);
                assert!(self.guest.pending(session, stream).len() as u64 <= window);
                if stream != Stream::Stdin && self.host.is_open(session) {
                    let used = self.host.position(session, stream);
                    let unwanted = plan(self.seed, session, stream).wanted != u64::MAX;
                    let sent = self.guest.position(session, stream);
                    assert!(unwanted || sent <= used + window, "seed {}: {sent}, {used}", self.seed);
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        self.host.state() == State::Connected
            && self.guest.state() == State::Connected
            && self.host_owner.is_done(&self.host, &self.guest_owner)
            && self.guest_owner.is_done(&self.guest)
    }

    fn whereabouts(&self) -> String {
        format!(
            "host {:?} {:?}, guest {:?} {:?}, {}",
            self.host.state(),
            self.host.sessions().collect::<Vec<_>>(),
            self.guest.state(),
            self.guest.sessions().collect::<Vec<_>>(),
            self.host_owner.whereabouts(&self.host, &self.guest)
        )
    }
}

//! A DHCP client (RFC 2131) as a state machine: packets and the time go in, packets and leases come out.
//!
//! It asks for an address, takes the first that is offered, asks its server for more time at half of it, any server at seven
//! eighths, and begins anew when the time is up or a server says no.

pub mod packet;

use packet::{Kind, Lease, Reply, Request};
use std::net::Ipv4Addr;

/// Milliseconds until what was not answered is said again: the first time, and the most that it is doubled to.
const FIRST_WAIT: u64 = 1000;
const LONGEST_WAIT: u64 = 16_000;
/// The least between two requests for more time.
const RENEW_WAIT: u64 = 60_000;
/// How often an offer is asked for before others are.
const TRIES: u32 = 4;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Send this to a server, or to everyone.
    Send(Ipv4Addr, Vec<u8>),
    /// The address and all that comes with it is ours from now on, in the place of what was before.
    Take(Lease),
    /// It is no longer ours.
    Drop,
}

/// Where the client stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It asks who has an address.
    Selecting,
    /// It asks for the one that was offered.
    Requesting(Lease),
    /// It has one.
    Bound(Held),
    /// It asks for more time: its server, and then all.
    Renewing(Held),
    Rebinding(Held),
}

/// A lease, and when it was asked for: its times count from then.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    lease: Lease,
    since: u64,
}

impl Held {
    fn at(&self, seconds: u32) -> u64 {
        match seconds {
            u32::MAX => u64::MAX,
            seconds => self.since.saturating_add(u64::from(seconds) * 1000),
        }
    }
}

/// A client. Times are milliseconds of any clock that never goes back, and goes on while the machine stands still.
#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    hostname: Option<String>,
    xid: u32,
    state: State,
    /// Requests since the state began.
    tries: u32,
    began: u64,
    /// When the last request was sent.
    asked: u64,
    next: u64,
}

impl Client {
    /// One that has something to do at once. `xid` is random.
    pub fn new(mac: [u8; 6], hostname: Option<String>, xid: u32, now: u64) -> Self {
        Self { mac, hostname, xid, state: State::Selecting, tries: 0, began: now, asked: now, next: now }
    }

    /// When it has something to do.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The time has come, or may have.
    pub fn tick(&mut self, now: u64) -> Vec<Order> {
        if now < self.next {
            return vec![];
        }
        match self.state.clone() {
            State::Selecting => self.say(now, Kind::Discover, None),
            State::Requesting(_) if self.tries >= TRIES => self.begin_anew(now, now),
            State::Requesting(offer) => self.say(now, Kind::Request, Some(&offer)),
            State::Bound(held) | State::Renewing(held) if now < held.at(held.lease.rebind) => {
                let server = held.lease.server;
                let order = self.ask_for_more(now, &held, server, held.at(held.lease.rebind));
                self.state = State::Renewing(held);
                vec![order]
            }
            State::Bound(held) | State::Renewing(held) | State::Rebinding(held) => {
                let end = held.at(held.lease.seconds);
                if now >= end {
                    let again = self.begin_anew(now, now);
                    return [vec![Order::Drop], again].concat();
                }
                let order = self.ask_for_more(now, &held, Ipv4Addr::BROADCAST, end);
                self.state = State::Rebinding(held);
                vec![order]
            }
        }
    }

    /// A packet has come.
    pub fn receive(&mut self, now: u64, bytes: &[u8]) -> Vec<Order> {
        let Some(reply) = packet::parse(bytes, self.xid, self.mac) else { return vec![] };
        match (reply, &self.state) {
            (Reply::Offer(offer), State::Selecting) => {
                self.tries = 0;
                self.state = State::Requesting(offer.clone());
                self.say(now, Kind::Request, Some(&offer))
            }
            (Reply::Ack(lease), State::Requesting(offer)) if lease.server == offer.server => self.bind(lease),
            (Reply::Ack(lease), State::Renewing(_) | State::Rebinding(_)) => self.bind(lease),
            // Not at once: a server that offers what it then refuses would be asked without end.
            (Reply::Nak, State::Requesting(_)) => self.begin_anew(now, now + FIRST_WAIT),
            (Reply::Nak, State::Renewing(_) | State::Rebinding(_)) => {
                let again = self.begin_anew(now, now + FIRST_WAIT);
                [vec![Order::Drop], again].concat()
            }
            _ => vec![],
        }
    }

    /// What tells the server that its address is free.
    pub fn release(&self) -> Option<Order> {
        let (State::Bound(held) | State::Renewing(held) | State::Rebinding(held)) = &self.state else {
            return None;
        };
        let server = Some(held.lease.server);
        let request = Request { mine: held.address(), server, ..self.request(self.asked, Kind::Release) };
        Some(Order::Send(held.lease.server, request.write()))
    }

    fn bind(&mut self, lease: Lease) -> Vec<Order> {
        let held = Held { lease: lease.clone(), since: self.asked };
        self.next = held.at(lease.renew);
        self.tries = 0;
        self.state = State::Bound(held);
        vec![Order::Take(lease)]
    }

    /// As if nothing had been, at `at`.
    fn begin_anew(&mut self, now: u64, at: u64) -> Vec<Order> {
        self.xid = self.xid.wrapping_add(1);
        (self.state, self.tries, self.began, self.next) = (State::Selecting, 0, now, at);
        self.tick(now)
    }

    /// To everyone, and again after a while that grows.
    fn say(&mut self, now: u64, kind: Kind, offer: Option<&Lease>) -> Vec<Order> {
        let wait = FIRST_WAIT.saturating_mul(1 << self.tries.min(8)).min(LONGEST_WAIT);
        self.tries = self.tries.saturating_add(1);
        // Machines that were started together shall not go on together.
        self.next = now + wait + u64::from(self.xid % 256);
        self.asked = now;
        let wanted = offer.and_then(address);
        let server = offer.map(|offer| offer.server);
        let request = Request { wanted, server, ..self.request(now, kind) };
        vec![Order::Send(Ipv4Addr::BROADCAST, request.write())]
    }

    /// For more time of what it has; again after half of the time that is left until `end`.
    fn ask_for_more(&mut self, now: u64, held: &Held, server: Ipv4Addr, end: u64) -> Order {
        self.next = end.min(now + ((end - now) / 2).max(RENEW_WAIT));
        self.asked = now;
        let request = Request { mine: held.address(), ..self.request(now, Kind::Request) };
        Order::Send(server, request.write())
    }

    fn request(&self, now: u64, kind: Kind) -> Request<'_> {
        let seconds = u16::try_from(now.saturating_sub(self.began) / 1000).unwrap_or(u16::MAX);
        let (xid, mac, hostname) = (self.xid, self.mac, self.hostname.as_deref());
        Request { kind, xid, mac, seconds, mine: None, wanted: None, server: None, hostname }
    }
}

impl Held {
    fn address(&self) -> Option<Ipv4Addr> {
        address(&self.lease)
    }
}

fn address(lease: &Lease) -> Option<Ipv4Addr> {
    match lease.subnet.ip {
        std::net::IpAddr::V4(ip) => Some(ip),
        std::net::IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests;

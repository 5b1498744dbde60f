//! What IPv6 routers make of an interface: the addresses that the kernel derives from their advertisements (SLAAC), and
//! the name servers in these ([`options`]). The kernel does the asking; we only listen to what it has heard.

mod options;

use super::links::{ADDRESS, AF_INET6, DELETE_ADDRESS, NEW_ADDRESS, SCOPE_UNIVERSE};
use super::netlink::{Events, attributes, field};
use crate::failure::{Context, Failure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use options::Word;
use protocol::Stage::Network;
use protocol::network::Nic;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// How long the first address may take: the kernel asks routers three times, every four seconds.
const DEADLINE: Duration = Duration::from_secs(60);
/// At most so many of each interface's are taken: as many as a resolver looks at.
const MOST_SERVERS: usize = 3;
const MOST_DOMAINS: usize = 6;

/// Groups of events: IPv6 addresses, and options for others than the kernel (`RTNLGRP_ND_USEROPT`).
const ADDRESSES: u32 = 0x100;
const USER_OPTIONS: u32 = 1 << 19;
/// Its kind of message.
const NEW_USER_OPTIONS: u16 = 68;
/// Bytes of a `struct nduseroptmsg`, and of a `struct ifaddrmsg`.
const OPTIONS_BODY: usize = 16;
const ADDRESS_BODY: usize = 8;
/// Of the flags of an address: another machine has it, or may have; or somebody has given it.
const UNUSABLE: u8 = 0x08 | 0x40;
const PERMANENT: u8 = 0x80;

/// All that is heard.
pub struct Routers {
    events: Events,
    all: Vec<Heard>,
}

/// One interface's.
struct Heard {
    nic: Nic,
    index: u32,
    address: Option<Ipv6Addr>,
    servers: Vec<Ipv6Addr>,
    domains: Vec<String>,
}

impl Routers {
    /// Listens, from before the first interface is up.
    pub fn listen() -> Result<Self, Failure> {
        let events = Events::listen(ADDRESSES | USER_OPTIONS).at(Network, || "listening to IPv6 routers")?;
        Ok(Self { events, all: vec![] })
    }

    /// To this interface, too.
    pub fn add(&mut self, nic: &Nic, index: u32) {
        self.all.push(Heard { nic: nic.clone(), index, address: None, servers: vec![], domains: vec![] });
    }

    /// Readable when there is something to do.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.events.fd()
    }

    /// Waits until each interface that has no other source of addresses has one.
    pub fn wait(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + DEADLINE;
        while let Some(waiting) = self.all.iter().find(|heard| heard.is_without()) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let Nic { name, mac, .. } = &waiting.nic;
                let seconds = DEADLINE.as_secs();
                let why = format!(
                    "no IPv6 router has given an address to {name} (MAC address {mac}) within {seconds} s"
                );
                return Err(Failure::new(Network, why));
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _event = poll(&mut [PollFd::new(self.fd(), PollFlags::POLLIN)], timeout);
            self.serve();
        }
        Ok(())
    }

    /// Takes in what there is; says whether that changes anything.
    pub fn serve(&mut self) -> bool {
        let mut changed = false;
        let all = &mut self.all;
        self.events.read(|kind, body| {
            changed |= match kind {
                NEW_ADDRESS | DELETE_ADDRESS => take_address(all, kind == NEW_ADDRESS, body),
                NEW_USER_OPTIONS => take_options(all, body),
                _ => None,
            }
            .unwrap_or(false);
        });
        changed
    }

    /// The first address that the interface of that name has got.
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        let heard = self.all.iter().find(|heard| heard.nic.name == name)?;
        heard.address.map(IpAddr::V6)
    }

    /// Name servers, as resolv.conf has them: one on the link with the interface that leads to it.
    pub fn dns(&self) -> impl Iterator<Item = String> {
        let name = |heard: &Heard, server: &Ipv6Addr| {
            if server.is_unicast_link_local() {
                format!("{server}%{}", heard.nic.name)
            } else {
                server.to_string()
            }
        };
        self.all.iter().flat_map(move |heard| heard.servers.iter().map(move |server| name(heard, server)))
    }

    /// Domains to look in.
    pub fn search(&self) -> impl Iterator<Item = &String> {
        self.all.iter().flat_map(|heard| &heard.domains)
    }
}

impl Heard {
    fn is_without(&self) -> bool {
        self.address.is_none() && !self.nic.dhcp && self.nic.addresses.is_empty()
    }
}

fn with_index(all: &mut [Heard], index: u32) -> Option<&mut Heard> {
    all.iter_mut().find(|heard| heard.index == index)
}

/// A `struct ifaddrmsg` and its attributes: an address is there, and may be used, or has gone.
fn take_address(all: &mut [Heard], new: bool, body: &[u8]) -> Option<bool> {
    let [family, _, flags, scope] = field(body, 0)?;
    let heard = with_index(all, u32::from_ne_bytes(field(body, 4)?))?;
    let address = attributes(body.get(ADDRESS_BODY..)?).find(|(kind, _)| *kind == ADDRESS)?.1;
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?);
    let before = heard.address;
    if new && flags & (UNUSABLE | PERMANENT) == 0 && family == AF_INET6 && scope == SCOPE_UNIVERSE {
        heard.address.get_or_insert(address);
    } else if !new && before == Some(address) {
        heard.address = None;
    }
    Some(before != heard.address)
}

/// A `struct nduseroptmsg`, and options.
fn take_options(all: &mut [Heard], body: &[u8]) -> Option<bool> {
    let length = usize::from(u16::from_ne_bytes(field(body, 2)?));
    let heard = with_index(all, u32::from_ne_bytes(field(body, 4)?))?;
    let options = body.get(OPTIONS_BODY..)?.get(..length)?;
    let mut changed = false;
    for (word, holds) in options::parse(options) {
        changed |= match word {
            Word::Server(server) => take(&mut heard.servers, server, holds, MOST_SERVERS),
            Word::Domain(domain) => take(&mut heard.domains, domain, holds, MOST_DOMAINS),
        };
    }
    Some(changed)
}

/// Puts `one` into `list`, or out of it; says whether that changes it.
fn take<T: PartialEq>(list: &mut Vec<T>, one: T, holds: bool, most: usize) -> bool {
    match list.iter().position(|other| *other == one) {
        None if holds && list.len() < most => {
            list.push(one);
            true
        }
        Some(at) if !holds => {
            list.remove(at);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::netlink::attribute;
    use super::*;

    fn heard() -> Vec<Heard> {
        let nic = Nic {
            mac: "02:00:00:00:00:09".parse().unwrap(),
            name: "eth0".into(),
            addresses: vec![],
            routes: vec![],
            dhcp: false,
            slaac: true,
            mtu: None,
            offload: false,
        };
        vec![Heard { nic, index: 2, address: None, servers: vec![], domains: vec![] }]
    }

    fn address(flags: u8, scope: u8, index: u8, text: &str) -> Vec<u8> {
        let ip: Ipv6Addr = text.parse().unwrap();
        let body = [AF_INET6, 64, flags, scope, index, 0, 0, 0];
        [&body[..], &attribute(6, &[0; 16]), &attribute(ADDRESS, &ip.octets())].concat()
    }

    #[test]
    fn an_address_counts_when_it_may_be_used() {
        let mut all = heard();
        assert!(all[0].is_without());
        let link = 253;
        for other in [
            address(0x40, 0, 2, "fd00::9"),
            address(0x48, 0, 2, "fd00::9"),
            address(0x80, 0, 2, "fd00::9"),
            address(0, link, 2, "fe80::9"),
        ] {
            assert_eq!(take_address(&mut all, true, &other), Some(false), "{other:?}");
        }
        let good = address(0, 0, 2, "fd00::9");
        assert_eq!(take_address(&mut all, true, &address(0, 0, 3, "fd00::9")), None);
        assert_eq!(take_address(&mut all, true, &good), Some(true));
        assert_eq!(take_address(&mut all, true, &good), Some(false));
        assert!(!all[0].is_without());
        assert_eq!(take_address(&mut all, false, &address(0, 0, 2, "fd00::8")), Some(false));
        assert_eq!(take_address(&mut all, false, &good), Some(true));
        assert_eq!(all[0].address, None);
        for length in 0..good.len() {
            assert_eq!(take_address(&mut all, true, &good[..length]), None, "{length}");
        }
    }

    #[test]
    fn servers_come_and_go() {
        let ip = |last: u8| [&[0xfd][..], &[0; 14], &[last]].concat();
        let option = |seconds: u8, last| [&[25, 3, 0, 0, 0, 0, 0, seconds][..], &ip(last)].concat();
        let message = |index: u8, length: u8, options: &[u8]| {
            [&[10, 0, length, 0, index, 0, 0, 0, 134, 0, 0, 0, 0, 0, 0, 0][..], options].concat()
        };
        let mut all = heard();
        for (seconds, last, changes) in [
            (9, 1, true),
            (9, 1, false),
            (9, 2, true),
            (9, 3, true),
            (9, 4, false),
            (0, 1, true),
            (0, 1, false),
        ] {
            let told = take_options(&mut all, &message(2, 24, &option(seconds, last)));
            assert_eq!(told, Some(changes), "{seconds} {last}");
        }
        assert_eq!(all[0].servers, ["fd00::2", "fd00::3"].map(|ip| ip.parse::<Ipv6Addr>().unwrap()));
        assert_eq!(take_options(&mut all, &message(3, 24, &option(9, 5))), None);
        assert_eq!(take_options(&mut all, &message(2, 25, &option(9, 5))), None);
        assert_eq!(take_options(&mut all, &[0; 15]), None);
    }
}

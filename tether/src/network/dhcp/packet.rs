//! DHCP's packets (RFC 2131; options: RFC 2132, RFC 3442): written, and taken apart with the care that a stranger's words need.

use protocol::network::{Route, Subnet};
use std::net::{IpAddr, Ipv4Addr};

/// The largest packet that is read; we tell the server so.
pub const LARGEST: usize = 1472;

/// What a client's packet is (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Discover = 1,
    Request = 3,
    Release = 7,
}

/// What a server's is.
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Where the fields of a packet are, and how long all of them are before the options.
const XID: usize = 4;
const YOUR_ADDRESS: usize = 16;
const MAC: usize = 28;
const COOKIE: usize = 236;
const OPTIONS: usize = 240;
/// What the options begin with.
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// The shortest packet that BOOTP knows (RFC 1542).
const SHORTEST: usize = 300;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: u8 = 1;
/// A flag: the answer shall be sent to everyone, for we have no address that it could be sent to.
const BROADCAST: u8 = 0x80;

/// Options.
const PAD: u8 = 0;
const MASK: u8 = 1;
const ROUTER: u8 = 3;
const DNS: u8 = 6;
const HOSTNAME: u8 = 12;
const DOMAIN: u8 = 15;
const MTU: u8 = 26;
const WANTED_ADDRESS: u8 = 50;
const LEASE: u8 = 51;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const PARAMETERS: u8 = 55;
const MAX_SIZE: u8 = 57;
const RENEW: u8 = 58;
const REBIND: u8 = 59;
const CLIENT: u8 = 61;
const ROUTES: u8 = 121;
const END: u8 = 255;

/// The most that is taken of what a server may list.
const MOST_DNS: usize = 3;
const MOST_ROUTES: usize = 32;
const MOST_DOMAINS: usize = 6;

/// An address for a while, and what comes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub subnet: Subnet,
    /// Whom it is from.
    pub server: Ipv4Addr,
    /// Routes.
    pub routes: Vec<Route>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Domains to look in.
    pub search: Vec<String>,
    /// The longest packet.
    pub mtu: Option<u32>,
    /// Seconds until it ends, until its server is asked for more, and until any server is. `u32::MAX` is for ever.
    pub seconds: u32,
    pub renew: u32,
    pub rebind: u32,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Offer(Lease),
    Ack(Lease),
    Nak,
}

/// What the client says.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub kind: Kind,
    /// What the answer is known by.
    pub xid: u32,
    pub mac: [u8; 6],
    /// Seconds since the client began.
    pub seconds: u16,
    /// The address that the client has.
    pub mine: Option<Ipv4Addr>,
    /// The address that it would like to have, and whose offer that is.
    pub wanted: Option<Ipv4Addr>,
    pub server: Option<Ipv4Addr>,
    pub hostname: Option<&'a str>,
}

impl Request<'_> {
    /// As bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = vec![REQUEST, ETHERNET, 6, 0];
        bytes.extend_from_slice(&self.xid.to_be_bytes());
        bytes.extend_from_slice(&self.seconds.to_be_bytes());
        bytes.extend_from_slice(&[if self.mine.is_none() { BROADCAST } else { 0 }, 0]);
        bytes.extend_from_slice(&self.mine.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        bytes.resize(MAC, 0);
        bytes.extend_from_slice(&self.mac);
        bytes.resize(COOKIE, 0);
        bytes.extend_from_slice(&MAGIC);
        let mut option = |code: u8, data: &[u8]| {
            bytes.push(code);
            bytes.push(u8::try_from(data.len()).unwrap_or(0));
            bytes.extend_from_slice(data);
        };
        option(KIND, &[self.kind as u8]);
        option(CLIENT, &[&[ETHERNET], &self.mac[..]].concat());
        if let Some(address) = self.wanted {
            option(WANTED_ADDRESS, &address.octets());
        }
        if let Some(server) = self.server {
            option(SERVER, &server.octets());
        }
        if self.kind != Kind::Release {
            if let Some(name) = self.hostname.filter(|name| name.len() < 64) {
                option(HOSTNAME, name.as_bytes());
            }
            option(MAX_SIZE, &[5, 0xdc]); // 1500, with the headers of IP and UDP
            option(PARAMETERS, &[MASK, ROUTES, ROUTER, DNS, DOMAIN, MTU, LEASE, RENEW, REBIND]);
        }
        bytes.push(END);
        bytes.resize(bytes.len().max(SHORTEST), 0);
        bytes
    }
}

/// What a packet says to the client with this MAC address, which waits for the answer to `xid`. None if nothing, or
/// nothing that can be.
pub fn parse(packet: &[u8], xid: u32, mac: [u8; 6]) -> Option<Reply> {
    if !packet.starts_with(&[REPLY, ETHERNET, 6])
        || packet.get(XID..XID + 4)? != xid.to_be_bytes()
        || packet.get(MAC..MAC + 6)? != mac
        || packet.get(COOKIE..OPTIONS)? != MAGIC
    {
        return None;
    }
    let options = packet.get(OPTIONS..)?;
    let kind = match option(options, KIND)[..] {
        [OFFER] => Reply::Offer,
        [ACK] => Reply::Ack,
        [NAK] => return Some(Reply::Nak),
        _ => return None,
    };
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(YOUR_ADDRESS..YOUR_ADDRESS + 4)?).ok()?);
    Some(kind(lease(address, options)?))
}

/// The bytes of an option; what is in several pieces is one (RFC 3396). Empty if it is not there, or is cut short.
fn option(mut options: &[u8], wanted: u8) -> Vec<u8> {
    let mut found = vec![];
    while let Some((code, rest)) = options.split_first() {
        match *code {
            PAD => options = rest,
            END => break,
            code => {
                let Some((length, rest)) = rest.split_first() else { break };
                let Some((data, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
                if code == wanted {
                    found.extend_from_slice(data);
                }
                options = rest;
            }
        }
    }
    found
}

fn lease(address: Ipv4Addr, options: &[u8]) -> Option<Lease> {
    let number = |code| Some(u32::from_be_bytes(option(options, code).try_into().ok()?));
    let server = addresses(&option(options, SERVER)).next()?;
    if !is_host(address) || !is_host(server) {
        return None;
    }
    let length = match option(options, MASK)[..] {
        [] => class(address),
        ref mask => prefix(u32::from_be_bytes(mask.try_into().ok()?))?,
    };
    let seconds = number(LEASE).filter(|seconds| *seconds > 0)?;
    // Times that are out of order are the server's mistake: the usual ones are taken.
    let part = |of: u64| u32::try_from(u64::from(seconds) * of / 8).unwrap_or(u32::MAX);
    let rebind = number(REBIND).filter(|rebind| *rebind < seconds).unwrap_or(part(7));
    // Never at once: each answer would be followed by the next request.
    let renew = number(RENEW).filter(|renew| *renew < rebind).unwrap_or(part(4).min(rebind)).max(1);
    let mtu = option(options, MTU);
    let mtu = <[u8; 2]>::try_from(&mtu[..]).ok().map(|mtu| u32::from(u16::from_be_bytes(mtu)));
    Some(Lease {
        subnet: Subnet { ip: address.into(), length },
        server,
        routes: routes(options),
        dns: addresses(&option(options, DNS))
            .filter(|dns| is_host(*dns))
            .map(IpAddr::V4)
            .take(MOST_DNS)
            .collect(),
        search: domains(&option(options, DOMAIN)),
        mtu: mtu.filter(|mtu| *mtu >= 576), // what every host must take
        seconds,
        renew,
        rebind,
    })
}

/// Whether it can be one machine's address.
fn is_host(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    first != 0 && first != 127 && first < 224
}

/// The length of the prefix that a mask of this class of addresses would have.
fn class(ip: Ipv4Addr) -> u8 {
    let [first, ..] = ip.octets();
    match first {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

fn prefix(mask: u32) -> Option<u8> {
    let ones = mask.leading_ones();
    (ones + mask.trailing_zeros() >= 32).then(|| u8::try_from(ones).ok())?
}

fn addresses(bytes: &[u8]) -> impl Iterator<Item = Ipv4Addr> {
    bytes.as_chunks::<4>().0.iter().map(|octets| Ipv4Addr::from(*octets))
}

/// Those of option 121, which takes the place of option 3 (RFC 3442); else the default route to the first router.
fn routes(options: &[u8]) -> Vec<Route> {
    let listed = option(options, ROUTES);
    let mut rest = &listed[..];
    let mut routes = vec![];
    while routes.len() < MOST_ROUTES
        && let Some(route) = next_route(&mut rest)
    {
        routes.push(route);
    }
    if routes.is_empty() {
        let router = option(options, ROUTER);
        let router = addresses(&router).find(|router| is_host(*router));
        routes.extend(router.map(|router| Route { to: everywhere(), via: Some(router.into()) }));
    }
    routes
}

fn everywhere() -> Subnet {
    Subnet { ip: Ipv4Addr::UNSPECIFIED.into(), length: 0 }
}

/// The prefix's length, as many of its bytes as that needs, the router.
fn next_route(rest: &mut &[u8]) -> Option<Route> {
    let (length, after) = rest.split_first()?;
    let length = Some(*length).filter(|length| *length <= 32)?;
    let (significant, after) = after.split_at_checked(usize::from(length.div_ceil(8)))?;
    let (router, after) = after.split_first_chunk::<4>()?;
    *rest = after;
    let mut network = [0; 4];
    for (to, from) in network.iter_mut().zip(significant) {
        *to = *from;
    }
    let router = Ipv4Addr::from(*router);
    // 0.0.0.0: without one.
    let via = Some(router).filter(|router| !router.is_unspecified());
    if via.is_some_and(|via| !is_host(via)) {
        return None;
    }
    Some(Route { to: Subnet { ip: Ipv4Addr::from(network).into(), length }, via: via.map(IpAddr::V4) })
}

/// A name's characters are few: what has others would be a line of its own in resolv.conf.
fn domains(bytes: &[u8]) -> Vec<String> {
    let word = |word: &&str| {
        !word.is_empty()
            && word.len() < 254
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
    };
    let text = str::from_utf8(bytes).unwrap_or_default();
    text.split([' ', '\0']).filter(word).take(MOST_DOMAINS).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;

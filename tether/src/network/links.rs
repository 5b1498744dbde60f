//! Interfaces, their addresses and routes, as rtnetlink(7) has them.

use super::netlink::{CREATE, EXCLUSIVE, Message, Netlink, REPLACE, attributes, field};
use crate::failure::{Context, Failure};
use nix::errno::Errno;
use protocol::Stage::Network;
use protocol::network::{Mac, Nic, Route, Subnet};
use std::fs;
use std::net::IpAddr;

/// Kinds of messages.
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
pub const NEW_ADDRESS: u16 = 20;
pub const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;

/// Attributes of links, addresses, routes.
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
pub const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
const DESTINATION: u16 = 1;
const LINK: u16 = 4;
const GATEWAY: u16 = 5;
const PRIORITY: u16 = 6;
/// `IP6_RT_PRIO_USER`.
const IPV6_METRIC: u32 = 1024;

/// Bytes of a `struct ifinfomsg`.
const LINK_BODY: usize = 16;
/// `IFF_UP`.
const UP: u32 = 1;
/// `IFA_F_NODAD`: nobody else is asked whether the address is theirs, which would take a second.
const NO_DAD: u8 = 2;
const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;
/// The main table; made at boot, not by a routing daemon; everywhere, or on the link; to one host or network.
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
pub const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const UNICAST: u8 = 1;
/// `RTNH_F_ONLINK`.
const ON_LINK: u32 = 4;

/// An interface that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, if it has such.
    pub mac: Option<[u8; 6]>,
}

/// All interfaces.
pub fn list(netlink: &mut Netlink) -> Result<Vec<Link>, Failure> {
    let mut links = vec![];
    netlink
        .dump(Message::new(GET_LINK, 0, &[0; LINK_BODY]), |body| links.extend(parse(body)))
        .at(Network, || "listing the network interfaces")?;
    Ok(links)
}

/// A `struct ifinfomsg` and its attributes.
fn parse(body: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(field(body, 4)?);
    let (mut name, mut mac) = (String::new(), None);
    for (kind, data) in attributes(body.get(LINK_BODY..)?) {
        match kind {
            LINK_NAME => {
                let text = data.split(|byte| *byte == 0).next().unwrap_or_default();
                name = String::from_utf8_lossy(text).into_owned();
            }
            LINK_ADDRESS => mac = data.try_into().ok(),
            _ => {}
        }
    }
    Some(Link { index, name, mac })
}

/// Gives an interface its name and its MTU, and brings it up.
pub fn bring_up(netlink: &mut Netlink, links: &mut [Link], nic: &Nic) -> Result<u32, Failure> {
    let index = rename(netlink, links, nic)?;
    if !nic.slaac {
        // Without IPv6 in the kernel, there are no routers to listen to.
        let path = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", nic.name);
        let _none = fs::write(path, "0");
    }
    let up = change_link(index, UP, UP);
    let up = match nic.mtu {
        Some(mtu) => up.with(LINK_MTU, &mtu.to_ne_bytes()),
        None => up,
    };
    netlink.request(up).at(Network, || match nic.mtu {
        Some(mtu) => format!("bringing {} up with an MTU of {mtu}", nic.name),
        None => format!("bringing {} up", nic.name),
    })?;
    Ok(index)
}

/// The interface with the NIC's MAC address gets the NIC's name; the one that has it, if another, one that nobody wants.
fn rename(netlink: &mut Netlink, links: &mut [Link], nic: &Nic) -> Result<u32, Failure> {
    let Some(at) = position(links, nic.mac) else {
        return Err(Failure::new(Network, format!("no network interface has the MAC address {}", nic.mac)));
    };
    let holder = links.iter().position(|link| link.name == nic.name);
    if let Some(holder) = holder.filter(|holder| *holder != at) {
        set_name(netlink, links, holder, &format!("other{holder}"))?;
    }
    if holder != Some(at) {
        set_name(netlink, links, at, &nic.name)?;
    }
    Ok(links.get(at).map_or(0, |link| link.index))
}

/// Where among `links` the interface with this MAC address is.
pub fn position(links: &[Link], mac: Mac) -> Option<usize> {
    links.iter().position(|link| link.mac == Some(mac.0))
}

fn set_name(netlink: &mut Netlink, links: &mut [Link], at: usize, name: &str) -> Result<(), Failure> {
    let Some(link) = links.get_mut(at) else { return Ok(()) };
    let text = [name.as_bytes(), b"\0"].concat();
    netlink
        .request(change_link(link.index, 0, 0).with(LINK_NAME, &text))
        .at(Network, || format!("calling {} {name}", link.name))?;
    name.clone_into(&mut link.name);
    Ok(())
}

/// Brings an interface up or down.
pub fn set_up(netlink: &mut Netlink, index: u32, up: bool) -> nix::Result<()> {
    netlink.request(change_link(index, if up { UP } else { 0 }, UP))
}

/// A `struct ifinfomsg` that sets `flags` of those in `mask`.
fn change_link(index: u32, flags: u32, mask: u32) -> Message {
    let [index, flags, mask] = [index, flags, mask].map(u32::to_ne_bytes);
    Message::new(NEW_LINK, 0, &[[0; 4], index, flags, mask].concat())
}

/// Gives an interface another MAC address.
pub fn set_mac(netlink: &mut Netlink, index: u32, mac: Mac) -> nix::Result<()> {
    netlink.request(change_link(index, 0, 0).with(LINK_ADDRESS, &mac.0))
}

/// Sets the MTU of an interface that is up.
pub fn set_mtu(netlink: &mut Netlink, index: u32, mtu: u32) -> nix::Result<()> {
    netlink.request(change_link(index, 0, 0).with(LINK_MTU, &mtu.to_ne_bytes()))
}

/// An interface gets an address.
pub fn add_address(netlink: &mut Netlink, index: u32, subnet: Subnet) -> nix::Result<()> {
    match netlink.request(address(NEW_ADDRESS, CREATE | EXCLUSIVE, index, subnet)) {
        Err(Errno::EEXIST) => Ok(()), // it has it
        result => result,
    }
}

/// An interface loses an address.
pub fn remove_address(netlink: &mut Netlink, index: u32, subnet: Subnet) -> nix::Result<()> {
    netlink.request(address(DELETE_ADDRESS, 0, index, subnet))
}

/// A `struct ifaddrmsg`.
fn address(kind: u16, flags: u16, index: u32, Subnet { ip, length }: Subnet) -> Message {
    let (family, state) = if ip.is_ipv4() { (AF_INET, 0) } else { (AF_INET6, NO_DAD) };
    let mut body = vec![family, length, state, SCOPE_UNIVERSE];
    body.extend_from_slice(&index.to_ne_bytes());
    let message = Message::new(kind, flags, &body);
    match ip {
        IpAddr::V6(ip) => message.with(ADDRESS, &ip.octets()),
        IpAddr::V4(ip) => {
            let message = message.with(LOCAL, &ip.octets()).with(ADDRESS, &ip.octets());
            // Of 31 and 32 bits there is none (RFC 3021).
            match u32::MAX.checked_shr(length.into()) {
                Some(hosts) if length < 31 => message.with(BROADCAST, &(u32::from(ip) | hosts).to_be_bytes()),
                _ => message,
            }
        }
    }
}

/// An interface as routes know it.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// The kernel's number of it.
    pub index: u32,
    /// How many interfaces' routes to the same are preferred to its own.
    pub rank: u32,
}

/// Adds a route through an interface, in the place of another of that rank to the same. `far`: its gateway may be outside of
/// all the interface's networks.
pub fn add_route(netlink: &mut Netlink, way: Way, to: &Route, far: bool) -> nix::Result<()> {
    netlink.request(route(NEW_ROUTE, CREATE | REPLACE, way, to, far))
}

/// Removes a route.
pub fn remove_route(netlink: &mut Netlink, way: Way, to: &Route) -> nix::Result<()> {
    netlink.request(route(DELETE_ROUTE, 0, way, to, false))
}

/// A `struct rtmsg`.
fn route(kind: u16, flags: u16, way: Way, Route { to, via }: &Route, far: bool) -> Message {
    let family = if to.ip.is_ipv4() { AF_INET } else { AF_INET6 };
    let scope = if via.is_none() && to.ip.is_ipv4() { SCOPE_LINK } else { SCOPE_UNIVERSE };
    let mut body = vec![family, to.length, 0, 0, TABLE_MAIN, PROTOCOL_BOOT, scope, UNICAST];
    body.extend_from_slice(&if far { ON_LINK } else { 0 }.to_ne_bytes());
    let mut message = Message::new(kind, flags, &body);
    if to.length > 0 {
        message = message.with(DESTINATION, &octets(masked(*to)));
    }
    if let Some(via) = via {
        message = message.with(GATEWAY, &octets(*via));
    }
    if way.rank > 0 {
        // The first one's metric is what the kernel takes by itself.
        let metric = way.rank + if to.ip.is_ipv4() { 0 } else { IPV6_METRIC };
        message = message.with(PRIORITY, &metric.to_ne_bytes());
    }
    message.with(LINK, &way.index.to_ne_bytes())
}

/// The network's own address: the kernel wants no bit behind the prefix.
fn masked(Subnet { ip, length }: Subnet) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let hosts = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & !hosts).into())
        }
        IpAddr::V6(ip) => {
            let hosts = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & !hosts).into())
        }
    }
}

/// Whether `ip` is in the network of `subnet`.
pub fn holds(subnet: Subnet, ip: IpAddr) -> bool {
    subnet.ip.is_ipv4() == ip.is_ipv4() && masked(subnet) == masked(Subnet { ip, ..subnet })
}

/// As they stand in a packet.
fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read() {
        let attribute = |kind: u16, data: &[u8]| {
            let mut bytes = u16::try_from(4 + data.len()).unwrap().to_ne_bytes().to_vec();
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let mut body = vec![0; LINK_BODY];
        body[4] = 2;
        body.extend(attribute(LINK_NAME, b"eth0\0"));
        body.extend(attribute(LINK_ADDRESS, &[2, 0, 0, 0, 0, 9]));
        let link = Link { index: 2, name: "eth0".into(), mac: Some([2, 0, 0, 0, 0, 9]) };
        assert_eq!(parse(&body), Some(link.clone()));
        assert_eq!(position(&[link], Mac([2, 0, 0, 0, 0, 9])), Some(0));
        // A tunnel's address is shorter.
        body.extend(attribute(LINK_ADDRESS, &[1, 2, 3, 4]));
        assert_eq!(parse(&body).unwrap().mac, None);
        for length in 0..LINK_BODY {
            assert_eq!(parse(&body[..length]), None);
        }
    }

    #[test]
    fn a_route_goes_to_a_network() {
        let masked = |text: &str| masked(text.parse().unwrap()).to_string();
        assert_eq!(masked("10.1.2.3/8"), "10.0.0.0");
        assert_eq!(masked("10.1.2.3/32"), "10.1.2.3");
        assert_eq!(masked("10.1.2.3/0"), "0.0.0.0");
        assert_eq!(masked("fec0::15/64"), "fec0::");
        assert_eq!(masked("::1/128"), "::1");
        assert_eq!(masked("::1/0"), "::");
        let holds = |subnet: &str, ip: &str| holds(subnet.parse().unwrap(), ip.parse().unwrap());
        assert!(holds("10.0.2.15/24", "10.0.2.2") && !holds("10.0.2.15/24", "10.0.3.2"));
        assert!(!holds("10.0.2.15/32", "10.0.2.2") && !holds("::/0", "10.0.2.2") && holds("::/0", "::1"));
    }
}

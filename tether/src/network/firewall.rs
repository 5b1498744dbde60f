//! What may pass the interfaces: a table of nf_tables, made by netlink before the first of them is up.
//!
//! Source: linux/netfilter/nf_tables.h and nfnetlink.h; `nft --debug=netlink` shows the same expressions. Numbers in attributes
//! are big-endian. What a container without CAP_NET_ADMIN cannot change, one with it can.

use super::netlink::{CREATE, Message, Netlink, attribute};
use crate::failure::{Context, Failure};
use nix::sys::socket::SockProtocol;
use protocol::Stage::Network;
use protocol::network::{Firewall, Level, Nic, OpenPorts, Subnet, Transport};
use std::net::IpAddr;

/// Kinds of messages: of the subsystem nf_tables, and what holds several of them together.
const TABLES: u16 = 10;
const NEW_TABLE: u16 = TABLES << 8;
const NEW_CHAIN: u16 = TABLES << 8 | 3;
const NEW_RULE: u16 = TABLES << 8 | 6;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Flags of a request.
const APPEND: u16 = 0x800;
/// Both IP versions: `NFPROTO_INET`.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// Of an attribute that holds attributes.
const NESTED: u16 = 0x8000;

const TABLE: &[u8] = b"containervm\0";
const INPUT: Chain = Chain { name: b"input\0", hook: 1 };
const OUTPUT: Chain = Chain { name: b"output\0", hook: 3 };

const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// Registers: of the verdict, and the first for data.
const VERDICT: u32 = 0;
const DATA: u32 = 1;
/// What meta expressions load.
const IN_INTERFACE: u32 = 4;
const OUT_INTERFACE: u32 = 5;
const IP_VERSION: u32 = 15;
const TRANSPORT: u32 = 16;
/// `lo`'s number, in every network namespace.
const LO: u32 = 1;
/// Connections that have been answered, and what belongs to one: bits of ct state.
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// Where payload expressions load from.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// ICMPv6's types of neighbour discovery, RFC 4861: without them neither neighbours nor routers are found.
const DISCOVERY: (u8, u8) = (133, 137);
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;

/// Where packets pass.
#[derive(Clone, Copy)]
struct Chain {
    name: &'static [u8],
    /// `NF_INET_LOCAL_IN`, `NF_INET_LOCAL_OUT`.
    hook: u32,
}

/// Sets it up for these interfaces.
pub fn set_up(firewall: &Firewall, nics: &[Nic]) -> Result<(), Failure> {
    let what = || {
        format!(
            "network.firewall {}: setting up nf_tables, which the guest's kernel must have",
            firewall.level
        )
    };
    let mut netlink = Netlink::open_to(SockProtocol::NetlinkNetFilter).at(Network, what)?;
    netlink.batch(messages(firewall, nics)).at(Network, what)
}

fn messages(firewall: &Firewall, nics: &[Nic]) -> Vec<Message> {
    let closed = matches!(firewall.level, Level::Closed | Level::Peers);
    let mut all = vec![batch(BATCH_BEGIN), message(NEW_TABLE, CREATE).with(1, TABLE)];
    all.push(chain(INPUT, DROP));
    all.push(chain(OUTPUT, if closed { DROP } else { ACCEPT }));
    let mut rule = |chain: Chain, matches: Vec<Vec<u8>>| all.push(accept(chain, matches));
    rule(INPUT, meta(IN_INTERFACE, &LO.to_ne_bytes()));
    rule(OUTPUT, meta(OUT_INTERFACE, &LO.to_ne_bytes()));
    if nics.iter().any(|nic| nic.dhcp) {
        rule(INPUT, port(UDP, DHCP_CLIENT, DHCP_CLIENT));
        rule(OUTPUT, port(UDP, DHCP_SERVER, DHCP_SERVER));
    }
    if firewall.level != Level::Closed || nics.iter().any(|nic| nic.slaac) {
        for chain in [INPUT, OUTPUT] {
            rule(chain, transport(ICMPV6, 0, &[DISCOVERY.0], &[DISCOVERY.1]));
        }
    }
    match firewall.level {
        Level::Closed => {}
        Level::Outbound => rule(INPUT, answers()),
        Level::Published => {
            rule(INPUT, answers());
            for OpenPorts { transport, first, last } in &firewall.ports {
                let protocol = match transport {
                    Transport::Tcp => TCP,
                    Transport::Udp => UDP,
                };
                rule(INPUT, port(protocol, *first, *last));
            }
        }
        Level::Peers => {
            for subnet in nics.iter().flat_map(|nic| &nic.addresses) {
                rule(INPUT, address(*subnet, Side::Source));
                rule(OUTPUT, address(*subnet, Side::Destination));
            }
        }
    }
    all.push(batch(BATCH_END));
    all
}

/// A `struct nfgenmsg` that begins or ends what is done as one.
fn batch(kind: u16) -> Message {
    let [high, low] = TABLES.to_be_bytes();
    Message::new(kind, 0, &[0, 0, high, low])
}

fn message(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags, &[INET, 0, 0, 0])
}

fn chain(Chain { name, hook }: Chain, policy: u32) -> Message {
    const PRIORITY: u32 = 0;
    let hook = [number(1, hook), number(2, PRIORITY)].concat();
    message(NEW_CHAIN, CREATE)
        .with(1, TABLE)
        .with(3, name)
        .with(4 | NESTED, &hook)
        .with(5, &policy.to_be_bytes())
        .with(7, b"filter\0")
}

/// What all of `matches` hold for is accepted.
fn accept(chain: Chain, mut matches: Vec<Vec<u8>>) -> Message {
    let verdict = attribute(2 | NESTED, &number(1, ACCEPT));
    matches.push(expression(b"immediate\0", &[number(1, VERDICT), attribute(2 | NESTED, &verdict)]));
    let list: Vec<u8> = matches.iter().flat_map(|one| attribute(1 | NESTED, one)).collect();
    message(NEW_RULE, CREATE | APPEND).with(1, TABLE).with(2, chain.name).with(4 | NESTED, &list)
}

fn expression(name: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
    [attribute(1, name), attribute(2 | NESTED, &attributes.concat())].concat()
}

fn number(kind: u16, number: u32) -> Vec<u8> {
    attribute(kind, &number.to_be_bytes())
}

fn data(kind: u16, bytes: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, &attribute(1, bytes))
}

/// Something about the packet is this.
fn meta(key: u32, value: &[u8]) -> Vec<Vec<u8>> {
    let load = expression(b"meta\0", &[number(1, DATA), number(2, key)]);
    const EQUAL: u32 = 0;
    vec![load, expression(b"cmp\0", &[number(1, DATA), number(2, EQUAL), data(3, value)])]
}

/// It belongs to a connection that was begun from here, or is about one.
fn answers() -> Vec<Vec<u8>> {
    const STATE: u32 = 0;
    const UNEQUAL: u32 = 1;
    let mask = ESTABLISHED_OR_RELATED.to_ne_bytes();
    vec![
        expression(b"ct\0", &[number(1, DATA), number(2, STATE)]),
        expression(
            b"bitwise\0",
            &[number(1, DATA), number(2, DATA), number(3, 4), data(4, &mask), data(5, &[0; 4])],
        ),
        expression(b"cmp\0", &[number(1, DATA), number(2, UNEQUAL), data(3, &[0; 4])]),
    ]
}

/// Some of its bytes are a number in this range.
fn payload(header: u32, offset: u32, from: &[u8], to: &[u8]) -> Vec<Vec<u8>> {
    const WITHIN: u32 = 0;
    let length = u32::try_from(from.len()).unwrap_or(0);
    let load = [number(1, DATA), number(2, header), number(3, offset), number(4, length)];
    let range = [number(1, DATA), number(2, WITHIN), data(3, from), data(4, to)];
    vec![expression(b"payload\0", &load), expression(b"range\0", &range)]
}

/// The same of a protocol's own header.
fn transport(protocol: u8, offset: u32, from: &[u8], to: &[u8]) -> Vec<Vec<u8>> {
    [meta(TRANSPORT, &[protocol]), payload(TRANSPORT_HEADER, offset, from, to)].concat()
}

/// It is to one of these ports, of TCP or UDP.
fn port(protocol: u8, first: u16, last: u16) -> Vec<Vec<u8>> {
    transport(protocol, 2, &first.to_be_bytes(), &last.to_be_bytes())
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// It is from, or to, a machine of this network.
fn address(Subnet { ip, length }: Subnet, side: Side) -> Vec<Vec<u8>> {
    let (version, offset, first, last) = match ip {
        IpAddr::V4(ip) => {
            let (ip, hosts) = (u32::from(ip), u32::MAX.checked_shr(length.into()).unwrap_or(0));
            let offset = match side {
                Side::Source => 12,
                Side::Destination => 16,
            };
            (IPV4, offset, (ip & !hosts).to_be_bytes().to_vec(), (ip | hosts).to_be_bytes().to_vec())
        }
        IpAddr::V6(ip) => {
            let (ip, hosts) = (u128::from(ip), u128::MAX.checked_shr(length.into()).unwrap_or(0));
            let offset = match side {
                Side::Source => 8,
                Side::Destination => 24,
            };
            (IPV6, offset, (ip & !hosts).to_be_bytes().to_vec(), (ip | hosts).to_be_bytes().to_vec())
        }
    };
    [meta(IP_VERSION, &[version]), payload(NETWORK_HEADER, offset, &first, &last)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_as_the_kernel_has_it() {
        let all = meta(TRANSPORT, &[TCP]);
        // NFTA_EXPR_NAME "cmp", NFTA_EXPR_DATA { SREG 1, OP 0, DATA { VALUE 6 } }
        let wanted = [
            &[8, 0, 1, 0][..],
            b"cmp\0",
            &[32, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0, 0],
            &[12, 0, 3, 0x80, 5, 0, 1, 0, 6, 0, 0, 0],
        ];
        assert_eq!(all[1], wanted.concat());
    }

    #[test]
    fn each_level_has_its_rules() {
        let nic = Nic {
            mac: protocol::network::Mac([2; 6]),
            name: "eth0".into(),
            addresses: vec!["10.0.2.15/24".parse().unwrap(), "fec0::15/64".parse().unwrap()],
            routes: vec![],
            dhcp: false,
            slaac: false,
            mtu: None,
            offload: false,
        };
        let ports = vec![OpenPorts { transport: Transport::Tcp, first: 80, last: 81 }];
        let count =
            |level| messages(&Firewall { level, ports: ports.clone() }, std::slice::from_ref(&nic)).len();
        // Begin, table, two chains, lo both ways, end; and neighbours both ways.
        assert_eq!(count(Level::Closed), 7);
        assert_eq!(count(Level::Outbound), 10);
        assert_eq!(count(Level::Published), 11);
        assert_eq!(count(Level::Peers), 13);
    }
}

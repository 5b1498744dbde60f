//! An IPv6 router at the end of a wire: it answers solicitations, neighbours and pings, and pings the guest itself.

use super::wire::End;
use anyhow::{Result, ensure};
use std::net::Ipv6Addr;

const MAC: [u8; 6] = [2, 0, 0, 0, 9, 1];
const ADDRESS: &str = "fe80::9:1";
/// Where things are in a frame: headers of Ethernet and IPv6, and then ICMPv6.
const IP: usize = 14;
const ICMP: usize = IP + 40;
/// Types of ICMPv6.
const ECHO: u8 = 128;
const ECHO_REPLY: u8 = 129;
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// The identifier of our own pings.
const OURS: [u8; 2] = [0xab, 0xcd];

/// What came over the wire.
#[derive(Debug, Default)]
pub struct Seen {
    /// Pings of the guest's, answered.
    pub pings: usize,
    /// Answers of the guest's to ours.
    pub replies: usize,
}

/// Serves until the guest has sent so many pings.
pub fn serve(end: &End, pings: usize) -> Result<Seen> {
    let mut seen = Seen::default();
    while seen.pings < pings {
        for answer in answers(&end.receive()?, &mut seen)? {
            end.send(&answer)?;
        }
    }
    Ok(seen)
}

fn address(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().expect("an address").octets()
}

fn answers(frame: &[u8], seen: &mut Seen) -> Result<Vec<Vec<u8>>> {
    let is_icmp = frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(IP + 6) == Some(&58);
    let (Some(source), Some(message)) = (frame.get(IP + 8..IP + 24), frame.get(ICMP..)) else {
        return Ok(vec![]);
    };
    if !is_icmp {
        return Ok(vec![]); // IPv4's
    }
    let to = |kind: u8, body: &[u8]| packet(&frame[6..12], source, kind, body);
    Ok(match message[0] {
        SOLICITATION => {
            ensure!(message.len() >= 8, "{message:?}");
            vec![packet(&[0x33, 0x33, 0, 0, 0, 1], &address("ff02::1"), ADVERTISEMENT, &advertisement())]
        }
        NEIGHBOUR_SOLICITATION if message.get(8..24) == Some(&address(ADDRESS)) => {
            // We are a router, were asked, and say what is so.
            let body = [&[0xe0, 0, 0, 0][..], &address(ADDRESS), &[2, 1], &MAC].concat();
            vec![to(NEIGHBOUR_ADVERTISEMENT, &body)]
        }
        ECHO => {
            seen.pings += 1;
            // Ours comes first: its answer, if there is one, is here before the guest's next ping.
            vec![to(ECHO, &[OURS, [0, 1]].concat()), to(ECHO_REPLY, &message[4..])]
        }
        ECHO_REPLY if message.get(4..6) == Some(&OURS) => {
            seen.replies += 1;
            vec![]
        }
        _ => vec![],
    })
}

/// For an hour: the default route, a network, two name servers, a domain.
fn advertisement() -> Vec<u8> {
    let hour = 3600u32.to_be_bytes();
    let network = [&[3, 4, 64, 0xc0][..], &hour, &hour, &[0; 4], &address("fd00:9::")].concat();
    let servers = [&[25, 5, 0, 0][..], &hour, &address("fd00:9::53"), &address(ADDRESS)].concat();
    let domains = [&[31, 3, 0, 0][..], &hour, b"\x03lan\x04test\0\0\0\0\0\0\0"].concat();
    let link = [&[1, 1][..], &MAC].concat();
    [&[64, 0, 0x0e, 0x10][..], &[0; 8], &network, &servers, &domains, &link].concat()
}

/// A frame with a message of ICMPv6 from us: its type, code 0, and what is behind the checksum.
fn packet(mac: &[u8], to: &[u8], kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + body.len()).unwrap_or_default().to_be_bytes();
    let from = address(ADDRESS);
    // RFC 8200, section 8.1: the sum is over a header of its own, too.
    let summed = [&from, to, &[0, 0], &length, &[0, 0, 0, 58], &[kind, 0, 0, 0], body].concat();
    let sum = super::dhcp::checksum(&summed).to_be_bytes();
    let header = [&[0x60, 0, 0, 0][..], &length, &[58, 255], &from, to].concat();
    [mac, &MAC, &[0x86, 0xdd], &header, &[kind, 0], &sum, body].concat()
}

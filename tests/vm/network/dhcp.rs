//! A DHCP server at the end of a wire: it speaks Ethernet in datagrams, ARP, and as much IP as it needs.

use super::wire::End;
use anyhow::{Result, ensure};

const SERVER: [u8; 4] = [10, 8, 0, 1];
const CLIENT: [u8; 4] = [10, 8, 0, 7];
const MAC: [u8; 6] = [2, 0, 0, 0, 8, 1];
/// Where things are in a frame: headers of Ethernet, IP (without options) and UDP, and then the packet.
const IP: usize = 14;
const UDP: usize = IP + 20;
const BOOTP: usize = UDP + 8;
const OPTIONS: usize = BOOTP + 240;

/// What the client has done.
#[derive(Debug, Default)]
pub struct Seen {
    /// How it called itself.
    pub hostname: Vec<u8>,
    /// It has asked for more time, from the address that it has.
    pub renewed: bool,
    /// It has given the address back.
    pub released: bool,
    acknowledged: usize,
}

/// Serves until the address is given back.
pub fn serve(end: &End) -> Result<Seen> {
    let mut seen = Seen::default();
    while !seen.released {
        if let Some(answer) = answer(&end.receive()?, &mut seen)? {
            end.send(&answer)?;
        }
    }
    Ok(seen)
}

fn answer(frame: &[u8], seen: &mut Seen) -> Result<Option<Vec<u8>>> {
    match frame.get(12..14) {
        Some([8, 6]) => Ok(arp(frame)),
        Some([8, 0])
            if frame.len() > OPTIONS && frame[IP + 9] == 17 && frame[UDP + 2..UDP + 4] == [0, 67] =>
        {
            dhcp(frame, seen)
        }
        _ => Ok(None), // IPv6's
    }
}

/// Who has our address? We.
fn arp(frame: &[u8]) -> Option<Vec<u8>> {
    let asked = frame.get(38..42)? == SERVER && frame.get(20..22)? == [0, 1];
    let (mac, ip) = (&frame[22..28], &frame[28..32]);
    let reply = [mac, &MAC, &[8, 6], &frame[14..20], &[0, 2], &MAC, &SERVER, mac, ip];
    asked.then(|| reply.concat())
}

fn dhcp(frame: &[u8], seen: &mut Seen) -> Result<Option<Vec<u8>>> {
    let options = &frame[OPTIONS..];
    let has = |address: &[u8]| frame[BOOTP + 12..BOOTP + 16] == *address;
    let kind = match option(options, 53)[..] {
        [1] => 2,
        [3] => {
            if has(&CLIENT) {
                // To us alone, and from where it is.
                ensure!(frame[IP + 16..IP + 20] == SERVER && frame[IP + 12..IP + 16] == CLIENT, "{frame:?}");
                seen.renewed = true;
            } else {
                ensure!(
                    has(&[0; 4]) && option(options, 50) == CLIENT && option(options, 54) == SERVER,
                    "{frame:?}"
                );
            }
            seen.hostname = option(options, 12);
            seen.acknowledged += 1;
            5
        }
        [7] => {
            ensure!(has(&CLIENT) && option(options, 54) == SERVER, "{frame:?}");
            seen.released = true;
            return Ok(None);
        }
        ref other => anyhow::bail!("a message of kind {other:?}"),
    };
    let dns = if seen.acknowledged < 2 { [10, 8, 0, 3] } else { [10, 8, 0, 4] };
    Ok(Some(reply(frame, kind, dns)))
}

fn option(mut options: &[u8], wanted: u8) -> Vec<u8> {
    while let [code, length, rest @ ..] = options {
        if *code == wanted {
            return rest[..usize::from(*length)].to_vec();
        }
        options = &rest[usize::from(*length)..];
    }
    vec![]
}

/// An hour, of which the client asks for more after a second.
fn reply(request: &[u8], kind: u8, dns: [u8; 4]) -> Vec<u8> {
    let mut packet = request[BOOTP..BOOTP + 240].to_vec();
    packet[0] = 2;
    packet[16..20].copy_from_slice(&CLIENT);
    let routes = [0, 10, 8, 0, 1, 16, 10, 9, 10, 8, 0, 2];
    for (code, data) in [
        (53, &[kind][..]),
        (54, &SERVER),
        (51, &3600u32.to_be_bytes()),
        (58, &1u32.to_be_bytes()),
        (59, &3000u32.to_be_bytes()),
        (1, &[255, 255, 255, 0]),
        (121, &routes),
        (6, &dns),
        (15, b"lan.test"),
        (26, &1400u16.to_be_bytes()),
    ] {
        packet.push(code);
        packet.push(u8::try_from(data.len()).unwrap_or_default());
        packet.extend_from_slice(data);
    }
    packet.push(255);
    // As the client asked for: to everyone, or where it is.
    let everyone = request[BOOTP + 10] & 0x80 != 0;
    let (mac, ip) = if everyone {
        ([0xff; 6], [0xff; 4])
    } else {
        (request[6..12].try_into().unwrap_or_default(), CLIENT)
    };
    let length = |of: usize| u16::try_from(of).unwrap_or_default().to_be_bytes();
    let mut header =
        [&[0x45, 0][..], &length(28 + packet.len()), &[0, 0, 0, 0, 64, 17, 0, 0], &SERVER, &ip].concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    // A UDP checksum of zero is none.
    let udp = [&[0, 67, 0, 68][..], &length(8 + packet.len()), &[0, 0]].concat();
    [&mac[..], &MAC, &[8, 0], &header, &udp, &packet].concat()
}

/// RFC 1071.
pub fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default()
}

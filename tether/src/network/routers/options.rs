//! What IPv6 routers tell that the kernel leaves to others: name servers and domains (RFC 8106), in the options of their
//! advertisements.

use std::net::Ipv6Addr;

/// Options' types.
const SERVERS: u8 = 25;
const DOMAINS: u8 = 31;
/// Lengths are in units of so many bytes.
const UNIT: usize = 8;
/// Of both: type, length, two bytes of nothing, seconds.
const HEAD: usize = 8;
const LONGEST_NAME: usize = 253;

/// One thing that a router tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    Server(Ipv6Addr),
    Domain(String),
}

/// The words in `options`, up to one that cannot be, and whether each still holds: a lifetime of zero takes it back.
pub fn parse(mut options: &[u8]) -> Vec<(Word, bool)> {
    let mut words = vec![];
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * UNIT;
        let Some((option, rest)) = options.split_at_checked(length).filter(|_| length > 0) else { break };
        options = rest;
        let Some((head, data)) = option.split_at_checked(HEAD) else { continue };
        let holds = !head.ends_with(&[0; 4]);
        match kind {
            SERVERS => words.extend(servers(data).map(|server| (Word::Server(server), holds))),
            DOMAINS => words.extend(domains(data).into_iter().map(|name| (Word::Domain(name), holds))),
            _ => {}
        }
    }
    words
}

fn servers(data: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    let all = data.as_chunks::<16>().0.iter().map(|octets| Ipv6Addr::from(*octets));
    all.filter(|ip| !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback())
}

/// Names as DNS has them (RFC 1035, section 3.1), one after another, and zeros to the end.
fn domains(mut data: &[u8]) -> Vec<String> {
    let (mut names, mut name) = (vec![], String::new());
    while let Some((length, rest)) = data.split_first() {
        let Some((label, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        data = rest;
        match label {
            [] if name.is_empty() => {}
            [] => names.push(std::mem::take(&mut name)),
            label => {
                // Others' characters would be a line of their own in resolv.conf.
                if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                    break;
                }
                let dot = if name.is_empty() { "" } else { "." };
                name.push_str(dot);
                name.push_str(str::from_utf8(label).unwrap_or_default());
                if name.len() > LONGEST_NAME {
                    break;
                }
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(kind: u8, seconds: u32, data: &[u8]) -> Vec<u8> {
        let units = u8::try_from((HEAD + data.len()).div_ceil(UNIT)).unwrap();
        let mut bytes = [&[kind, units, 0, 0][..], &seconds.to_be_bytes(), data].concat();
        bytes.resize(usize::from(units) * UNIT, 0);
        bytes
    }

    fn server(text: &str) -> Word {
        Word::Server(text.parse().unwrap())
    }

    fn octets(text: &str) -> [u8; 16] {
        text.parse::<Ipv6Addr>().unwrap().octets()
    }

    #[test]
    fn servers_and_domains() {
        let two = [octets("fd00::53"), octets("fe80::1")].concat();
        let names = b"\x03lan\x04test\0\x01x\0";
        let bytes = [
            option(3, 60, &[1; 24]),
            option(SERVERS, 60, &two),
            option(DOMAINS, 60, names),
            option(SERVERS, 0, &octets("fd00::54")),
        ];
        let wanted = [
            (server("fd00::53"), true),
            (server("fe80::1"), true),
            (Word::Domain("lan.test".into()), true),
            (Word::Domain("x".into()), true),
            (server("fd00::54"), false),
        ];
        assert_eq!(parse(&bytes.concat()), wanted);
    }

    #[test]
    fn what_cannot_be_is_left_out() {
        let good = option(SERVERS, 60, &octets("fd00::53"));
        let (long, deep) = ([63; 64], [&[63][..], &[b'a'; 63]].concat().repeat(4));
        let rows: [Vec<u8>; 11] = [
            vec![],
            vec![SERVERS],
            vec![SERVERS, 0, 0, 0, 0, 0, 0, 60],
            vec![SERVERS, 1, 0, 0, 0, 0, 0, 60],
            good[..good.len() - 1].to_vec(),
            option(SERVERS, 60, &octets("ff02::1")),
            option(SERVERS, 60, &octets("::")),
            option(SERVERS, 60, &octets("::1")),
            option(DOMAINS, 60, b"\x03a\nb\0"),
            option(DOMAINS, 60, &long[..]),
            option(DOMAINS, 60, &[&deep[..], &[0]].concat()),
        ];
        for bytes in rows {
            assert_eq!(parse(&bytes), [], "{bytes:?}");
            // What stands before it counts.
            assert_eq!(parse(&[&good[..], &bytes].concat()).len(), 1, "{bytes:?}");
        }
        // What has no end is no name.
        assert_eq!(parse(&option(DOMAINS, 60, b"\x03abc\x03abc")), []);
    }
}

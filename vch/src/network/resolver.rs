//! The host's own resolv.conf(5), as far as containers may have it.

use std::net::IpAddr;

use crate::options::network::is_word;

const PATH: &str = "/etc/resolv.conf";
/// As many as the C library asks.
const MOST_SERVERS: usize = 3;
/// Words of a line that are taken.
const MOST_WORDS: usize = 16;

/// What it says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    servers: Vec<IpAddr>,
    /// Domains to look in.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// The host's. One that cannot be read says nothing.
pub fn of_host() -> Resolver {
    parse(&std::fs::read_to_string(PATH).unwrap_or_default())
}

impl Resolver {
    /// The servers that others than the host reach, too.
    pub fn reachable(&self) -> Vec<IpAddr> {
        self.servers.iter().copied().filter(|ip| !ip.is_loopback()).take(MOST_SERVERS).collect()
    }
}

fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let what = words.next().unwrap_or_default();
        let mut good =
            || words.by_ref().filter(|word| is_word(word)).take(MOST_WORDS).map(str::to_owned).collect();
        match what {
            "nameserver" => resolver.servers.extend(words.next().and_then(|ip| ip.parse::<IpAddr>().ok())),
            // The last one counts.
            "search" | "domain" => resolver.search = good(),
            "options" => {
                let more: Vec<String> = good();
                resolver.options.extend(more);
            }
            _ => {}
        }
    }
    resolver.options.truncate(MOST_WORDS);
    resolver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_taken() {
        let resolver = parse(
            "# nameserver 9.9.9.9\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\n\
             domain old\nsearch a.org b.org\noptions edns0\noptions trust-ad\nsortlist 1.2.3.4\n",
        );
        assert_eq!(resolver.reachable(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(
            (resolver.search, resolver.options),
            (vec!["a.org".into(), "b.org".into()], vec!["edns0".into(), "trust-ad".into()])
        );
        assert_eq!(parse(""), Resolver::default());
    }
}

//! Options of `vch run` about the network and names. Names and meanings are docker's where docker has them.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use clap::Args;
use protocol::network::{Mac, Subnet};

use super::value::whole;
use crate::network::mode::Choice;
use crate::network::publish::{self, Publish, Transport};

/// The network, and what the container calls things.
#[derive(Debug, Clone, Args)]
pub struct NetworkOptions {
    /// Network interface, repeatable: user (QEMU's own, which needs no root), tap=INTERFACE, bridge=NAME, socket=NAME (a wire between two containerVMs), or none; with ,dhcp ,slaac ,ip=ADDRESS/PREFIX ,ip6=ADDRESS/PREFIX ,gw=ADDRESS ,gw6=ADDRESS ,mac=MAC ,mtu=BYTES
    #[arg(long, alias = "net", value_name = "KIND[,OPTION...]", default_value = "user", value_parser = whole(Choice::parse))]
    pub network: Vec<Choice>,

    /// Let others reach a port of the container by one of the host's, a free one if none is given (repeatable; needs the user network)
    #[arg(short = 'p', long, value_name = "[IP:][[PORT]:]PORT[/udp]", value_parser = Publish::parse)]
    pub publish: Vec<Publish>,

    /// Publish every port that the image or --expose names, on free ports of the host
    #[arg(short = 'P', long)]
    pub publish_all: bool,

    /// A port for -P, besides those that the image names (repeatable)
    #[arg(long, value_name = "PORT[/udp]", value_parser = publish::exposed)]
    pub expose: Vec<(Transport, u16, u16)>,

    /// Address of the first interface, as ip= of its --network
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    pub ip: Option<Subnet>,

    /// IPv6 address of the first interface
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    pub ip6: Option<Subnet>,

    /// MAC address of the first interface
    #[arg(long, value_name = "MAC")]
    pub mac_address: Option<Mac>,

    /// What may pass the container's interfaces: open (all), outbound (what begins inside), published (and what comes to the ports of -p, --expose and the image), peers (only machines of its own networks), closed
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "open")]
    pub firewall: Firewall,

    /// Domain name in the container
    #[arg(long, value_name = "NAME")]
    pub domainname: Option<String>,

    /// A line of /etc/hosts (repeatable); host-gateway as address is the host's
    #[arg(long, value_name = "NAME:IP", value_parser = add_host)]
    pub add_host: Vec<(String, Address)>,

    /// Name server (repeatable)
    #[arg(long, value_name = "IP")]
    pub dns: Vec<IpAddr>,

    /// Domain that names without dots are looked up in (repeatable); . for none
    #[arg(long, value_name = "DOMAIN", value_parser = word)]
    pub dns_search: Vec<String>,

    /// An option of resolv.conf (repeatable)
    #[arg(long, alias = "dns-opt", value_name = "OPTION", value_parser = word)]
    pub dns_option: Vec<String>,
}

/// VIC's levels of trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Firewall {
    /// All may pass.
    Open,
    /// Connections that begin inside.
    Outbound,
    /// Those, and to some ports.
    Published,
    /// Those with machines of its own networks.
    Peers,
    /// None.
    Closed,
}

/// What a name of `--add-host` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// `host-gateway`: the host, as the container sees it.
    Host,
    /// This.
    Ip(IpAddr),
}

fn add_host(text: &str) -> Result<(String, Address)> {
    let Some((name, address)) = text.split_once(['=', ':']) else {
        bail!("it is not NAME:IP");
    };
    ensure!(is_word(name) && !name.contains('#'), "{name:?} is not a host's name");
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    match (address, bare.parse()) {
        ("host-gateway", _) => Ok((name.to_owned(), Address::Host)),
        (_, Ok(ip)) => Ok((name.to_owned(), Address::Ip(ip))),
        _ => bail!("{address:?} is neither an IP address nor host-gateway"),
    }
}

fn word(text: &str) -> Result<String> {
    ensure!(is_word(text), "it is not one word");
    Ok(text.to_owned())
}

/// What can stand in a line of resolv.conf or of a hosts file.
pub fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() < 256 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_added_as_docker_takes_them() {
        let ip = |text: &str| Address::Ip(text.parse().unwrap());
        for (text, name, address) in [
            ("db:10.0.0.1", "db", ip("10.0.0.1")),
            ("db=10.0.0.1", "db", ip("10.0.0.1")),
            ("db:::1", "db", ip("::1")),
            ("db:[::1]", "db", ip("::1")),
            ("me.lab:host-gateway", "me.lab", Address::Host),
        ] {
            assert_eq!(add_host(text).unwrap(), (name.to_owned(), address), "{text}");
        }
        for bad in
            ["db", "db:", ":1.2.3.4", "a b:1.2.3.4", "db:1.2.3", "#:1.2.3.4", "a\n:1.2.3.4", "db:gateway"]
        {
            assert!(add_host(bad).is_err(), "{bad:?}");
        }
    }
}

//! What a containerVM's network is: interfaces, known by their MAC address, and what `/etc/hosts`, `/etc/hostname` and
//! `/etc/resolv.conf` say.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The most interfaces that a machine has.
pub const MOST_NICS: usize = 8;
/// The most ranges of ports that a firewall leaves open.
const MOST_PORTS: usize = 512;
/// The longest name of an interface (linux/if.h: `IFNAMSIZ`, less its NUL).
const NAME: usize = 15;
/// The smallest MTU that IPv4 takes (RFC 791), and IPv6 (RFC 8200).
const LEAST_MTU: [u32; 2] = [68, 1280];
/// The largest that Linux gives a virtio interface.
const MOST_MTU: u32 = 65535;

/// `network` of the machine spec. Without interfaces there is `lo` alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// The interfaces besides `lo`; the first one's address is what the machine's own name means.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// What the files in `/etc` say; without it the image's own are seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Names>,
    /// What may pass the interfaces; without it, all may. `lo` is free in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<Firewall>,
}

/// What may pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Firewall {
    /// Which kind of connections.
    pub level: Level,
    /// The ports of [`Level::Published`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<OpenPorts>,
}

/// Kinds of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// Those that begin inside.
    Outbound,
    /// The same, and those to some ports.
    Published,
    /// All with machines in the networks of the interfaces' own addresses, which must be given then.
    Peers,
    /// None.
    Closed,
}

impl std::fmt::Display for Level {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Outbound => "outbound",
            Self::Published => "published",
            Self::Peers => "peers",
            Self::Closed => "closed",
        })
    }
}

/// Ports that can be reached from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OpenPorts {
    /// Of what.
    pub transport: Transport,
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

/// What is on top of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nic {
    /// What it is found by.
    pub mac: Mac,
    /// What it is called in the machine: `eth0`.
    pub name: String,
    /// Its addresses, as `10.0.2.15/24`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Subnet>,
    /// Routes through it, besides those to the networks of its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Whether a DHCP server is asked for an IPv4 address, routes and what `names` leaves open. The container starts when
    /// it has answered.
    #[serde(default)]
    pub dhcp: bool,
    /// Whether IPv6 addresses, routes and what `names` leaves open are taken from routers (SLAAC). The container starts when
    /// there is an address, if it can have no other.
    #[serde(default)]
    pub slaac: bool,
    /// The longest packet, in bytes; else what the interface or DHCP says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Whether the host's end takes packets without checksums, and larger ones than fit: a copy of a template, which was connected to
    /// nothing, finds that out only if it looks anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offload: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Where to: `0.0.0.0/0` and `::/0` are everywhere.
    pub to: Subnet,
    /// The gateway; without one, all of it is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
}

/// What the files in `/etc` that docker writes are made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Names {
    /// Further lines of `/etc/hosts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Host>,
    /// Name servers; without any, those that DHCP and routers tell of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Domains to look in; without any, those that DHCP and routers tell of. `.` alone is none at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Host {
    /// The name.
    pub name: String,
    /// What it means.
    pub ip: IpAddr,
}

/// A MAC address: `02:00:00:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        let whole = mac.iter_mut().all(|byte| {
            let digits = parts
                .next()
                .filter(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).map(|value| *byte = value).is_some()
        });
        if !whole || parts.next().is_some() {
            return Err(format!("{text:?} is not a MAC address: 02:00:00:00:00:01 is one"));
        }
        if mac == [0; 6] || mac.first().is_some_and(|first| first & 1 != 0) {
            return Err(format!("{text} is no interface's MAC address: it is zero, or for several"));
        }
        Ok(Self(mac))
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(out, "{}{byte:02x}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

/// An address and the length of its network's prefix: `10.0.2.15/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    /// The address.
    pub ip: IpAddr,
    /// Bits of it that are its network's.
    pub length: u8,
}

impl std::str::FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an address with its prefix: 10.0.2.15/24 is one");
        let (ip, length) = text.split_once('/').ok_or_else(wrong)?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let short = length.len() < 4 && length.bytes().all(|digit| digit.is_ascii_digit());
        let length = Some(length).filter(|_| short).and_then(|length| length.parse().ok());
        let most = if ip.is_ipv4() { 32 } else { 128 };
        Ok(Self { ip, length: length.filter(|length| *length <= most).ok_or_else(wrong)? })
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.ip, self.length)
    }
}

impl Subnet {
    /// Whether it is IPv4's address of a network as such, or of all in it: no machine's own. (A network of two, RFC 3021, or of
    /// one has neither.)
    fn is_for_all(&self) -> bool {
        let IpAddr::V4(ip) = self.ip else { return false };
        let hosts = u32::MAX.checked_shr(self.length.into()).unwrap_or(0);
        let own = ip.to_bits() & hosts;
        ip.is_broadcast() || (self.length < 31 && (own == 0 || own == hosts))
    }
}

impl Network {
    /// Refuses what the types can say and no machine can be.
    ///
    /// # Errors
    /// One sentence that names the field and its value.
    pub fn check(&self) -> Result<(), String> {
        if self.nics.len() > MOST_NICS {
            return Err(format!("network.nics: {} interfaces, at most {MOST_NICS} fit", self.nics.len()));
        }
        let (mut macs, mut names) = (BTreeSet::new(), BTreeSet::new());
        for (at, nic) in self.nics.iter().enumerate() {
            nic.check().map_err(|why| format!("network.nics[{at}].{why}"))?;
            if !macs.insert(nic.mac) {
                return Err(format!("network.nics[{at}].mac: {} is another one's, too", nic.mac));
            }
            if !names.insert(&nic.name) {
                return Err(format!("network.nics[{at}].name: {} is another one's, too", nic.name));
            }
        }
        if let Some(firewall) = &self.firewall {
            firewall.check(&self.nics).map_err(|why| format!("network.firewall.{why}"))?;
        }
        self.names
            .as_ref()
            .map_or(Ok(()), |names| names.check().map_err(|why| format!("network.names.{why}")))
    }
}

impl Firewall {
    fn check(&self, nics: &[Nic]) -> Result<(), String> {
        if self.ports.len() > MOST_PORTS {
            return Err(format!("ports: {} ranges, at most {MOST_PORTS} fit", self.ports.len()));
        }
        if let Some(OpenPorts { first, last, .. }) = self.ports.iter().find(|range| range.first > range.last)
        {
            return Err(format!("ports: {first} to {last} is no range"));
        }
        if !self.ports.is_empty() && self.level != Level::Published {
            return Err(format!("ports: level {} opens none", self.level));
        }
        match nics.iter().find(|nic| nic.dhcp || nic.slaac) {
            Some(nic) if self.level == Level::Peers => Err(format!(
                "level: who is a peer is told by given addresses, which {} has not (dhcp, slaac)",
                nic.name
            )),
            _ => Ok(()),
        }
    }
}

impl Nic {
    fn check(&self) -> Result<(), String> {
        let Self { name, addresses, routes, .. } = self;
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
        if name.is_empty()
            || name.len() > NAME
            || !name.bytes().all(plain)
            || matches!(&**name, "." | ".." | "lo")
        {
            return Err(format!(
                "name: {name:?} is not an interface's name: at most {NAME} characters, as eth0"
            ));
        }
        for address @ Subnet { ip, .. } in addresses {
            if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
                return Err(format!("addresses: {ip} is no interface's address"));
            }
            if address.is_for_all() {
                return Err(format!("addresses: {address} is the network's own address, or its broadcast's"));
            }
            if self.dhcp && ip.is_ipv4() {
                return Err(format!("addresses: {ip} is given, and dhcp asked for another one"));
            }
        }
        for Route { to, via } in routes {
            if via.is_some_and(|via| via.is_ipv4() != to.ip.is_ipv4()) {
                return Err(format!("routes: {to} is of another IP version than its gateway"));
            }
            if via.is_some_and(|via| via.is_unspecified() || via.is_multicast() || via.is_loopback()) {
                return Err(format!("routes: the gateway to {to} is no router's address"));
            }
        }
        let v6 = self.slaac || addresses.iter().any(|address| address.ip.is_ipv6());
        let [v4_least, v6_least] = LEAST_MTU;
        let least = if v6 { v6_least } else { v4_least };
        match self.mtu {
            Some(mtu) if !(least..=MOST_MTU).contains(&mtu) => {
                let version = if v6 { "IPv6" } else { "IPv4" };
                Err(format!("mtu: {mtu} is not one that {version} can do with: {least} to {MOST_MTU}"))
            }
            _ => Ok(()),
        }
    }
}

impl Names {
    fn check(&self) -> Result<(), String> {
        // A space or a line's end in one of them would be another line's beginning.
        let word = |text: &str| {
            !text.is_empty() && text.len() < 256 && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        for Host { name, .. } in &self.hosts {
            if !word(name) || name.contains('#') {
                return Err(format!("hosts: {name:?} is not a host's name"));
            }
        }
        for (field, words) in [("search", &self.search), ("options", &self.options)] {
            if let Some(bad) = words.iter().find(|text| !word(text)) {
                return Err(format!("{field}: {bad:?} is not one word"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! The container's network: what the guest is told of it, and what the host gives QEMU for it.
//!
//! - [`mode`]: `--network`; [`publish`]: `-p` and the host's ports; [`tap`]: tap interfaces and bridges; [`wire`]: between two
//!   VMs; [`resolver`]: what the host's own resolv.conf says
//!
//! [`machine`] only computes; [`Host::open`] takes ports, interfaces and wires, and holds them. Both give an interface the
//! same MAC address, for it comes from the container's ID.

pub mod backlog;
pub mod mode;
pub mod publish;
pub mod resolver;
pub mod tap;
pub mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use protocol::network::{
    Firewall, Host as HostLine, Level, MOST_NICS, Mac, Names, Network, Nic, OpenPorts, Route, Subnet,
};

use crate::options::network::{self as options, Address, NetworkOptions};
use mode::{Attachment, Choice, Kind};
use publish::{Port, Publish, Reserved, Transport};

/// What QEMU's user network (libslirp) gives its only guest, by default.
const USER_IP: Subnet = Subnet { ip: IpAddr::V4(USER_GUEST), length: 24 };
const USER_GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const USER_HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const USER_DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const USER_IP6: Subnet = Subnet { ip: IpAddr::V6(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0x15)), length: 64 };
const USER_HOST6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);

/// The interfaces that are asked for.
///
/// # Errors
/// They contradict each other.
fn attachments(options: &NetworkOptions) -> Result<Vec<Attachment>> {
    let mut nics = vec![];
    for choice in &options.network {
        match choice {
            Choice::Nic(nic) => nics.push(nic.clone()),
            Choice::None => ensure!(options.network.len() == 1, "--network none is for no interface at all"),
        }
    }
    ensure!(nics.len() <= MOST_NICS, "{} times --network: at most {MOST_NICS} fit", nics.len());
    let users = nics.iter().filter(|nic| nic.kind == Kind::User).count();
    ensure!(users < 2, "--network user: one interface leads to all that another one would");
    if options.ip.is_some() || options.ip6.is_some() || options.mac_address.is_some() {
        let first =
            nics.first_mut().context("--ip, --ip6 and --mac-address are for an interface: there is none")?;
        let twice = [
            ("--ip and ip=", options.ip.is_some() && first.ip.is_some()),
            ("--ip6 and ip6=", options.ip6.is_some() && first.ip6.is_some()),
            ("--mac-address and mac=", options.mac_address.is_some() && first.mac.is_some()),
        ];
        for (names, twice) in twice {
            ensure!(!twice, "{names} of --network say the same: one of them can be given");
        }
        first.ip = options.ip.or(first.ip);
        first.ip6 = options.ip6.or(first.ip6);
        first.mac = options.mac_address.or(first.mac);
        ensure!(
            first.ip.is_none_or(|ip| ip.ip.is_ipv4()),
            "--ip is for an IPv4 address, --ip6 for the other one"
        );
        ensure!(
            first.ip6.is_none_or(|ip| ip.ip.is_ipv6()),
            "--ip6 is for an IPv6 address, --ip for the other one"
        );
        first.check()?;
    }
    Ok(nics)
}

/// A MAC address that no maker gives away, and no other container has: from the container's ID.
fn mac(nic: &Attachment, id: &str, number: usize) -> Mac {
    if let Some(mac) = nic.mac {
        return mac;
    }
    let mut mac = [2; 6];
    for (byte, digits) in mac.iter_mut().skip(1).zip(id.as_bytes().chunks_exact(2)) {
        let digits = str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
    }
    mac[5] ^= u8::try_from(number).unwrap_or_default();
    Mac(mac)
}

/// What the guest is told. `exposed` is the image's list.
///
/// # Errors
/// An option cannot be honoured.
pub fn machine(options: &NetworkOptions, id: &str, exposed: &[String]) -> Result<Network> {
    let attachments = attachments(options)?;
    let nics: Vec<_> = (0..).zip(&attachments).map(|(number, nic)| interface(nic, id, number)).collect();
    let firewall = firewall(options, exposed)?.filter(|_| !nics.is_empty());
    let network = Network { names: Some(names(options, &attachments)?), nics, firewall };
    network.check().map_err(anyhow::Error::msg)?;
    Ok(network)
}

fn firewall(options: &NetworkOptions, exposed: &[String]) -> Result<Option<Firewall>> {
    let level = match options.firewall {
        options::Firewall::Open => return Ok(None),
        options::Firewall::Outbound => Level::Outbound,
        options::Firewall::Published => Level::Published,
        options::Firewall::Peers => Level::Peers,
        options::Firewall::Closed => Level::Closed,
    };
    let mut ports = vec![];
    if level == Level::Published {
        ports.extend(options.publish.iter().map(Publish::container));
        let range = |(transport, first, last)| OpenPorts { transport, first, last };
        ports.extend(options.expose.iter().copied().map(range));
        for port in exposed {
            ports.push(range(of_image(port)?));
        }
    } else if level != Level::Peers && (!options.publish.is_empty() || options.publish_all) {
        bail!("--firewall {level} keeps out what -p and -P let in: published is the level for both");
    }
    Ok(Some(Firewall { level, ports }))
}

fn of_image(port: &str) -> Result<(Transport, u16, u16)> {
    publish::exposed(port).with_context(|| format!("the image's ExposedPorts has {port:?}"))
}

fn interface(attachment: &Attachment, id: &str, number: usize) -> Nic {
    let Attachment { kind, ip, ip6, gw, gw6, mtu, .. } = attachment;
    let outside = matches!(kind, Kind::Tap(_) | Kind::Bridge(_));
    let default = |version: &str, via: IpAddr| version.parse().ok().map(|to| Route { to, via: Some(via) });
    let mut nic = Nic {
        mac: mac(attachment, id, number),
        name: format!("eth{number}"),
        addresses: ip.iter().chain(ip6).copied().collect(),
        routes: vec![],
        dhcp: attachment.dhcp || (outside && attachment.is_plain()),
        slaac: attachment.slaac || (outside && ip6.is_none()),
        mtu: *mtu,
        offload: outside,
    };
    let (mut gw, mut gw6) = (*gw, *gw6);
    if *kind == Kind::User {
        if !nic.dhcp {
            nic.addresses.push(USER_IP);
            gw = Some(USER_HOST);
        }
        // Known beforehand, and so there from the first moment.
        if !nic.slaac {
            nic.addresses.push(USER_IP6);
            gw6 = Some(USER_HOST6);
        }
    }
    nic.routes.extend(gw.and_then(|via| default("0.0.0.0/0", via.into())));
    nic.routes.extend(gw6.and_then(|via| default("::/0", via.into())));
    nic
}

fn names(options: &NetworkOptions, nics: &[Attachment]) -> Result<Names> {
    let user = nics.iter().find(|nic| nic.kind == Kind::User);
    let is_outside = |nic: &Attachment| matches!(nic.kind, Kind::Tap(_) | Kind::Bridge(_));
    let outside = nics.iter().any(is_outside);
    let asks = nics.iter().any(|nic| nic.dhcp || nic.slaac || (is_outside(nic) && nic.is_plain()));
    // What the host knows is right where its network is the container's, unless a server there knows better.
    let host = if (user.is_some() || outside) && !asks {
        resolver::of_host()
    } else {
        resolver::Resolver::default()
    };
    let dns = match user {
        _ if !options.dns.is_empty() => options.dns.clone(),
        Some(user) if !user.dhcp => vec![USER_DNS.into()],
        Some(_) => vec![],
        None => host.reachable(),
    };
    let or_host = |given: &[String], host: Vec<String>| if given.is_empty() { host } else { given.to_vec() };
    let gateway = if user.is_some() { Some(USER_HOST) } else { nics.iter().find_map(|nic| nic.gw) };
    let line = |(name, address): &(String, Address)| -> Result<HostLine> {
        let ip = match (address, gateway) {
            (Address::Ip(ip), _) => *ip,
            (Address::Host, Some(gateway)) => gateway.into(),
            (Address::Host, None) => {
                bail!("--add-host {name}:host-gateway: no --network tells of the host's address")
            }
        };
        Ok(HostLine { name: name.clone(), ip })
    };
    Ok(Names {
        hosts: options.add_host.iter().map(line).collect::<Result<_>>()?,
        dns,
        search: or_host(&options.dns_search, host.search),
        options: or_host(&options.dns_option, host.options),
    })
}

/// What QEMU gets for the interfaces, and what must be held while it has it.
#[derive(Debug, Default)]
pub struct Host {
    devices: Vec<Device>,
    /// Open in QEMU, too.
    inherited: Vec<OwnedFd>,
    /// Ports of the host's.
    reserved: Reserved,
}

/// One interface of QEMU's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What it is connected to: the value of `-netdev`, less its `id`; empty: nothing, as a template's.
    pub backend: String,
    /// Its MAC address.
    pub mac: Mac,
}

impl Host {
    /// Takes what the options ask for. `exposed` is the image's list; `store` has the wires.
    ///
    /// # Errors
    /// It is not there, taken, or not ours to have.
    pub fn open(options: &NetworkOptions, id: &str, exposed: &[String], store: &Path) -> Result<Self> {
        let attachments = attachments(options)?;
        let mut host = Self::default();
        if !options.publish.is_empty() || options.publish_all {
            ensure!(
                attachments.iter().any(|nic| nic.kind == Kind::User),
                "-p and -P need --network user: elsewhere the container has an address that others reach, or none"
            );
            let mut all = options.expose.clone();
            for port in exposed {
                all.push(of_image(port)?);
            }
            let all = if options.publish_all { all } else { vec![] };
            host.reserved = Reserved::take(&options.publish, &all)?;
        }
        for (number, nic) in attachments.iter().enumerate() {
            let backend = match &nic.kind {
                Kind::User => host.user(),
                Kind::Tap(name) => {
                    host.keep(tap::open(name).with_context(|| format!("--network tap={name}"))?)
                }
                Kind::Bridge(name) => {
                    host.keep(tap::in_bridge(name).with_context(|| format!("--network bridge={name}"))?)
                }
                Kind::Socket(name) => {
                    let wire = wire::join(store, name).with_context(|| format!("--network socket={name}"))?;
                    host.inherited.extend(wire.held);
                    wire.backend
                }
            };
            host.devices.push(Device { backend, mac: mac(nic, id, number) });
        }
        Ok(host)
    }

    /// The interfaces.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The descriptors that QEMU inherits.
    pub fn inherited(&self) -> impl Iterator<Item = RawFd> {
        self.inherited.iter().map(AsRawFd::as_raw_fd)
    }

    /// The ports that are published.
    pub fn ports(&self) -> &[Port] {
        &self.reserved.ports
    }

    fn user(&self) -> String {
        let forward = |port: &Port| {
            let Port { ip, host, container, transport } = port;
            format!(",hostfwd={transport}:{ip}:{host}-{USER_GUEST}:{container}")
        };
        self.reserved.ports.iter().map(forward).fold("user".to_owned(), |all, one| all + &one)
    }

    fn keep(&mut self, tap: OwnedFd) -> String {
        let backend = format!("tap,fd={}", tap.as_raw_fd());
        self.inherited.push(tap);
        backend
    }
}

#[cfg(test)]
mod tests;

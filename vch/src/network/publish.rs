//! Published ports: `-p`, `-P`, and the ports of the host that they become.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt,
};
use protocol::network::OpenPorts;
pub use protocol::network::Transport;
use serde::{Deserialize, Serialize};

/// The most ports that one container publishes: each is a socket, here and in QEMU.
const MOST_PORTS: usize = 512;

/// One `-p`. Ranges are from the first port to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    ip: Ipv4Addr,
    /// The host's; without it, free ones.
    host: Option<(u16, u16)>,
    container: (u16, u16),
    transport: Transport,
}

/// A port of the host that leads to one of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Port {
    /// The host's address.
    pub ip: Ipv4Addr,
    /// The host's port.
    pub host: u16,
    /// The container's.
    pub container: u16,
    /// Of which kind both are.
    pub transport: Transport,
}

impl fmt::Display for Port {
    /// As `docker ps` has it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}->{}/{}", self.ip, self.host, self.container, self.transport)
    }
}

impl Publish {
    /// Reads `[IP:][[PORT]:]PORT[/PROTOCOL]`, where a PORT may be a range.
    ///
    /// # Errors
    /// It is none; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let (transport, ports) = transport(text)?;
        if ports.contains('[') || ports.matches(':').count() > 2 {
            bail!("{ports:?}: QEMU forwards from IPv4 addresses only");
        }
        let (host, container) = ports.rsplit_once(':').unwrap_or(("", ports));
        let (ip, host) = match host.rsplit_once(':') {
            Some((ip, host)) => (address(ip)?, host),
            // As docker has it, an address and no port: any port.
            None if host.contains('.') => (address(host)?, ""),
            None => (Ipv4Addr::UNSPECIFIED, host),
        };
        let container = range(container)?;
        let host = (!host.is_empty()).then(|| range(host)).transpose()?;
        if let Some(host) = host {
            let count = |(first, last): (u16, u16)| last - first;
            ensure!(
                count(container) == 0 || count(host) == count(container),
                "{text:?}: the host's range and the container's are not of the same length"
            );
        }
        Ok(Self { ip, host, container, transport })
    }

    /// What of the container it leads to.
    pub fn container(&self) -> OpenPorts {
        let (first, last) = self.container;
        OpenPorts { transport: self.transport, first, last }
    }

    /// Any free port for this one.
    fn any(transport: Transport, container: u16) -> Self {
        Self { ip: Ipv4Addr::UNSPECIFIED, host: None, container: (container, container), transport }
    }
}

/// Reads what an image exposes: a port or a range of them, `80/tcp`.
///
/// # Errors
/// It is none.
pub fn exposed(text: &str) -> Result<(Transport, u16, u16)> {
    let (transport, ports) = transport(text)?;
    let (first, last) = range(ports)?;
    Ok((transport, first, last))
}

fn transport(text: &str) -> Result<(Transport, &str)> {
    let (ports, transport) = text.split_once('/').unwrap_or((text, "tcp"));
    match transport {
        "tcp" => Ok((Transport::Tcp, ports)),
        "udp" => Ok((Transport::Udp, ports)),
        other => bail!("{text:?}: {other:?} is not forwarded, only tcp and udp are"),
    }
}

fn address(text: &str) -> Result<Ipv4Addr> {
    text.parse().with_context(|| format!("{text:?} is not an IPv4 address"))
}

fn range(text: &str) -> Result<(u16, u16)> {
    let port = |text: &str| match text.parse() {
        Ok(port) if port > 0 && text.bytes().all(|digit| digit.is_ascii_digit()) => Ok(port),
        _ => bail!("{text:?} is not a port: 1 to 65535"),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    ensure!(first <= last, "{text:?} is not a range of ports: it ends before it begins");
    Ok((first, last))
}

/// Ports of the host that nobody else takes, as long as this is kept.
///
/// They are bound and not listened on, with `SO_REUSEADDR`: so QEMU, which does the same and then listens, can have them. (A UDP
/// port is only tried: two sockets would share what comes.)
#[derive(Debug, Default)]
pub struct Reserved {
    /// Which they are, and where they lead.
    pub ports: Vec<Port>,
    /// What holds them.
    sockets: Vec<OwnedFd>,
}

impl Reserved {
    /// Takes those that are wanted, and a free one for each of `all` that is not among them.
    ///
    /// # Errors
    /// One is taken, or may not be had.
    pub fn take(wanted: &[Publish], all: &[(Transport, u16, u16)]) -> Result<Self> {
        let mut reserved = Self::default();
        for publish in wanted {
            reserved.add(publish)?;
        }
        for (transport, first, last) in all {
            for port in *first..=*last {
                let has = |there: &Port| there.container == port && there.transport == *transport;
                if !reserved.ports.iter().any(has) {
                    reserved.add(&Publish::any(*transport, port))?;
                }
            }
        }
        Ok(reserved)
    }

    fn add(&mut self, publish: &Publish) -> Result<()> {
        let (first, last) = publish.container;
        for container in first..=last {
            let candidates = match publish.host {
                None => 0..=0,
                // One port of the container's: the first of the host's that is free.
                Some((from, to)) if first == last => from..=to,
                Some((from, _)) => from + (container - first)..=from + (container - first),
            };
            let mut refused = None;
            let mut found = None;
            for host in candidates {
                match self.reserve(publish, host) {
                    Ok(host) => {
                        found = Some(host);
                        break;
                    }
                    Err(why) => refused = Some(why),
                }
            }
            let Some(host) = found else { return Err(refused.context("no port is left")?) };
            ensure!(self.ports.len() < MOST_PORTS, "at most {MOST_PORTS} ports can be published");
            let (ip, transport) = (publish.ip, publish.transport);
            self.ports.push(Port { ip, host, container, transport });
        }
        Ok(())
    }

    fn reserve(&mut self, publish: &Publish, host: u16) -> Result<u16> {
        let Publish { ip, transport, .. } = publish;
        let twice = self.ports.iter().any(|port| {
            let same = port.ip == *ip || port.ip.is_unspecified() || ip.is_unspecified();
            same && port.host == host && port.transport == *transport
        });
        ensure!(!twice, "-p: port {host}/{transport} of the host is asked for twice");
        let (port, socket) = try_port(*ip, host, *transport).map_err(|errno| {
            let why = match errno {
                Errno::EADDRINUSE => "it is taken",
                Errno::EACCES => "ports below 1024 are root's",
                Errno::EADDRNOTAVAIL => "the host has no such address",
                other => other.desc(),
            };
            anyhow::anyhow!("-p: cannot have port {host}/{transport} of {ip}: {why}")
        })?;
        self.sockets.extend(socket);
        Ok(port)
    }
}

fn try_port(ip: Ipv4Addr, port: u16, transport: Transport) -> nix::Result<(u16, Option<OwnedFd>)> {
    let kind = match transport {
        Transport::Tcp => SockType::Stream,
        Transport::Udp => SockType::Datagram,
    };
    let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if transport == Transport::Tcp {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(ip, port)))?;
    let bound: SockaddrIn = getsockname(socket.as_raw_fd())?;
    Ok((bound.port(), (transport == Transport::Tcp).then_some(socket)))
}

#[cfg(test)]
mod tests;

//! What `--network` can be told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};
use protocol::network::{Mac, Subnet};

/// One `--network`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// No interface but `lo`.
    None,
    /// One.
    Nic(Attachment),
}

/// What an interface is connected to, on the host's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// QEMU's own stack, which speaks for the VM with sockets of the host's.
    User,
    /// A tap interface of the host, which someone has made.
    Tap(String),
    /// A new tap in this bridge of the host.
    Bridge(String),
    /// A wire of this name, between two VMs.
    Socket(String),
}

/// An interface, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// What it is connected to.
    pub kind: Kind,
    /// Whether it is to ask a DHCP server.
    pub dhcp: bool,
    /// Whether it is to listen to IPv6 routers.
    pub slaac: bool,
    /// Its IPv4 address.
    pub ip: Option<Subnet>,
    /// Its IPv6 address.
    pub ip6: Option<Subnet>,
    /// The default gateways.
    pub gw: Option<Ipv4Addr>,
    /// The same of IPv6.
    pub gw6: Option<Ipv6Addr>,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// The longest packet, in bytes.
    pub mtu: Option<u32>,
}

/// The longest name of an interface of Linux's.
const NAME: usize = 15;

impl Choice {
    /// Reads `KIND[,OPTION...]`.
    ///
    /// # Errors
    /// It is none; the error says what would be.
    pub fn parse(text: &str) -> Result<Self> {
        let mut words = text.split(',');
        let kind = words.next().unwrap_or_default();
        let (kind, value) = kind.split_once('=').map_or((kind, None), |(kind, value)| (kind, Some(value)));
        let kind = match (kind, value) {
            ("none", None) => {
                ensure!(words.next().is_none(), "none has no options");
                return Ok(Self::None);
            }
            ("user", None) => Kind::User,
            ("tap", Some(name)) => Kind::Tap(interface(name)?),
            ("bridge", Some(name)) => Kind::Bridge(interface(name)?),
            ("socket", Some(name)) => Kind::Socket(wire(name)?),
            ("tap" | "bridge", None) => {
                bail!("{kind} needs the name of an interface of the host: {kind}=NAME")
            }
            ("socket", None) => bail!("socket needs a name that both VMs know the wire by: socket=NAME"),
            ("host", _) => bail!("a containerVM has a network of its own: it cannot have the host's"),
            _ => bail!("there are user, tap=INTERFACE, bridge=NAME, socket=NAME and none"),
        };
        let mut nic = Attachment::new(kind);
        let mut said = vec![];
        for word in words {
            let key = word.split('=').next().unwrap_or_default();
            ensure!(!said.contains(&key), "{word:?}: {key} is said twice");
            said.push(key);
            nic.set(word).with_context(|| format!("{word:?}"))?;
        }
        nic.check()?;
        Ok(Self::Nic(nic))
    }
}

impl Attachment {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            dhcp: false,
            slaac: false,
            ip: None,
            ip6: None,
            gw: None,
            gw6: None,
            mac: None,
            mtu: None,
        }
    }

    fn set(&mut self, word: &str) -> Result<()> {
        match word.split_once('=') {
            None if word == "dhcp" => self.dhcp = true,
            None if word == "slaac" => self.slaac = true,
            Some(("ip", value)) => self.ip = Some(subnet(value, IpAddr::is_ipv4)?),
            Some(("ip6", value)) => self.ip6 = Some(subnet(value, IpAddr::is_ipv6)?),
            Some(("gw", value)) => self.gw = Some(value.parse().context("it is not an IPv4 address")?),
            Some(("gw6", value)) => self.gw6 = Some(value.parse().context("it is not an IPv6 address")?),
            Some(("mac", value)) => self.mac = Some(value.parse().map_err(anyhow::Error::msg)?),
            Some(("mtu", value)) => self.mtu = Some(value.parse().context("it is not a number of bytes")?),
            _ => bail!("there are dhcp, slaac, ip=, ip6=, gw=, gw6=, mac= and mtu="),
        }
        Ok(())
    }

    /// Whether nothing is said of where its addresses come from.
    pub fn is_plain(&self) -> bool {
        !self.dhcp && !self.slaac && self.ip.is_none() && self.ip6.is_none()
    }

    /// Refuses what does not go together.
    ///
    /// # Errors
    /// It says what would.
    pub fn check(&self) -> Result<()> {
        let Self { kind, dhcp, slaac, ip, ip6, gw, gw6, .. } = self;
        if *kind == Kind::User {
            let addressed = ip.is_some() || ip6.is_some() || gw.is_some() || gw6.is_some();
            ensure!(
                !addressed,
                "the user network gives its addresses itself: ip=, ip6=, gw= and gw6= are for others"
            );
        }
        ensure!(!dhcp || ip.is_none(), "dhcp is for an address that ip= does not give");
        ensure!(!dhcp || gw.is_none(), "dhcp tells of the gateway, too: gw= goes with ip=");
        ensure!(gw.is_none() || ip.is_some(), "gw= goes with ip=");
        ensure!(gw6.is_none() || ip6.is_some(), "gw6= goes with ip6=");
        ensure!(!slaac || ip6.is_none(), "slaac is for an address that ip6= does not give");
        if matches!(kind, Kind::Socket(_)) {
            ensure!(
                !self.is_plain(),
                "a wire gives no addresses: ip=ADDRESS/PREFIX, or dhcp or slaac if the other end has a server or router"
            );
        }
        Ok(())
    }
}

fn subnet(text: &str, version: fn(&IpAddr) -> bool) -> Result<Subnet> {
    let subnet: Subnet = text.parse().map_err(anyhow::Error::msg)?;
    ensure!(version(&subnet.ip), "it is of the other IP version");
    Ok(subnet)
}

fn interface(name: &str) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
    let good =
        !name.is_empty() && name.len() <= NAME && name.bytes().all(plain) && name != "." && name != "..";
    ensure!(good, "{name:?} is not the name of an interface");
    Ok(name.to_owned())
}

/// It becomes a file's name.
fn wire(name: &str) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let good =
        name.len() <= 64 && name.bytes().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    ensure!(good, "{name:?} is not a wire's name: letters, digits, - _ and .");
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(text: &str) -> Attachment {
        match Choice::parse(text).unwrap() {
            Choice::Nic(nic) => nic,
            Choice::None => panic!("{text}"),
        }
    }

    #[test]
    fn kinds_and_options() {
        assert_eq!(Choice::parse("none").unwrap(), Choice::None);
        assert_eq!(nic("user"), Attachment::new(Kind::User));
        assert!(nic("user,dhcp").dhcp);
        let all = nic(
            "bridge=br0,ip=10.1.0.5/16,gw=10.1.0.1,ip6=fd00::5/64,gw6=fe80::1,mac=02:00:00:00:00:05,mtu=9000",
        );
        assert_eq!((all.kind, all.gw), (Kind::Bridge("br0".into()), Some([10, 1, 0, 1].into())));
        assert_eq!(
            (all.ip.unwrap().to_string(), all.ip6.unwrap().to_string()),
            ("10.1.0.5/16".into(), "fd00::5/64".into())
        );
        assert_eq!((all.mac, all.mtu), (Some(Mac([2, 0, 0, 0, 0, 5])), Some(9000)));
        assert_eq!(nic("socket=db-1,ip=10.1.0.5/16").kind, Kind::Socket("db-1".into()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, why) in [
            ("", "there are user, tap=INTERFACE"),
            ("bride=x", "there are user, tap=INTERFACE"),
            ("host", "a network of its own"),
            ("none,dhcp", "none has no options"),
            ("bridge", "bridge=NAME"),
            ("tap=", "not the name of an interface"),
            ("tap=../x", "not the name of an interface"),
            ("tap=sixteen-letters-", "not the name of an interface"),
            ("socket", "socket=NAME"),
            ("socket=../x,ip=10.0.0.1/8", "not a wire's name"),
            ("socket=a", "gives no addresses"),
            ("user,ip=10.0.0.1/8", "gives its addresses itself"),
            ("tap=t,ip=10.0.0.1", "is not an address with its prefix"),
            ("tap=t,ip=10.0.0.256/8", "is not an address with its prefix"),
            ("tap=t,ip=::1/8", "other IP version"),
            ("tap=t,ip6=10.0.0.1/8", "other IP version"),
            ("tap=t,dhcp,ip=10.0.0.1/8", "dhcp is for"),
            ("tap=t,gw=10.0.0.1", "gw= goes with ip="),
            ("tap=t,gw=x,ip=10.0.0.1/8", "not an IPv4 address"),
            ("tap=t,mac=01:00:00:00:00:00", "for several"),
            ("tap=t,mtu=big", "number of bytes"),
            ("tap=t,vlan=1", "there are dhcp, slaac"),
            ("socket=y,ip=10.1.1.1/24,ip=10.1.2.1/24", "ip is said twice"),
            ("user,dhcp,dhcp", "dhcp is said twice"),
        ] {
            let error = format!("{:#}", Choice::parse(text).expect_err(text));
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

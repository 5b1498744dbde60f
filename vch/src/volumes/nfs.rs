//! Volumes that are folders of NFS servers: what the user says of one, in docker's words.
//!
//! ```text
//! --driver nfs   --opt device=HOST:/PATH [--opt o=OPTIONS]
//! --driver local --opt type=nfs|nfs4 --opt device=[HOST]:/PATH --opt o=[addr=HOST,]OPTIONS      as docker has it
//! ```
//!
//! The guest's kernel mounts it without a program. So whatever mount.nfs(8) does besides is done here (a name becomes an address, when
//! `vch run` is called), or cannot be had, and is refused by name. Options: nfs(5).

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::parse::size_of_volume;

/// The longest name and path of a server's, in bytes.
const LONGEST: usize = 1024;

/// What a volume's driver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A disk, with its size in bytes if that matters.
    Disk(Option<u64>),
    /// A folder of a server's.
    Nfs(Export),
}

/// A folder of a server's, as the user named it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Export {
    /// `nfs` or `nfs4`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `[HOST]:/PATH`.
    pub device: String,
    /// Options with commas between them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub o: String,
}

/// The same, understood.
#[derive(Debug, PartialEq, Eq)]
struct Parsed<'a> {
    server: &'a str,
    path: &'a str,
    versions: Vec<String>,
    options: Vec<String>,
    readonly: bool,
}

impl Driver {
    /// What `--driver` and `--opt` say.
    ///
    /// # Errors
    /// There is no such driver, or it does not know what it is told.
    pub fn new(driver: Option<&str>, options: &BTreeMap<String, String>) -> Result<Self> {
        let kind = match (driver.unwrap_or("local"), options.get("type").map(String::as_str)) {
            ("local", None) => None,
            ("local" | "nfs", Some(kind @ ("nfs" | "nfs4"))) => Some(kind),
            ("nfs", None) => Some("nfs"),
            ("local" | "nfs", Some(other)) => {
                bail!("volume-opt \"type={other}\" is not supported: nfs and nfs4 are")
            }
            (other, _) => bail!("volume-driver {other:?} is not known: \"local\" and \"nfs\" are"),
        };
        let known: &[&str] = if kind.is_some() { &["type", "device", "o"] } else { &["size"] };
        if let Some((name, value)) = options.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            let of = if kind.is_some() { "of NFS" } else { "that is a disk" };
            bail!(
                "volume-opt \"{name}={value}\" is not supported by a volume {of}: {} are",
                known.join(", ")
            );
        }
        let Some(kind) = kind else {
            return Ok(Self::Disk(options.get("size").map(|text| size_of_volume(text)).transpose()?));
        };
        let device = options.get("device").context("a volume of NFS needs volume-opt=device=HOST:/PATH")?;
        let o = options.get("o").cloned().unwrap_or_default();
        let export = Export { kind: kind.to_owned(), device: device.clone(), o };
        export.parse()?;
        Ok(Self::Nfs(export))
    }
}

impl Export {
    /// What the guest is told. The server's name is looked up now.
    ///
    /// # Errors
    /// The server's name is not known.
    pub fn tell(&self, name: String, destination: String, readonly: bool) -> Result<protocol::Nfs> {
        let Parsed { server, path, versions, options, readonly: all } = self.parse()?;
        let server = address(server).with_context(|| format!("volume {name}"))?;
        let (path, readonly) = (path.to_owned(), readonly || all);
        Ok(protocol::Nfs { name, server, path, versions, options, destination, readonly, subpath: None })
    }

    fn parse(&self) -> Result<Parsed<'_>> {
        let device = &self.device;
        ensure!(device.len() <= LONGEST, "device is longer than {LONGEST} bytes");
        ensure!(self.o.len() <= LONGEST, "o is longer than {LONGEST} bytes");
        let bad = || format!("device {device:?} is not HOST:/PATH, nor [IPv6]:/PATH");
        let (host, path) = device.split_once(":/").with_context(bad)?;
        let path = &device[device.len() - path.len() - 1..];
        ensure!(!path.contains(char::is_control), "device {device:?} holds a control character");
        let mut parsed = Parsed { server: host, path, versions: vec![], options: vec![], readonly: false };
        for option in self.o.split(',').filter(|_| !self.o.is_empty()) {
            parsed.take(option).with_context(|| format!("NFS option {option:?}"))?;
        }
        parsed.check(&self.kind)?;
        let inner = parsed.server.strip_prefix('[').and_then(|server| server.strip_suffix(']'));
        parsed.server = inner.unwrap_or(parsed.server);
        let good = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        ensure!(
            !parsed.server.is_empty(),
            "device {device:?} names no server: HOST:/PATH, or addr=HOST in o"
        );
        ensure!(parsed.server.chars().all(good), "{:?} is no name or address of a server", parsed.server);
        Ok(parsed)
    }
}

/// What the value of an option is.
#[derive(Clone, Copy)]
enum Value {
    None,
    Number(u32, u32),
    Words(&'static [&'static str]),
    Address,
}

const MOST: u32 = u32::MAX;
/// Options that are handed on.
const KNOWN: &[(&str, Value)] = &[
    ("hard", Value::None),
    ("soft", Value::None),
    ("softerr", Value::None),
    ("ac", Value::None),
    ("noac", Value::None),
    ("cto", Value::None),
    ("nocto", Value::None),
    ("nolock", Value::None),
    ("resvport", Value::None),
    ("noresvport", Value::None),
    ("sharecache", Value::None),
    ("nosharecache", Value::None),
    ("rdirplus", Value::None),
    ("nordirplus", Value::None),
    ("noatime", Value::None),
    ("relatime", Value::None),
    ("strictatime", Value::None),
    ("nodiratime", Value::None),
    ("noexec", Value::None),
    ("exec", Value::None),
    ("nosuid", Value::None),
    ("suid", Value::None),
    ("nodev", Value::None),
    ("dev", Value::None),
    ("sync", Value::None),
    ("async", Value::None),
    ("timeo", Value::Number(1, 86_400)),
    ("retrans", Value::Number(0, 86_400)),
    ("rsize", Value::Number(1024, MOST)),
    ("wsize", Value::Number(1024, MOST)),
    ("port", Value::Number(1, 65_535)),
    ("mountport", Value::Number(1, 65_535)),
    ("nconnect", Value::Number(1, 16)),
    ("acregmin", Value::Number(0, MOST)),
    ("acregmax", Value::Number(0, MOST)),
    ("acdirmin", Value::Number(0, MOST)),
    ("acdirmax", Value::Number(0, MOST)),
    ("actimeo", Value::Number(0, MOST)),
    ("proto", Value::Words(&["tcp", "tcp6"])),
    ("mountproto", Value::Words(&["tcp", "tcp6"])),
    ("sec", Value::Words(&["sys"])),
    ("lookupcache", Value::Words(&["all", "none", "pos", "positive"])),
    ("local_lock", Value::Words(&["none", "all", "flock", "posix"])),
    ("clientaddr", Value::Address),
];
/// Options that are not, and why: a row's names have spaces between them.
const REFUSED: &[(&str, &str)] = &[
    ("intr nointr", "it has had no effect since Linux 2.6.25; leave it out"),
    ("bg fg retry", "a server has 30 s to answer; leave it out"),
    ("udp", "the kernel speaks it by TCP only"),
    (
        "lock",
        "there is no rpc.statd in a containerVM: nolock keeps locks to it alone, and version 4 has locks without",
    ),
    ("fsc", "there is no cachefilesd in a containerVM; leave it out"),
    ("_netdev auto noauto nofail", "it is for fstab(5); leave it out"),
];

impl<'a> Parsed<'a> {
    fn take(&mut self, option: &'a str) -> Result<()> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("ro", None) => self.readonly = true,
            ("rw", None) => self.readonly = false,
            ("addr", Some(server)) => {
                ensure!(
                    self.server.is_empty() || self.server == server,
                    "the server is {:?} already, by device",
                    self.server
                );
                self.server = server;
            }
            ("vers" | "nfsvers", Some(version)) => self.versions = versions(version)?,
            ("minorversion", Some(minor)) => self.versions = versions(&format!("4.{minor}"))?,
            ("tcp", None) => self.options.push("proto=tcp".into()),
            _ => {
                let Some((_, kind)) = KNOWN.iter().find(|(known, _)| *known == name) else {
                    let why = REFUSED.iter().find(|(names, _)| names.split(' ').any(|known| known == name));
                    bail!("{}", why.map_or("it is not supported", |(_, why)| why));
                };
                kind.check(value)?;
                self.options.push(option.to_owned());
            }
        }
        Ok(())
    }

    /// What does not go together.
    fn check(&mut self, kind: &str) -> Result<()> {
        if self.versions.is_empty() {
            self.versions = versions("4")?;
        }
        let is_3 = self.versions == ["3"];
        ensure!(!(is_3 && kind == "nfs4"), "type=nfs4 and vers=3 contradict each other");
        let has = |name: &str| self.options.iter().any(|option| option.split('=').next() == Some(name));
        if is_3 {
            ensure!(
                has("nolock"),
                "vers=3 needs nolock: there is no rpc.statd in a containerVM, and locks are kept to it alone"
            );
            // As mount.nfs has it where nothing is said: the kernel's own is UDP.
            let protocol = if has("mountproto") { &[][..] } else { &["mountproto=tcp"] };
            self.options.extend(protocol.iter().map(ToString::to_string));
        } else if let Some(name) = ["mountport", "mountproto"].into_iter().find(|name| has(name)) {
            bail!("NFS option {name:?} is for vers=3");
        }
        Ok(())
    }
}

impl Value {
    fn check(self, value: Option<&str>) -> Result<()> {
        match (self, value) {
            (Self::None, None) => Ok(()),
            (Self::None, Some(_)) => bail!("it has no value"),
            (_, None) => bail!("it needs a value"),
            (Self::Number(least, most), Some(text)) => {
                let good = |number: &u32| (least..=most).contains(number);
                let number = text.parse().ok().filter(good).filter(|_| !text.starts_with('+'));
                ensure!(number.is_some(), "it is a number from {least} to {most}");
                Ok(())
            }
            (Self::Words(words), Some(text)) => {
                ensure!(words.contains(&text), "{} can be had", words.join(" "));
                Ok(())
            }
            (Self::Address, Some(text)) => text.parse::<IpAddr>().map(drop).context("it is no IP address"),
        }
    }
}

/// The versions to be tried.
fn versions(text: &str) -> Result<Vec<String>> {
    let versions: &[&str] = match text {
        "4" => &["4.2", "4.1", "4.0"],
        "4.0" | "4.1" | "4.2" | "3" => &[text],
        _ => bail!("there are 3, 4, 4.0, 4.1 and 4.2"),
    };
    Ok(versions.iter().map(ToString::to_string).collect())
}

fn address(server: &str) -> Result<IpAddr> {
    let found: Vec<_> = match server.parse() {
        Ok(address) => vec![address],
        Err(_) => {
            let found = (server, 0).to_socket_addrs();
            found
                .with_context(|| format!("cannot find the NFS server {server:?}"))?
                .map(|at| at.ip())
                .collect()
        }
    };
    let best = found.iter().find(|address| address.is_ipv4()).or(found.first());
    let best = best.with_context(|| format!("the NFS server {server:?} has no address"))?;
    ensure!(
        !best.is_loopback() && !best.is_unspecified(),
        "the NFS server {server:?} is {best}, which in a containerVM is itself: by --network user it reaches this host as 10.0.2.2"
    );
    Ok(*best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(name: Option<&str>, options: &[(&str, &str)]) -> Result<Driver> {
        let options = options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Driver::new(name, &options)
    }

    fn told(device: &str, o: &str) -> Result<protocol::Nfs> {
        match driver(Some("nfs"), &[("device", device), ("o", o)])? {
            Driver::Nfs(export) => export.tell("n".into(), "/d".into(), false),
            Driver::Disk(_) => panic!("a disk"),
        }
    }

    #[test]
    fn what_is_understood() {
        let nfs = told("10.0.2.2:/srv/a:b", "").unwrap();
        assert_eq!((nfs.server, &*nfs.path, nfs.readonly), ([10, 0, 2, 2].into(), "/srv/a:b", false));
        assert_eq!(nfs.versions, ["4.2", "4.1", "4.0"]);
        let nfs = told("[fd00::1]:/", "vers=4.1,ro,soft,timeo=50,port=2050,rsize=65536,noatime").unwrap();
        assert_eq!((nfs.server, &*nfs.path, nfs.readonly), ("fd00::1".parse().unwrap(), "/", true));
        assert_eq!(nfs.versions, ["4.1"]);
        assert_eq!(nfs.options, ["soft", "timeo=50", "port=2050", "rsize=65536", "noatime"]);
        // As docker's users have it.
        let docker = [("type", "nfs"), ("o", "addr=192.168.1.1,rw,nfsvers=3,nolock"), ("device", ":/export")];
        let Driver::Nfs(export) = driver(Some("local"), &docker).unwrap() else { panic!("a disk") };
        let nfs = export.tell("n".into(), "/d".into(), true).unwrap();
        assert_eq!((nfs.server, &*nfs.path, nfs.readonly), ([192, 168, 1, 1].into(), "/export", true));
        assert_eq!(nfs.versions, ["3"]);
        assert_eq!(nfs.options, ["nolock", "mountproto=tcp"]);
        assert_eq!(driver(None, &[("size", "1g")]).unwrap(), Driver::Disk(Some(1 << 30)));
        assert_eq!(driver(Some("local"), &[]).unwrap(), Driver::Disk(None));
    }

    #[test]
    fn what_is_refused() {
        for (device, o, why) in [
            ("", "", "is not HOST:/PATH"),
            ("host", "", "is not HOST:/PATH"),
            ("host:path", "", "is not HOST:/PATH"),
            (":/path", "", "names no server"),
            (":/path", "addr=", "names no server"),
            ("a b:/path", "", "no name or address"),
            ("h,port=1:/path", "", "no name or address"),
            ("10.0.0.1:/a\nb", "", "control character"),
            ("10.0.0.1:/a", "addr=10.0.0.2", "\"10.0.0.1\" already"),
            ("localhost:/a", "", "10.0.2.2"),
            ("127.0.0.1:/a", "", "10.0.2.2"),
            ("no-such-host.invalid:/a", "", "cannot find the NFS server"),
            ("10.0.0.1:/a", "vers=2", "there are 3, 4"),
            ("10.0.0.1:/a", "vers=3", "needs nolock"),
            ("10.0.0.1:/a", "minorversion=9", "there are 3, 4"),
            ("10.0.0.1:/a", "mountport=5", "is for vers=3"),
            ("10.0.0.1:/a", "ro,,rw", "NFS option \"\""),
            ("10.0.0.1:/a", "intr", "no effect since"),
            ("10.0.0.1:/a", "lock", "rpc.statd"),
            ("10.0.0.1:/a", "proto=udp", "tcp tcp6 can be had"),
            ("10.0.0.1:/a", "udp", "TCP only"),
            ("10.0.0.1:/a", "sec=krb5", "sys can be had"),
            ("10.0.0.1:/a", "timeo=0", "a number from 1"),
            ("10.0.0.1:/a", "rsize=1k", "a number from 1024"),
            ("10.0.0.1:/a", "soft=1", "has no value"),
            ("10.0.0.1:/a", "port", "needs a value"),
            ("10.0.0.1:/a", "clientaddr=host", "no IP address"),
            ("10.0.0.1:/a", "context=system_u:object_r:x_t", "not supported"),
            ("10.0.0.1:/a", &"x".repeat(2000), "longer than"),
        ] {
            let error = format!("{:#}", told(device, o).expect_err(o));
            assert!(error.contains(why), "{device:?} {o:?}: {error}");
        }
        for (name, options, why) in [
            (Some("rexray"), &[][..], "volume-driver \"rexray\""),
            (Some("nfs"), &[][..], "needs volume-opt=device"),
            (Some("nfs"), &[("type", "cifs")][..], "\"type=cifs\""),
            (None, &[("type", "tmpfs")][..], "\"type=tmpfs\""),
            (None, &[("device", "h:/p")][..], "\"device=h:/p\" is not supported by a volume that is a disk"),
            (
                Some("nfs"),
                &[("device", "h:/p"), ("size", "1g")][..],
                "\"size=1g\" is not supported by a volume of NFS",
            ),
            (
                Some("local"),
                &[("type", "nfs4"), ("device", "h:/p"), ("o", "vers=3,nolock")][..],
                "contradict",
            ),
        ] {
            let error = format!("{:#}", driver(name, options).expect_err(why));
            assert!(error.contains(why), "{name:?} {options:?}: {error}");
        }
    }
}

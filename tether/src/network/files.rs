//! `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`: on a small filesystem of tether's, mounted over the image's own, so that
//! the container may write to them, but neither the image nor the scratch disk has them. As docker does it.

use crate::failure::{Context, Failure};
use crate::mounts;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use protocol::MachineSpec;
use protocol::Stage::Network;
use protocol::network::{Host, Names};
use protocol::oci::Spec;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::fmt::Write;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where they are, in tether's own root and in the container's.
const FOLDER: &str = "/etc";
const HOSTS: &str = "/etc/hosts";
const HOSTNAME: &str = "/etc/hostname";
const RESOLVER: &str = "/etc/resolv.conf";

/// What every hosts file begins with: docker's.
const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                     ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
/// Symbolic links that are followed to a file that is not there.
const LINKS: usize = 8;

/// What is known of the network besides the names in the spec.
pub struct Known {
    /// The machine's own addresses.
    pub own: Vec<IpAddr>,
    /// What DHCP and routers told.
    pub dns: Vec<String>,
    pub search: Vec<String>,
}

/// The files' contents; a file without any is the image's own.
#[derive(PartialEq, Eq)]
pub struct Files([(&'static str, Option<String>); 3]);

impl Files {
    /// Puts them together.
    pub fn compose(names: &Names, config: &Spec, known: &Known) -> Self {
        Self([
            (HOSTS, Some(hosts(names, config, &known.own))),
            (HOSTNAME, config.hostname.as_ref().map(|name| format!("{name}\n"))),
            (RESOLVER, Some(resolver(names, known))),
        ])
    }

    /// Makes the filesystem for them.
    pub fn make_room() -> Result<(), Failure> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        fs::create_dir(FOLDER).at(Network, || format!("making {FOLDER}"))?;
        mount(Some("tmpfs"), FOLDER, Some("tmpfs"), flags, Some("mode=755,size=1m"))
            .at(Network, || format!("mounting a tmpfs on {FOLDER}"))
    }

    /// Writes those that are not as `before`, in their place: the container has them mounted.
    pub fn write(&self, before: Option<&Self>) -> Result<(), Failure> {
        for (at, (path, text)) in self.0.iter().enumerate() {
            if let Some(text) = text
                && before.and_then(|before| before.0.get(at)) != Some(&(*path, Some(text.clone())))
            {
                // The container has it, too, and may have a lease on it: whoever waits for that is PID 1.
                let mut open = OpenOptions::new();
                open.write(true).create(true).truncate(true).custom_flags(libc::O_NONBLOCK);
                open.open(path)
                    .and_then(|mut file| file.write_all(text.as_bytes()))
                    .at(Network, || format!("writing {path}"))?;
            }
        }
        Ok(())
    }
}

/// The lines of docker's file: what every machine knows, what the user adds, and the machine itself.
fn hosts(names: &Names, config: &Spec, own: &[IpAddr]) -> String {
    let mut text = LOCAL.to_owned();
    for Host { name, ip } in &names.hosts {
        let _infallible = writeln!(text, "{ip}\t{name}");
    }
    let Some(name) = &config.hostname else { return text };
    let whole = match &config.domainname {
        Some(domain) => format!("{name}.{domain}"),
        None => name.clone(),
    };
    let short = name.split('.').next().unwrap_or_default();
    let alias = if short == whole { String::new() } else { format!(" {short}") };
    // A machine with no address of its own is still itself.
    let none = [IpAddr::from([127, 0, 0, 1])];
    for ip in if own.is_empty() { &none } else { own } {
        let _infallible = writeln!(text, "{ip}\t{whole}{alias}");
    }
    text
}

fn resolver(names: &Names, known: &Known) -> String {
    let mut text = String::new();
    let given: Vec<_> = names.dns.iter().map(IpAddr::to_string).collect();
    for server in if given.is_empty() { &known.dns } else { &given } {
        let _infallible = writeln!(text, "nameserver {server}");
    }
    let search = if names.search.is_empty() { &known.search } else { &names.search };
    for (what, words) in [("search", search), ("options", &names.options)] {
        let words = words.join(" ");
        if !words.is_empty() && words != "." {
            let _infallible = writeln!(text, "{what} {words}");
        }
    }
    text
}

/// The files, on their way into the container's root.
pub struct Mounts(Vec<(&'static str, OwnedFd)>);

impl Mounts {
    /// Takes hold of those that were written, in the container's mount namespace and before its root is the only one. What
    /// the machine spec mounts there itself is left to it.
    pub fn open(machine: &MachineSpec) -> Result<Self, Failure> {
        let MachineSpec { config, network, volumes, shares, .. } = machine;
        let mounts = config.mounts.iter().map(|mount| &mount.destination);
        let theirs = mounts
            .chain(volumes.iter().map(|volume| &volume.destination))
            .chain(shares.iter().map(|share| &share.destination));
        let theirs: Vec<&String> = theirs.collect();
        let mut mounts = vec![];
        for path in [HOSTS, HOSTNAME, RESOLVER] {
            if network.names.is_none()
                || theirs.iter().any(|theirs| *theirs == path)
                || !Path::new(path).exists()
            {
                continue;
            }
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = open_tree(rustix::fs::CWD, path, flags).map_err(errno);
            mounts.push((path, tree.at(Network, || format!("taking hold of {path}"))?));
        }
        Ok(Self(mounts))
    }

    /// All.
    pub fn all(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.iter().map(|(_, tree)| tree)
    }

    /// Mounts them over what the image has, wherever a symbolic link leads: `/` is the container's root. They are as read-only as
    /// that.
    pub fn attach(self, readonly: bool) -> Result<(), Failure> {
        self.0.into_iter().try_for_each(|(path, tree)| {
            match attach(&tree, path) {
                Err(Errno::ENOENT) => make_file(path).and_then(|()| attach(&tree, path)),
                result => result,
            }
            .and_then(|()| if readonly { mounts::remount_read_only(path) } else { Ok(()) })
            .at(Network, || format!("mounting {path}"))
        })
    }
}

fn attach(tree: &OwnedFd, path: &str) -> nix::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(tree.as_fd(), "", rustix::fs::CWD, path, flags).map_err(errno)
}

/// Makes an empty file to mount on, where `path` leads.
fn make_file(path: &str) -> nix::Result<()> {
    let mut path = PathBuf::from(path);
    for _ in 0..LINKS {
        let Ok(link) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(link);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    mounts::make_folder(folder).map_err(of_io)?;
    match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        result => result.map(drop).map_err(of_io),
    }
}

fn of_io(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hostname: &str, domain: Option<&str>) -> Spec {
        Spec { hostname: Some(hostname.into()), domainname: domain.map(str::to_owned), ..Spec::default() }
    }

    #[test]
    fn a_machine_knows_itself() {
        let names = Names {
            hosts: vec![Host { name: "db".into(), ip: "10.9.9.9".parse().unwrap() }],
            ..Names::default()
        };
        let own: Vec<IpAddr> = ["10.0.2.15", "fec0::15"].map(|ip| ip.parse().unwrap()).to_vec();
        let lines = |config, own: &[IpAddr]| {
            let text = hosts(&names, &config, own);
            text.strip_prefix(LOCAL).unwrap().to_owned()
        };
        assert_eq!(lines(config("web", None), &own), "10.9.9.9\tdb\n10.0.2.15\tweb\nfec0::15\tweb\n");
        assert_eq!(lines(config("web", Some("lab")), &own[..1]), "10.9.9.9\tdb\n10.0.2.15\tweb.lab web\n");
        assert_eq!(lines(config("web.lab", None), &[]), "10.9.9.9\tdb\n127.0.0.1\tweb.lab web\n");
        assert_eq!(lines(Spec::default(), &own), "10.9.9.9\tdb\n");
    }

    #[test]
    fn the_user_comes_before_dhcp() {
        let known = Known { own: vec![], dns: vec!["10.0.0.3".parse().unwrap()], search: vec!["lab".into()] };
        assert_eq!(resolver(&Names::default(), &known), "nameserver 10.0.0.3\nsearch lab\n");
        let names = Names {
            dns: vec!["1.1.1.1".parse().unwrap(), "::1".parse().unwrap()],
            search: vec!["a.org".into(), "b".into()],
            options: vec!["ndots:2".into(), "rotate".into()],
            ..Names::default()
        };
        let wanted = "nameserver 1.1.1.1\nnameserver ::1\nsearch a.org b\noptions ndots:2 rotate\n";
        assert_eq!(resolver(&names, &known), wanted);
        let none = Names { search: vec![".".into()], ..Names::default() };
        assert_eq!(resolver(&none, &known), "nameserver 10.0.0.3\n");
    }
}

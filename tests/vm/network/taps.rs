//! Interfaces of the host's: a tap, and a bridge. They need root.

use crate::harness::{run, shell};
use anyhow::{Context, Result, ensure};
use std::process::Command;
use vch::network::mode::Choice;

/// Gone with the value.
struct Interface {
    name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Tap,
    Bridge,
}

impl Interface {
    /// Makes it, with an address, and up.
    fn make(kind: Kind, name: &'static str, address: &str) -> Result<Self> {
        match kind {
            Kind::Tap => busybox(&["tunctl", "-t", name])?,
            Kind::Bridge => busybox(&["brctl", "addbr", name])?,
        }
        let made = Self { name, kind };
        busybox(&["ip", "addr", "add", address, "dev", name])?;
        busybox(&["ip", "link", "set", name, "up"])?;
        Ok(made)
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        let _ = busybox(&["ip", "link", "set", self.name, "down"]);
        let _ = match self.kind {
            Kind::Tap => busybox(&["tunctl", "-d", self.name]),
            Kind::Bridge => busybox(&["brctl", "delbr", self.name]),
        };
    }
}

fn busybox(arguments: &[&str]) -> Result<()> {
    let output = Command::new("/bin/busybox").args(arguments).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Whether they can be made here.
pub fn can_be_made() -> Result<()> {
    let made = Interface::make(Kind::Tap, "vcht-try", "10.66.64.1/24").context("no tap can be made");
    made.and_then(|_| {
        Interface::make(Kind::Bridge, "vchb-try", "10.66.65.1/24").context("no bridge can be made")
    })
    .map(drop)
}

/// One machine with both reaches the host by both, also when it goes on from a template; a tap is one machine's. What goes through them needs no
/// checksums: `VIRTIO_NET_F_CSUM` is feature 0, which the template's interfaces, connected to nothing, do not have.
pub fn tap_and_bridge() -> Result<()> {
    let _tap = Interface::make(Kind::Tap, "vcht-test", "10.66.66.1/24")?;
    let _bridge = Interface::make(Kind::Bridge, "vchb-test", "10.66.67.1/24")?;
    let mut options = shell(
        "for to in 10.66.66.1 10.66.67.1; do ping -c 1 -W 300 $to | grep -c '1 packets received'; done; ip route | grep default
        cut -c 1 /sys/class/net/eth0/device/features /sys/class/net/eth1/device/features",
    );
    let networks = ["tap=vcht-test,ip=10.66.66.2/24", "bridge=vchb-test,ip=10.66.67.2/24,gw=10.66.67.1"];
    options.network.network = networks.into_iter().map(Choice::parse).collect::<Result<_>>()?;
    let out = "1\n1\ndefault via 10.66.67.1 dev eth1  metric 1 \n1\n1\n";
    run(&options)?.gives(out)?;
    options.template.from_template = Some(vch::options::template::Choice::Auto);
    run(&options)?.gives(out)
}

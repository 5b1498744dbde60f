//! The machine's network: interfaces, known by their MAC address and set up by netlink, DHCP leases, and the files in `/etc`
//! that tell of it.
//!
//! - [`netlink`]: the kernel's messages; [`links`]: interfaces, addresses, routes
//! - [`dhcp`]: the client as a state machine; [`leases`]: its sockets and timers
//! - [`routers`]: what IPv6 routers tell
//! - [`firewall`]: what may pass
//! - [`files`]: `/etc/hosts` and its like

pub mod dhcp;
pub mod files;
mod firewall;
mod leases;
mod links;
mod netlink;
mod routers;

use crate::failure::{Context, Failure};
use crate::uevents::{self, DEADLINE};
use crate::{modules, namespaces, power};
use files::{Files, Known};
use leases::Leases;
use links::{Link, Way};
use netlink::Netlink;
use protocol::oci::NamespaceKind;
use protocol::{MachineSpec, Stage};
use routers::Routers;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

/// The network, as far as it goes on after the start.
pub struct Network {
    leases: Option<Leases>,
    routers: Option<Routers>,
    files: Option<Files>,
}

/// Loads the modules for interfaces, and for a firewall if there is to be one.
pub fn load_modules(machine: &MachineSpec) -> Result<(), Failure> {
    machine.network.firewall.as_ref().map_or(Ok(()), |_| modules::load_firewall())?;
    modules::load_network()
}

/// Gives these interfaces the MAC addresses that the machine's NICs are to have, in their order: a copy's have the template's.
pub fn take_addresses(machine: &MachineSpec, names: &[String]) -> Result<(), Failure> {
    let mut netlink = Netlink::open().at(Stage::Network, || "opening a netlink socket")?;
    let links = links::list(&mut netlink)?;
    for (nic, name) in machine.network.nics.iter().zip(names) {
        if let Some(link) = links.iter().find(|link| link.name == *name) {
            links::set_mac(&mut netlink, link.index, nic.mac)
                .at(Stage::Network, || format!("giving {name} the MAC address {}", nic.mac))?;
        }
    }
    Ok(())
}

/// Brings these interfaces up, and down again: their queues have room for what comes from then on. Addresses that they got by it are gone
/// again.
pub fn fill_queues(names: &[String]) -> Result<(), Failure> {
    let mut netlink = Netlink::open().at(Stage::Network, || "opening a netlink socket")?;
    let links = links::list(&mut netlink)?;
    for link in links.iter().filter(|link| names.contains(&link.name)) {
        links::set_up(&mut netlink, link.index, true)
            .and_then(|()| links::set_up(&mut netlink, link.index, false))
            .at(Stage::Network, || format!("bringing {} up and down", link.name))?;
    }
    Ok(())
}

impl Network {
    /// Sets up the interfaces, and begins to ask DHCP servers.
    pub fn begin(machine: &MachineSpec) -> Result<Self, Failure> {
        let network = &machine.network;
        network.check().map_err(|why| Failure::new(Stage::Network, why))?;
        if !network.nics.is_empty() && namespaces::wants(&machine.config, NamespaceKind::Network) {
            let why = "network.nics: the interfaces are the VM's, and \"network\" in linux.namespaces keeps the container \
                       from them: leave out one of both";
            return Err(Failure::new(Stage::Network, why));
        }
        let (mut leases, mut routers) = (None, None);
        if !network.nics.is_empty() {
            network.firewall.as_ref().map_or(Ok(()), |firewall| firewall::set_up(firewall, &network.nics))?;
            let mut netlink = Netlink::open().at(Stage::Network, || "opening a netlink socket")?;
            let mut links = wait_for_links(&mut netlink, machine)?;
            if network.nics.iter().any(|nic| nic.slaac) {
                routers = Some(Routers::listen()?);
            }
            for (rank, nic) in (0..).zip(&network.nics) {
                let index = links::bring_up(&mut netlink, &mut links, nic)?;
                let way = Way { index, rank };
                if let Some(routers) = routers.as_mut().filter(|_| nic.slaac) {
                    routers.add(nic, index);
                }
                for address in &nic.addresses {
                    links::add_address(&mut netlink, index, *address)
                        .at(Stage::Network, || format!("{}: adding address {address}", nic.name))?;
                }
                for route in &nic.routes {
                    links::add_route(&mut netlink, way, route, false).at(Stage::Network, || {
                        format!("{}: adding a route to {}{}", nic.name, route.to, by(route.via))
                    })?;
                }
                if nic.dhcp {
                    let leases = match &mut leases {
                        Some(leases) => leases,
                        none => none.insert(Leases::new()?),
                    };
                    leases.ask(nic, way, machine.config.hostname.as_deref())?;
                }
            }
        }
        Ok(Self { leases, routers, files: None })
    }

    /// Waits for what the container needs of it, and writes the files.
    pub fn finish(&mut self, machine: &MachineSpec) -> Result<(), Failure> {
        if let Some(leases) = &mut self.leases {
            leases.wait()?;
        }
        if let Some(routers) = &mut self.routers {
            routers.wait()?;
        }
        if machine.network.names.is_some() {
            Files::make_room()?;
        }
        self.write_files(machine)
    }

    /// Readable when there is something to [do](Self::serve) about leases; none if there never is.
    pub fn leases(&self) -> Option<BorrowedFd<'_>> {
        self.leases.as_ref().map(Leases::fd)
    }

    /// The same about IPv6 routers.
    pub fn routers(&self) -> Option<BorrowedFd<'_>> {
        self.routers.as_ref().map(Routers::fd)
    }

    /// Does what has to be done by now. What goes wrong is only said: the container runs.
    pub fn serve(&mut self, machine: &MachineSpec) {
        let leased = self.leases.as_mut().is_some_and(Leases::serve);
        let routed = self.routers.as_mut().is_some_and(Routers::serve);
        if (leased || routed)
            && let Err(failure) = self.write_files(machine)
        {
            power::say(&failure.to_string());
        }
    }

    /// Gives leases back: the machine ends.
    pub fn release(&mut self) {
        if let Some(leases) = &mut self.leases {
            leases.release();
        }
    }

    fn write_files(&mut self, machine: &MachineSpec) -> Result<(), Failure> {
        let MachineSpec { config, network, .. } = machine;
        let Some(names) = &network.names else { return Ok(()) };
        let (mut dns, mut search) = (vec![], vec![]);
        if let Some(leases) = &self.leases {
            dns.extend(leases.dns().iter().map(IpAddr::to_string));
            search.extend(leases.search());
        }
        if let Some(routers) = &self.routers {
            dns.extend(routers.dns());
            search.extend(routers.search().cloned());
        }
        let files = Files::compose(names, config, &Known { own: self.own_addresses(machine), dns, search });
        files.write(self.files.as_ref())?;
        self.files = Some(files);
        Ok(())
    }

    /// Those of the first interface that has any, one of each version.
    fn own_addresses(&self, machine: &MachineSpec) -> Vec<IpAddr> {
        let leased = |name: &str| self.leases.as_ref().and_then(|leases| leases.address(name));
        let routed = |name: &str| self.routers.as_ref().and_then(|routers| routers.address(name));
        let of_nic = |nic: &protocol::network::Nic| {
            let all = || nic.addresses.iter().map(|address| address.ip);
            let v4 = all().find(IpAddr::is_ipv4).or_else(|| leased(&nic.name));
            let v6 = all().find(IpAddr::is_ipv6).or_else(|| routed(&nic.name));
            v4.into_iter().chain(v6).collect::<Vec<_>>()
        };
        machine.network.nics.iter().map(of_nic).find(|own| !own.is_empty()).unwrap_or_default()
    }
}

fn by(via: Option<IpAddr>) -> String {
    via.map_or_else(String::new, |via| format!(" by {via}"))
}

/// All interfaces, once those that the machine shall have are there.
fn wait_for_links(netlink: &mut Netlink, machine: &MachineSpec) -> Result<Vec<Link>, Failure> {
    let mut seen = vec![];
    let missing = |seen: &[Link]| {
        let mut nics = machine.network.nics.iter();
        nics.find(|nic| links::position(seen, nic.mac).is_none()).cloned()
    };
    let found = uevents::wait_for(|| {
        seen = links::list(netlink)?;
        Ok(missing(&seen).is_none().then_some(()))
    })?;
    match (found, missing(&seen)) {
        (None, Some(nic)) => {
            let there: Vec<_> = seen.iter().map(|link| link.name.as_str()).collect();
            Err(Failure::new(
                Stage::Network,
                format!(
                    "no network interface with the MAC address {} ({}) within {} s; those that are there: {}",
                    nic.mac,
                    nic.name,
                    DEADLINE.as_secs(),
                    there.join(", ")
                ),
            ))
        }
        _ => Ok(seen),
    }
}

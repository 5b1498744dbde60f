//! DHCP clients at work: their sockets, their timers, and what their leases make of the interfaces.
//!
//! A client speaks UDP from 0.0.0.0 through its interface alone, and asks for answers to everyone, so that it needs no raw
//! packets. (A server that answers to the offered address in spite of that is not heard.)

use super::dhcp::packet::{LARGEST, Lease};
use super::dhcp::{Client, Order};
use super::links::{self, Way};
use super::netlink::Netlink;
use crate::failure::{Context, Failure};
use crate::power;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use protocol::Stage::Network;
use protocol::network::Nic;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the first answer of a DHCP server may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// Packets that are read at once.
const AT_ONCE: usize = 16;
const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;

/// All clients of a machine.
pub struct Leases {
    epoll: Epoll,
    all: Vec<Leased>,
}

/// One interface's.
struct Leased {
    nic: Nic,
    way: Way,
    client: Client,
    socket: UdpSocket,
    timer: TimerFd,
    lease: Option<Lease>,
}

impl Leases {
    /// None, yet.
    pub fn new() -> Result<Self, Failure> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).at(Network, || "making an epoll")?;
        Ok(Self { epoll, all: vec![] })
    }

    /// Begins to ask for one.
    pub fn ask(&mut self, nic: &Nic, way: Way, hostname: Option<&str>) -> Result<(), Failure> {
        let what = || format!("asking for an address of {} by DHCP", nic.name);
        let socket = open_socket(&nic.name).at(Network, what)?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags).at(Network, what)?;
        for fd in [socket.as_fd(), timer.as_fd()] {
            self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0)).at(Network, what)?;
        }
        let client = Client::new(nic.mac.0, hostname.map(str::to_owned), random().at(Network, what)?, now());
        let mut leased = Leased { nic: nic.clone(), way, client, socket, timer, lease: None };
        leased.serve()?;
        self.all.push(leased);
        Ok(())
    }

    /// Readable when there is something to do.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Waits until each interface has its first lease.
    pub fn wait(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + DEADLINE;
        while let Some(waiting) = self.all.iter().find(|leased| leased.lease.is_none()) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::new(
                    Network,
                    format!(
                        "no DHCP server has given an address to {} (MAC address {}) within {} s",
                        waiting.nic.name,
                        waiting.nic.mac,
                        DEADLINE.as_secs()
                    ),
                ));
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _event = poll(&mut [PollFd::new(self.fd(), PollFlags::POLLIN)], timeout);
            self.all.iter_mut().try_for_each(Leased::serve)?;
        }
        Ok(())
    }

    /// Does what there is to do; says whether a lease has changed. What goes wrong is only said: the container runs.
    pub fn serve(&mut self) -> bool {
        let mut changed = false;
        for leased in &mut self.all {
            let before = leased.lease.clone();
            if let Err(failure) = leased.serve() {
                power::say(&failure.to_string());
            }
            changed |= before != leased.lease;
        }
        changed
    }

    /// Gives all addresses back.
    pub fn release(&mut self) {
        for leased in &mut self.all {
            if let Some(order) = leased.client.release() {
                let _best_effort = leased.obey(order);
            }
        }
    }

    /// Name servers that they tell of, domains, and the address of each interface.
    pub fn dns(&self) -> Vec<IpAddr> {
        self.leases().flat_map(|lease| lease.dns.iter().copied()).collect()
    }

    /// Domains to look in.
    pub fn search(&self) -> Vec<String> {
        self.leases().flat_map(|lease| lease.search.iter().cloned()).collect()
    }

    /// The address of the interface of that name.
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        let leased = self.all.iter().find(|leased| leased.nic.name == name)?;
        leased.lease.as_ref().map(|lease| lease.subnet.ip)
    }

    fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.all.iter().filter_map(|leased| leased.lease.as_ref())
    }
}

impl Leased {
    fn serve(&mut self) -> Result<(), Failure> {
        // Only wakes us: what is due the client knows.
        let mut expired = [0; 8];
        let _none_yet = nix::unistd::read(&self.timer, &mut expired);
        let orders = self.client.tick(now());
        orders.into_iter().try_for_each(|order| self.obey(order))?;
        let mut packet = [0; LARGEST];
        for _ in 0..AT_ONCE {
            // Without one, or with an error such as a network that is down for now, there is nothing to read.
            let Ok(length) = self.socket.recv(&mut packet) else { break };
            let orders = self.client.receive(now(), packet.get(..length).unwrap_or_default());
            orders.into_iter().try_for_each(|order| self.obey(order))?;
        }
        self.set_timer()
    }

    fn set_timer(&self) -> Result<(), Failure> {
        // An absolute time of zero would stop it; one that has passed rings at once.
        let at = TimeSpec::from_duration(Duration::from_millis(self.client.next().max(1)));
        self.timer
            .set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .at(Network, || format!("setting the timer of {}'s lease", self.nic.name))
    }

    fn obey(&mut self, order: Order) -> Result<(), Failure> {
        match order {
            Order::Send(to, bytes) => {
                // It is said again if nobody answers.
                let _lost = self.socket.send_to(&bytes, (to, SERVER_PORT));
                Ok(())
            }
            Order::Take(lease) => self.take(Some(lease)),
            Order::Drop => self.take(None),
        }
    }

    /// Makes the interface what the new lease says, in the place of the old one.
    fn take(&mut self, new: Option<Lease>) -> Result<(), Failure> {
        let mut netlink = Netlink::open().at(Network, || "opening a netlink socket")?;
        let (way, name) = (self.way, &self.nic.name);
        let old = std::mem::replace(&mut self.lease, new);
        let (old, new) = (old.as_ref(), self.lease.as_ref());
        let subnet = |lease: Option<&Lease>| lease.map(|lease| lease.subnet);
        let routes = |lease: Option<&Lease>| lease.map(|lease| lease.routes.clone()).unwrap_or_default();
        let (old_routes, new_routes) = (routes(old), routes(new));
        for gone in old_routes.iter().filter(|route| !new_routes.contains(route)) {
            let _gone = links::remove_route(&mut netlink, way, gone);
        }
        let kept = subnet(old) == subnet(new);
        if let Some(gone) = subnet(old).filter(|_| !kept) {
            let _gone = links::remove_address(&mut netlink, way.index, gone);
        }
        let Some(lease) = new else { return Ok(()) };
        let said =
            |what: &dyn std::fmt::Display| format!("{name}: {what}, as DHCP server {} says", lease.server);
        if let Some(mtu) =
            lease.mtu.filter(|mtu| self.nic.mtu.is_none() && old.and_then(|old| old.mtu) != Some(*mtu))
        {
            links::set_mtu(&mut netlink, way.index, mtu)
                .at(Network, || said(&format_args!("setting the MTU to {mtu}")))?;
        }
        if !kept {
            links::add_address(&mut netlink, way.index, lease.subnet)
                .at(Network, || said(&format_args!("adding address {}", lease.subnet)))?;
        }
        // Removing an address takes routes with it.
        for route in new_routes.iter().filter(|route| !kept || !old_routes.contains(route)) {
            let far = route.via.is_some_and(|via| !links::holds(lease.subnet, via));
            links::add_route(&mut netlink, way, route, far)
                .at(Network, || said(&format_args!("adding a route to {}", route.to)))?;
        }
        Ok(())
    }
}

/// A UDP socket that knows only this interface.
fn open_socket(interface: &str) -> nix::Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&socket, sockopt::BindToDevice, &interface.into())?;
    setsockopt(&socket, sockopt::Broadcast, &true)?;
    let all = SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT));
    bind(socket.as_raw_fd(), &all)?;
    Ok(socket.into())
}

/// Milliseconds of a clock that goes on while the machine stands still.
fn now() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or(0, |now| u64::try_from(Duration::from(now).as_millis()).unwrap_or(u64::MAX))
}

fn random() -> nix::Result<u32> {
    let mut bytes = [0; 4];
    let file = std::fs::File::open("/dev/urandom");
    file.and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    Ok(u32::from_ne_bytes(bytes))
}

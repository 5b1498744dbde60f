//! Kernel events about devices that come and go, so that waiting for one needs no polling.

use crate::failure::{Context, Failure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use protocol::Stage;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a device may take to appear.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The kernel's multicast group of uevents (NETLINK_KOBJECT_UEVENT).
const KERNEL_GROUP: u32 = 1;

/// Calls `look` until it finds something: now, and after each event, until [`DEADLINE`] has passed.
pub fn wait_for<T>(mut look: impl FnMut() -> Result<Option<T>, Failure>) -> Result<Option<T>, Failure> {
    match look()? {
        // It mostly is there, and nothing needs to be listened to.
        Some(found) => Ok(Some(found)),
        None => Uevents::open()?.wait_for(look),
    }
}

/// A socket on which the kernel tells of devices.
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Listens from now on.
    pub fn open() -> Result<Self, Failure> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )
        .at(Stage::Boot, || "opening the socket of device events")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))
            .at(Stage::Boot, || "listening for device events")?;
        Ok(Self(socket))
    }

    /// To be polled.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The next event, if one has come: fields that each end with NUL, `NAME=VALUE` from the second on.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        loop {
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(length) => return buffer.get(..length),
                // Some were lost: what has come is still there.
                Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Calls `look` until it finds something: now, and after each event, until [`DEADLINE`] has passed.
    pub fn wait_for<T>(
        &self,
        mut look: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, Failure> {
        let end = Instant::now() + DEADLINE;
        loop {
            self.drain();
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _event = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout);
        }
    }

    /// Events only say that it is worth looking again: what they tell is not read.
    pub fn drain(&self) {
        let mut event = [0; 4096];
        while self.receive(&mut event).is_some() {}
    }
}

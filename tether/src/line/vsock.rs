//! A vsock connection to the host (CID 2), on the port that is this machine's own CID: so two machines of a host never meet.
//!
//! Anyone in the machine may dial that port. So each connection begins with a key that tether has made up before anything
//! else runs here, and that the host has known since the first connection.

use super::Got;
use crate::failure::{Context, Failure};
use crate::uevents::{DEADLINE, Uevents};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, VsockAddr, connect, getsockopt, recv, send, socket, sockopt,
};
use protocol::Stage::Channel;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// As the kernel shows a socket device's kind.
pub const VIRTIO_ID: &str = "0x0013";

const DEVICE: &str = "/dev/vsock";
/// How long to wait after a call that nobody took; it grows.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How long a call may ring.
const RINGING: Duration = Duration::from_secs(10);
/// How long the host may owe an answer at first before it is dialled anew.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// How long the host may say nothing before it is dialled anew: vhost-device-vsock 0.3.0 does not tell that a host is gone
/// which had not read all.
const SILENCE: Duration = Duration::from_secs(20);
/// How long to try at first, when the host must be there.
const FIRST_CALL: Duration = Duration::from_secs(60);

nix::ioctl_read_bad!(
    /// This machine's CID (include/uapi/linux/vm_sockets.h; the number has neither size nor direction in it).
    local_cid,
    0x7b9,
    u32
);

/// The connection, or what is done to get it.
pub struct Vsock {
    port: u32,
    key: [u8; 16],
    state: State,
    wait: Duration,
    /// Why the last call was not taken.
    trouble: Option<Errno>,
}

enum State {
    /// To be dialled then.
    Down(Instant),
    /// Until then at most.
    Dialling(OwnedFd, Instant),
    /// And when the host said something last.
    Up(OwnedFd, Instant),
}

impl Vsock {
    /// Waits for the device, and until the host has taken the call.
    pub fn open(events: &Uevents) -> Result<Self, Failure> {
        let device = events.wait_for(|| match File::open(DEVICE) {
            Err(_) => Ok(None),
            Ok(device) => Ok(Some(device)),
        })?;
        let device = device
            .ok_or_else(|| Failure::new(Channel, format!("no {DEVICE} within {} s", DEADLINE.as_secs())))?;
        let mut port = 0;
        // SAFETY: the kernel writes a u32, which `port` is and outlives the call.
        unsafe { local_cid(device.as_raw_fd(), &raw mut port) }
            .at(Channel, || "asking /dev/vsock for this machine's CID")?;
        let mut key = [0; 16];
        // SAFETY: the kernel writes at most as many bytes as `key` has.
        let got = unsafe { libc::getrandom(key.as_mut_ptr().cast(), key.len(), 0) };
        Errno::result(got).at(Channel, || "making up a key")?;
        let state = State::Down(Instant::now());
        let mut vsock = Self { port, key, state, wait: FIRST_WAIT, trouble: None };
        vsock.connect()?;
        Ok(vsock)
    }

    fn connect(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + FIRST_CALL;
        loop {
            self.turn();
            let now = Instant::now();
            let until = self.due().min(end).saturating_duration_since(now);
            let timeout = PollTimeout::try_from(until).unwrap_or(PollTimeout::ZERO);
            let mut fds: Vec<_> =
                self.fd().map(|fd| PollFd::new(fd, PollFlags::POLLOUT)).into_iter().collect();
            let _interrupted = poll(&mut fds, timeout);
            drop(fds);
            if self.read(&mut []) == Got::NewLine {
                return Ok(());
            }
            if now >= end {
                let port = self.port;
                let what = format!("vsock: dialling CID 2, port {port}, for {} s", FIRST_CALL.as_secs());
                return Err(Failure::system(Channel, what, self.trouble.unwrap_or(Errno::ETIMEDOUT)));
            }
        }
    }

    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Down(_) => None,
            State::Dialling(socket, _) | State::Up(socket, _) => Some(socket.as_fd()),
        }
    }

    pub fn is_dialling(&self) -> bool {
        matches!(self.state, State::Dialling(..))
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up(..))
    }

    pub fn due(&self) -> Instant {
        match self.state {
            State::Down(until) | State::Dialling(_, until) => until,
            State::Up(_, heard) => heard + SILENCE,
        }
    }

    /// Dials, or gives up a call or a line, if it is time to. Says whether there is another socket than before.
    pub fn turn(&mut self) -> bool {
        let now = Instant::now();
        if now < self.due() {
            return false;
        }
        if !matches!(self.state, State::Down(_)) {
            self.lose(Errno::ETIMEDOUT);
            return true;
        }
        match dial(self.port) {
            Ok(socket) => self.state = State::Dialling(socket, now + RINGING),
            Err(errno) => self.lose(errno),
        }
        true
    }

    /// Reads what has come; while dialling, looks what has come of that.
    pub fn read(&mut self, bytes: &mut [u8]) -> Got {
        match &mut self.state {
            State::Down(_) => Got::Nothing,
            State::Dialling(socket, _) => match taken(socket, &self.key) {
                Ok(false) => Got::Nothing,
                Ok(true) => self.up(),
                Err(errno) => {
                    self.lose(errno);
                    Got::Lost
                }
            },
            State::Up(socket, heard) => match recv(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(count) if count > 0 => {
                    *heard = Instant::now();
                    Got::Bytes(count)
                }
                Err(Errno::EAGAIN | Errno::EINTR) => Got::Nothing,
                result => {
                    self.lose(result.err().unwrap_or(Errno::EPIPE));
                    Got::Lost
                }
            },
        }
    }

    /// Writes as much as it takes. That the line is gone will be read.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let State::Up(socket, _) = &self.state else { return 0 };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(socket.as_raw_fd(), bytes, flags).unwrap_or(0)
    }

    fn up(&mut self) -> Got {
        let now = Instant::now();
        if let State::Dialling(socket, _) = std::mem::replace(&mut self.state, State::Down(now)) {
            self.state = State::Up(socket, now);
        }
        self.wait = FIRST_WAIT;
        Got::NewLine
    }

    /// Hangs up, to dial again.
    pub fn hang_up(&mut self) {
        self.lose(Errno::ETIMEDOUT);
    }

    fn lose(&mut self, why: Errno) {
        self.trouble = Some(why);
        self.state = State::Down(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }
}

fn dial(port: u32) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_HOST, port)) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// Whether the call was taken; then the host has the key.
fn taken(socket: &OwnedFd, key: &[u8]) -> Result<bool, Errno> {
    match getsockopt(socket, sockopt::SocketError)? {
        0 => {}
        number => return Err(Errno::from_raw(number)),
    }
    match send(socket.as_raw_fd(), key, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
        Ok(count) if count == key.len() => Ok(true),
        Err(Errno::ENOTCONN | Errno::EAGAIN | Errno::EINTR) => Ok(false),
        // There is room for it in any new connection.
        Ok(_) => Err(Errno::EMSGSIZE),
        Err(errno) => Err(errno),
    }
}

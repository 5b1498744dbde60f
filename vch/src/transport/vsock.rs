//! vsock: the guest dials the host, CID 2, at the port that is its own CID.
//!
//! Whatever runs in the guest may dial that port, and behind the kernel's vhost other guests and processes of the host, too. So
//! the first 16 bytes of each connection are a key, which tether makes up. It makes the first connection before anything else
//! runs in the guest: that one's key is the right one, and is kept in the container's folder. A connection with the key takes
//! the place of the one before; what has another is dropped. What a container can do is to keep the host busy with calls.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, VsockAddr, bind, getpeername, listen, recv, send,
    socket,
};
use serde::{Deserialize, Serialize};

use super::{Arrival, helper};
use crate::containers::sockets;

/// The kernel's device for the host's end.
const DEVICE: &str = "/dev/vhost-vsock";
/// The key's file in the container's folder.
const KEY_FILE: &str = "channel.key";
const KEY: usize = 16;
/// What the helper's sockets in the folder begin with, by its convention: `NAME_PORT` is where a call to that port arrives.
pub const NAME: &str = "vsock";
/// How many callers may be without a key at once; the oldest of more is dropped.
const MOST_CALLERS: usize = 8;
/// How long the guest may take to dial again.
const REDIAL: Duration = Duration::from_secs(120);

nix::ioctl_write_ptr!(
    /// Gives the device's guest its CID; the host has each only once (linux/vhost.h).
    set_guest_cid,
    0xaf,
    0x60,
    u64
);

/// Who is at the host's end of the guest's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vhost {
    /// The kernel.
    Kernel,
    /// The program vhost-device-vsock.
    Helper,
}

impl Vhost {
    /// The kernel where it has the device and lets us have it, else the helper.
    ///
    /// # Errors
    /// The host has neither.
    pub fn find() -> Result<Self> {
        if Self::Kernel.check().is_ok() {
            Ok(Self::Kernel)
        } else {
            Self::Helper.check().map(|()| Self::Helper)
        }
    }

    /// Whether the host has it.
    ///
    /// # Errors
    /// It has not; the error says how to get one.
    pub fn check(self) -> Result<()> {
        let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
        match (self, opened) {
            (Self::Kernel, Ok(_)) => Ok(()),
            (Self::Helper, _) if helper::program().is_some() => Ok(()),
            (_, opened) => {
                let why = opened.err().map_or_else(String::new, |error| format!("{error}; "));
                bail!(
                    "--channel vsock needs {DEVICE} ({why}`modprobe vhost_vsock` makes it), or the program {0}: \
                     `cargo install --locked {0}` gets it",
                    helper::PROGRAM
                )
            }
        }
    }
}

/// An address for a guest: not one of the few that mean something, and below 2^31.
///
/// # Errors
/// There are no random numbers.
pub fn cid() -> Result<u32> {
    let random = u32::from_be_bytes(crate::random::bytes().context("cannot read random numbers")?);
    Ok(random >> 1 | 1 << 16)
}

/// The kernel's device, for the guest with this address.
///
/// # Errors
/// Another guest has it; the system's.
pub fn device(cid: u32) -> Result<File> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE);
    let device = device.with_context(|| format!("cannot open {DEVICE}"))?;
    // SAFETY: the kernel reads a u64, which outlives the call.
    unsafe { set_guest_cid(device.as_raw_fd(), &u64::from(cid)) }
        .with_context(|| format!("cannot give a guest the vsock address {cid}"))?;
    Ok(device)
}

/// The folder of the sockets and the key.
#[derive(Debug)]
pub enum Folder {
    /// A container's, which others look into.
    Kept(PathBuf),
    /// One that goes with the line.
    Temporary(PathBuf),
}

impl Folder {
    /// A new one.
    ///
    /// # Errors
    /// The system's.
    pub fn temporary() -> Result<Self> {
        let id = crate::random::id().context("cannot read random numbers")?;
        let path = std::env::temp_dir().join(format!("vch-{}", id.get(..16).unwrap_or(&id)));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self::Temporary(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        let (Self::Kept(path) | Self::Temporary(path)) = self;
        path
    }

    fn key(&self) -> Result<Option<[u8; KEY]>> {
        let mut key = [0; KEY];
        match File::open(self.path().join(KEY_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.and_then(|mut file| file.read_exact(&mut key)).map(|()| Some(key)),
        }
        .with_context(|| format!("cannot read {}", self.path().join(KEY_FILE).display()))
    }

    /// Before anything is said to the guest, so before anything but tether runs there.
    /// There is no guest yet: a key that is there is of the one before.
    ///
    /// # Errors
    /// The system's.
    pub fn forget_key(&self) -> Result<()> {
        let path = self.path().join(KEY_FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn keep(&self, key: &[u8; KEY]) -> Result<()> {
        let path = self.path().join(KEY_FILE);
        let pending = self.path().join(".channel.key");
        let write = || {
            OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&pending)?
                .write_all(key)?;
            fs::rename(&pending, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Self::Temporary(path) = self {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Where the guest's calls arrive, and the one that was taken.
#[derive(Debug)]
pub struct Doors {
    folder: Folder,
    /// Behind the kernel, whose calls are taken.
    only: Option<u32>,
    listener: OwnedFd,
    key: Option<[u8; KEY]>,
    line: Option<OwnedFd>,
    callers: Vec<Caller>,
    /// When a line that was lost must be there again.
    deadline: Option<Instant>,
}

/// One that has not shown all of its key.
#[derive(Debug)]
struct Caller {
    socket: OwnedFd,
    shown: Vec<u8>,
}

impl Doors {
    /// Listens for calls of the guest with this address.
    ///
    /// # Errors
    /// The system's.
    pub fn open(folder: Folder, cid: u32, vhost: Vhost) -> Result<Self> {
        let listener = match vhost {
            Vhost::Kernel => listen_behind_the_kernel(cid).context("cannot listen for vsock calls")?,
            Vhost::Helper => {
                let listener = sockets::listen(folder.path(), &format!("{NAME}_{cid}"))?;
                listener.set_nonblocking(true)?;
                listener.into()
            }
        };
        let key = folder.key()?;
        // A guest whose key is known has a line that was lost with the last monitor.
        let deadline = key.is_some().then(|| Instant::now() + REDIAL);
        let only = (vhost == Vhost::Kernel).then_some(cid);
        Ok(Self { folder, only, listener, key, line: None, callers: vec![], deadline })
    }

    /// The line, if there is one.
    pub fn line(&self) -> Option<BorrowedFd<'_>> {
        self.line.as_ref().map(AsFd::as_fd)
    }

    /// What may become the line.
    pub fn others(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let callers = self.callers.iter().map(|caller| caller.socket.as_fd());
        [self.listener.as_fd()].into_iter().chain(callers)
    }

    /// When there must be a line again.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Lets callers in, and reads what has come.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&mut self, chunk: &mut [u8]) -> Result<Arrival> {
        self.let_in()?;
        if let Some(line) = self.with_key()? {
            self.line = Some(line);
            self.deadline = None;
            return Ok(Arrival::Came);
        }
        let Some(line) = &self.line else { return Ok(Arrival::Nothing) };
        match recv(line.as_raw_fd(), chunk, MsgFlags::MSG_DONTWAIT) {
            Ok(count) if count > 0 => Ok(Arrival::Bytes(count)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Arrival::Nothing),
            _ => {
                self.line = None;
                self.deadline = Some(Instant::now() + REDIAL);
                Ok(Arrival::Went)
            }
        }
    }

    /// Writes as much as the line takes; nothing if there is none.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(line) = &self.line else { return Ok(0) };
        Ok(send(line.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?)
    }

    fn let_in(&mut self) -> Result<()> {
        // No more at a time: others have their turn, too.
        for _ in 0..MOST_CALLERS {
            match accept(&self.listener) {
                Ok(socket) if self.is_ours(&socket) => self.callers.push(Caller { socket, shown: vec![] }),
                Ok(_) | Err(Errno::ECONNABORTED | Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error).context("cannot take a vsock call"),
            }
        }
        let over = self.callers.len().saturating_sub(MOST_CALLERS);
        self.callers.drain(..over);
        Ok(())
    }

    fn is_ours(&self, socket: &OwnedFd) -> bool {
        let Some(cid) = self.only else { return true };
        getpeername::<VsockAddr>(socket.as_raw_fd()).is_ok_and(|peer| peer.cid() == cid)
    }

    /// The caller that has shown the right key; those that have shown another are gone.
    fn with_key(&mut self) -> Result<Option<OwnedFd>> {
        let mut found = None;
        for mut caller in std::mem::take(&mut self.callers) {
            let mut rest = [0; KEY];
            let rest = &mut rest[..KEY - caller.shown.len()];
            match recv(caller.socket.as_raw_fd(), rest, MsgFlags::MSG_DONTWAIT) {
                Ok(count) if count > 0 => caller.shown.extend(&rest[..count]),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                _ => continue,
            }
            let Ok(shown) = <[u8; KEY]>::try_from(&*caller.shown) else {
                self.callers.push(caller);
                continue;
            };
            if self.key.is_none() {
                self.folder.keep(&shown)?;
                self.key = Some(shown);
            }
            if self.key == Some(shown) {
                found = Some(caller.socket);
            }
        }
        Ok(found)
    }
}

fn accept(listener: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: accept4 has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn listen_behind_the_kernel(cid: u32) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, cid))?;
    listen(&listener, Backlog::new(8)?)?;
    Ok(listener)
}

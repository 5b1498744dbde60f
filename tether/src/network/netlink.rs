//! netlink messages, by hand: what is asked of the kernel, and its answers taken apart.
//!
//! Source: netlink(7), rtnetlink(7); linux/netlink.h, linux/rtnetlink.h. All numbers are in the machine's byte order.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Messages of the kernel's own kinds.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Flags of a request.
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
/// Of one that makes something: what is there already is replaced, or is an error.
pub const REPLACE: u16 = 0x100;
pub const EXCLUSIVE: u16 = 0x200;
pub const CREATE: u16 = 0x400;

/// Bytes of a message's header, and of an attribute's.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// The most that the kernel sends at once (`NLMSG_GOODSIZE`, and what `recvmsg` lets a dump grow to).
const BUFFER: usize = 32 << 10;
/// Events that are read at once.
const AT_ONCE: usize = 16;

/// A request.
pub struct Message(Vec<u8>);

impl Message {
    /// One of this kind, with the structure that belongs to it.
    pub fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        put(&mut bytes, 4, &kind.to_ne_bytes());
        put(&mut bytes, 6, &(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(body);
        pad(&mut bytes);
        Self(bytes)
    }

    /// With an attribute more.
    pub fn with(mut self, kind: u16, data: &[u8]) -> Self {
        self.0.extend_from_slice(&attribute(kind, data));
        self
    }

    fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let flags = flags | u16::from_ne_bytes(field(&self.0, 6).unwrap_or_default());
        put(&mut self.0, 0, &length.to_ne_bytes());
        put(&mut self.0, 6, &flags.to_ne_bytes());
        put(&mut self.0, 8, &sequence.to_ne_bytes());
        self.0
    }
}

/// An attribute, padded.
pub fn attribute(kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE + data.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes(), &kind.to_ne_bytes(), data].concat();
    pad(&mut bytes);
    bytes
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(what) {
        *to = *from;
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The bytes of a number at `at`.
pub fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A received message: its kind, its sequence number, and what follows the header.
struct Received<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// Takes the first message off `bytes`. None when there is none, or one that cannot be.
fn next_message<'a>(bytes: &mut &'a [u8]) -> Option<Received<'a>> {
    let length = usize::try_from(u32::from_ne_bytes(field(bytes, 0)?)).ok()?;
    let kind = u16::from_ne_bytes(field(bytes, 4)?);
    let sequence = u32::from_ne_bytes(field(bytes, 8)?);
    let body = bytes.get(HEADER..length)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(Received { kind, sequence, body })
}

/// The attributes in `bytes`, up to one that cannot be.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(field(bytes, 0)?));
        let kind = u16::from_ne_bytes(field(bytes, 2)?);
        let data = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    })
}

/// What a piece of the kernel's answer to request `sequence` says: whether it is the last one. `each` is given what it
/// holds.
fn take(mut bytes: &[u8], sequence: u32, each: &mut impl FnMut(&[u8])) -> nix::Result<bool> {
    while let Some(message) = next_message(&mut bytes) {
        if message.sequence != sequence {
            continue; // the answer to something else
        }
        match message.kind {
            DONE => return Ok(true),
            ERROR => {
                // The errno, negative; 0 is an acknowledgement.
                let code = i32::from_ne_bytes(field(message.body, 0).ok_or(Errno::EBADMSG)?);
                return if code == 0 { Ok(true) } else { Err(Errno::from_raw(code.wrapping_neg())) };
            }
            _ => each(message.body),
        }
    }
    Ok(false)
}

/// The same of an answer to several: each failure is told, and the success of the one that asks for it.
fn take_failure(mut bytes: &[u8], asked: u32) -> nix::Result<bool> {
    while let Some(message) = next_message(&mut bytes) {
        if message.kind == ERROR {
            let code = i32::from_ne_bytes(field(message.body, 0).ok_or(Errno::EBADMSG)?);
            match code {
                0 if message.sequence == asked => return Ok(true),
                0 => {}
                code => return Err(Errno::from_raw(code.wrapping_neg())),
            }
        }
    }
    Ok(false)
}

/// A line to the part of the kernel that has the network's interfaces, addresses and routes, or to another one.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one.
    pub fn open() -> nix::Result<Self> {
        Self::open_to(SockProtocol::NetlinkRoute)
    }

    /// Opens one to another part of the kernel.
    pub fn open_to(protocol: SockProtocol) -> nix::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Has something done.
    pub fn request(&mut self, message: Message) -> nix::Result<()> {
        self.exchange(message, ACK, |_| {})
    }

    /// Asks for all that there is of something; `each` is given what follows a message's header.
    pub fn dump(&mut self, message: Message, each: impl FnMut(&[u8])) -> nix::Result<()> {
        self.exchange(message, DUMP, each)
    }

    /// Has several things done, or none of them: the first and the last message say that they belong together.
    pub fn batch(&mut self, messages: Vec<Message>) -> nix::Result<()> {
        let asking = messages.len().saturating_sub(2);
        let (mut bytes, mut asked) = (vec![], 0);
        for (at, message) in messages.into_iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = if at == asking { ACK } else { 0 };
            if at == asking {
                asked = self.sequence;
            }
            bytes.extend_from_slice(&message.finish(flags, self.sequence));
        }
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        self.receive(|answer| take_failure(answer, asked))
    }

    fn exchange(&mut self, message: Message, flags: u16, mut each: impl FnMut(&[u8])) -> nix::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(flags, self.sequence);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let sequence = self.sequence;
        self.receive(|answer| take(answer, sequence, &mut each))
    }

    /// Gives `take` what comes, until it says that it was the last.
    fn receive(&mut self, mut take: impl FnMut(&[u8]) -> nix::Result<bool>) -> nix::Result<()> {
        loop {
            // With MSG_TRUNC it tells of all that there was.
            let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => continue,
                length => length?,
            };
            let answer = self.buffer.get(..length).ok_or(Errno::EMSGSIZE)?;
            if take(answer)? {
                return Ok(());
            }
        }
    }
}

/// What the kernel tells by itself of interfaces, addresses and routes.
pub struct Events {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Events {
    /// Listens to these groups (a bit for each of the first 32), from now on.
    pub fn listen(groups: u32) -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// Readable when something has been told.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Gives `each` the kind of some messages, and what follows their headers.
    pub fn read(&mut self, mut each: impl FnMut(u16, &[u8])) {
        for _ in 0..AT_ONCE {
            let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => length,
                // Some were lost: what has come is still there.
                Err(Errno::ENOBUFS | Errno::EINTR) => continue,
                Err(_) => return,
            };
            let mut bytes = self.buffer.get(..length).unwrap_or_default();
            while let Some(message) = next_message(&mut bytes) {
                each(message.kind, message.body);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        Message::new(kind, 0, body).finish(0, sequence)
    }

    #[test]
    fn a_message_as_the_kernel_has_it() {
        let bytes = Message::new(16, CREATE, &[7; 3]).with(3, b"eth0\0").finish(ACK, 9);
        let wanted = [
            &32u32.to_ne_bytes()[..],
            &16u16.to_ne_bytes(),
            &0x405u16.to_ne_bytes(),
            &9u32.to_ne_bytes(),
            &[0; 4],
            &[7, 7, 7, 0],
            &9u16.to_ne_bytes(),
            &3u16.to_ne_bytes(),
            b"eth0\0\0\0\0",
        ];
        assert_eq!(bytes, wanted.concat()[..bytes.len()]);
        assert_eq!(bytes.len(), 32);
        let all: Vec<_> = attributes(&bytes[20..]).collect();
        assert_eq!(all, [(3, &b"eth0\0"[..])]);
    }

    #[test]
    fn an_answer_ends_with_done_or_an_error() {
        let mut seen = vec![];
        let mut each = |body: &[u8]| seen.push(body.to_vec());
        let piece = [answer(16, 1, b"abcd"), answer(16, 2, b"not for us"), answer(16, 1, b"efgh")].concat();
        assert_eq!(take(&piece, 1, &mut each), Ok(false));
        assert_eq!(take(&answer(DONE, 1, &[0; 4]), 1, &mut each), Ok(true));
        assert_eq!(take(&answer(ERROR, 1, &0i32.to_ne_bytes()), 1, &mut each), Ok(true));
        assert_eq!(take(&answer(ERROR, 1, &(-17i32).to_ne_bytes()), 1, &mut each), Err(Errno::EEXIST));
        assert_eq!(take(&answer(ERROR, 2, &(-17i32).to_ne_bytes()), 1, &mut each), Ok(false));
        assert_eq!(seen, [b"abcd", b"efgh"]);
    }

    #[test]
    fn of_several_each_failure_counts() {
        let error = |code: i32, sequence| answer(ERROR, sequence, &code.to_ne_bytes());
        assert_eq!(take_failure(&[error(0, 3), error(0, 5)].concat(), 5), Ok(true));
        assert_eq!(take_failure(&error(0, 3), 5), Ok(false));
        assert_eq!(take_failure(&[error(-95, 3), error(0, 5)].concat(), 5), Err(Errno::EOPNOTSUPP));
    }

    #[test]
    fn what_cannot_be_is_no_message() {
        let good = answer(16, 1, b"abcd");
        let with_length = |length: u32| [&length.to_ne_bytes(), &good[4..]].concat();
        let rows: [&[u8]; 6] =
            [&[], &good[..15], &with_length(0), &with_length(15), &with_length(21), &[0xff; 64]];
        for bad in rows {
            let mut seen = 0;
            assert_eq!(take(bad, 1, &mut |_| seen += 1), Ok(false), "{bad:?}");
            assert_eq!(seen, 0, "{bad:?}");
        }
        assert_eq!(take(&answer(ERROR, 1, &[]), 1, &mut |_| {}), Err(Errno::EBADMSG));
        let bad: [&[u8]; 5] = [&[], &[4, 0, 1], &[0, 0, 1, 0], &[3, 0, 1, 0], &[9, 0, 1, 0, 1, 2, 3, 4]];
        for bytes in bad {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }
}

//! A program for tests to run inside a containerVM, where busybox cannot do what is to be tried. Static; its first
//! argument says what to do.

mod liar;
mod orphans;
mod tree;

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use orphans::orphans;
use std::io::IoSlice;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        liar::lie();
    }
    match std::env::args().nth(1).as_deref() {
        Some("stdout-in-flight") => stdout_in_flight(),
        Some("udp-echo") => udp_echo(&std::env::args().nth(2).unwrap_or_default()),
        Some("orphans") => orphans(std::env::args().nth(2).and_then(|count| count.parse().ok()).unwrap_or(1)),
        Some("tree") => tree_of(&std::env::args().nth(2).unwrap_or_default()),
        other => {
            eprintln!("probe: unknown: {other:?}");
            ExitCode::FAILURE
        }
    }
}

/// Ends with stdout and stderr in messages that lie unread in a socket pair, which lies in them itself: the kernel
/// closes them only when it next collects such garbage.
fn stdout_in_flight() -> ExitCode {
    let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty());
    let Ok((one, other)) = pair else { return ExitCode::FAILURE };
    let fds = [one.as_raw_fd(), other.as_raw_fd(), 1, 2];
    for end in [&one, &other] {
        let rights = [ControlMessage::ScmRights(&fds)];
        let sent = sendmsg::<()>(end.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None);
        if sent.is_err() {
            return ExitCode::FAILURE;
        }
    }
    println!("hello");
    ExitCode::from(5)
}

/// Says `listening`, and sends each datagram that comes to this port back to where it is from, without end.
fn udp_echo(port: &str) -> ExitCode {
    let socket = port.parse().ok().and_then(|port: u16| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).ok());
    let Some(socket) = socket else { return ExitCode::FAILURE };
    println!("listening");
    let mut datagram = [0; 2048];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut datagram) {
            // It may be lost, as datagrams are.
            let _ = socket.send_to(&datagram[..length], from);
        }
    }
}

/// Prints the tree below `root`, see [`tree::list`].
fn tree_of(root: &str) -> ExitCode {
    let mut out = std::io::BufWriter::new(std::io::stdout());
    match tree::list(Path::new(root), &mut out).and_then(|()| std::io::Write::flush(&mut out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {root}: {error}");
            ExitCode::FAILURE
        }
    }
}

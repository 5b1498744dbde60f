//! What the host (`vch`) and the guest (`tether`) say to each other.
//!
//! No I/O, no clocks, no threads: bytes go in, messages and stream data come out. The transport is
//! any ordered byte stream (a virtio-serial port, vsock, a UART). [`Link`] is the state machine that
//! both sides run; [`Start`] and its [`MachineSpec`] are what the guest is asked to run.
//!
//! On the wire, the two sides [greet](handshake) each other and say where all streams stand, then send [frames](frame).
//! Every byte is kept until the other side has used it, so that nothing is lost with a line, nor comes twice. stdin,
//! stdout and stderr of each session, and the control messages, are streams with a credit of their own: one that nobody
//! reads stops no other. `PROTOCOL.md` has all of it, byte by byte.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable
    )
)]

mod buffer;
mod checksum;
mod control;
mod error;
pub mod frame;
pub mod handshake;
mod incoming;
mod line;
mod link;
mod machine;
mod message;
pub mod network;
pub mod oci;
mod outgoing;
mod patience;
mod resume;
mod session;
pub mod stored;
mod table;

pub use error::ProtocolError;
pub use frame::Stream;
pub use line::State;
pub use link::{CHECKED_HIGH_WATER, Event, GuestLink, HIGH_WATER, HostLink, Link};
pub use machine::{
    Disks, GuestDevice, Layer, MachineSpec, Nfs, RootHash, SPEC_VERSION, Seccomp, Share, Verity, Volume,
};
pub use message::{Exec, ExitStatus, Failure, Report, Seed, Stage, Start, Stats, Step, ToGuest, ToHost};
pub use patience::Patience;
pub use resume::MOST_SESSIONS;
pub use session::{EXEC_WINDOW, WINDOW};
pub use stored::Stored;
pub use table::Kept;
pub use uuid::Uuid;

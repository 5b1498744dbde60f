//! What the host (`vch`) and the guest (`tether`) say to each other.
//!
//! No I/O, no clocks, no threads: bytes go in, messages and stream data come out. The transport is
//! any ordered byte stream (a virtio-serial port, vsock, a UART). [`Link`] is the state machine that
//! both sides run; [`Start`] and its [`MachineSpec`] are what the guest is asked to run.
//!
//! On the wire, each side first sends a [hello](handshake), then [frames](frame). Control messages
//! are JSON; stdin, stdout and stderr are raw bytes with an offset, and each stream has its own
//! credit, so that one that nobody reads stops neither the others nor the control messages.

mod buffer;
mod flow;
pub mod frame;
pub mod handshake;
mod link;
mod machine;
mod message;
pub mod oci;

pub use frame::Stream;
pub use link::{Event, GuestLink, HostLink, Link, ProtocolError};
pub use machine::{Disks, Layer, MachineSpec, RootHash, SPEC_VERSION, Verity};
pub use message::{ExitStatus, Failure, Stage, Start, Step, ToGuest, ToHost};
pub use uuid::Uuid;

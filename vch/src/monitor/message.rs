//! What a client and the monitor of a container say to each other: control messages on the protocol's link, where the
//! client is in the host's place.

use protocol::oci::{ConsoleSize, Process};
use protocol::{Link, Stats, Stream};
use serde::{Deserialize, Serialize};

use crate::exit::Outcome;
use crate::image::LayerProgress;
use crate::line::Line;

/// The monitor's end.
pub type ToClientLink = Link<ToMonitor, ToClient>;
/// The same with its line.
pub type ToClientLine = Line<ToMonitor, ToClient>;
/// The client's end, with its line.
pub type ToMonitorLine = Line<ToClient, ToMonitor>;

/// What a client says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ToMonitor {
    /// What it wants. The first message, and only once.
    Attach(Attach),
    /// Run this beside the container's process. In place of [`ToMonitor::Attach`]: the line's streams and all that is said on
    /// it are the exec's then.
    Exec(Box<Exec>),
    /// Send this signal to the process; stop the VM if the container's does not run yet.
    Signal {
        /// Its Linux x86-64 number.
        number: i32,
        /// Whether to stop the VM, or to kill the exec, when a signal that asks for an end has been sent before.
        insists: bool,
    },
    /// Kill the process if it has not ended in so many milliseconds, whoever waits for that. A monitor that is older than this
    /// hangs up at it: what was said before on the line is done.
    KillAfter(u64),
    /// The terminal has this size now.
    Resize {
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    },
    /// Say what the container uses, as soon as it runs: [`ToClient::Stats`].
    Stats,
    /// Nobody reads this stream any more: stop the VM.
    Closed(Stream),
    /// Stop the VM.
    Stop,
}

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attach {
    /// From where on it gets the output, if it does.
    pub output: Option<Start>,
    /// Whether it sends stdin.
    pub stdin: bool,
    /// Whether it is the `vch run` that the container is run for: the container waits for it to take the output, and its end of
    /// stdin is the container's.
    pub owner: bool,
    /// The size of its terminal.
    pub size: Option<ConsoleSize>,
}

/// A process to run beside the container's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// What to run.
    pub process: Process,
    /// The user in docker's form.
    pub user: Option<String>,
    /// Whether the client sends stdin.
    pub stdin: bool,
}

/// Where output starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Start {
    /// With what comes from now on.
    Now,
    /// Behind so many bytes of stdout and of stderr.
    At(u64, u64),
}

/// What the monitor says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ToClient {
    /// How far a layer of the image is.
    Layer(LayerProgress),
    /// The container is there, under this ID; its VM is about to start.
    Created(String),
    /// The output that the client gets begins behind so many bytes of stdout and of stderr.
    From(u64, u64),
    /// The process runs.
    Started,
    /// Something that the user is to know of.
    Warning(String),
    /// What the container uses.
    Stats(Stats),
    /// A line of the guest's console.
    Console(String),
    /// The container has ended. Its output, which this may overtake, ends, too.
    Ended(Box<Ended>),
}

/// How a container ended, for a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ended {
    /// As this says.
    Known(Outcome),
    /// By a failure of ours, in a sentence.
    Failed(String),
    /// The exec that the line is for has, with this exit status. The container may run on.
    Exec {
        /// The exit status.
        code: u8,
        /// The sentence for the user, if there is one.
        error: Option<String>,
    },
    /// So it was written down, when nobody who was there lives any more: with this exit status.
    Recorded {
        /// The exit status.
        code: u8,
        /// The sentence for the user, if there is one.
        error: Option<String>,
    },
}

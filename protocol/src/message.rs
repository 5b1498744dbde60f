//! Control messages: JSON in control frames, one enum for each direction.

use crate::{MachineSpec, oci};
use serde::{Deserialize, Serialize};

/// What the host says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ToGuest {
    /// Run this. The first message, and only once.
    Start(Box<Start>),
    /// Run this beside the container's process, in a session that was opened for it. Answered by [`ToHost::Exec`].
    Exec(Box<Exec>),
    /// Send this signal to a session's process. Where there is none, nothing happens.
    Signal {
        /// 0 is the container's own.
        session: u32,
        /// Linux x86-64 number.
        signal: i32,
    },
    /// A session's terminal has this size now.
    Resize {
        /// 0 is the container's own.
        session: u32,
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    },
    /// The answer to each of [`ToHost::Exited`] (given when every byte of output has been delivered, too),
    /// [`ToHost::Failed`] and [`ToHost::Stopped`]: the guest waits for it before it goes on to power-off.
    Acknowledged,
    /// The host's clock: nanoseconds since 1970 (UTC). To be said when a host first finds the guest, and when the VM goes on after a stop: the
    /// guest may have stood still.
    Clock(u64),
    /// Say what the container uses; answered by [`ToHost::Stats`] while it runs.
    Stats,
    /// Fresh random numbers. To be said whenever [`ToGuest::Clock`] is: the guest may be one of several that were one.
    Seed(Seed),
}

/// 256 random bits, to be mixed into the guest's own: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Seed(pub [u8; 32]);

impl From<Seed> for String {
    fn from(Seed(bytes): Seed) -> Self {
        bytes
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect()
    }
}

impl TryFrom<String> for Seed {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WRONG: &str = "a seed is 64 lower-case hex digits";
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(WRONG),
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(WRONG);
        }
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(bytes))
    }
}

impl std::fmt::Debug for Seed {
    /// It is nobody else's business.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Seed")
    }
}

/// The container to run, and what the guest cannot know by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Start {
    /// What to run.
    pub machine: MachineSpec,
    /// The host's clock: nanoseconds since 1970 (UTC).
    pub time: u64,
    /// Fresh random numbers.
    pub seed: Seed,
    /// Whether the host will send stdin. Without it the process reads `/dev/null`.
    pub stdin: bool,
}

/// A process to run beside the container's: in its namespaces, its cgroup, its root.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// The session, which was opened before and has had no process yet.
    pub session: u32,
    /// What to run. A `cwd` that is missing is not made.
    pub process: oci::Process,
    /// The user in docker's form, as in [`MachineSpec::user`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether the host will send stdin. Without it the process reads `/dev/null`.
    pub stdin: bool,
}

/// What the guest says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ToHost {
    /// Up, and waiting for [`ToGuest::Start`].
    Ready {
        /// Version of tether.
        tether: String,
        /// The steps since the kernel's start.
        timeline: Vec<Step>,
        /// Whether the machine stood still here until it was copied: the steps are those of the one that all copies are of.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        restored: bool,
    },
    /// The container's process runs: `execve` has succeeded.
    Started {
        /// The steps since the last report.
        timeline: Vec<Step>,
    },
    /// The container's process has ended, and before it all others. Its last output may still be on its way, for messages
    /// overtake it; the streams have ended when all of it has come.
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The steps since the last report.
        timeline: Vec<Step>,
        /// The largest resident set that tether has had, in KiB.
        peak_rss: u64,
    },
    /// A block of a layer that has a hash tree is not what the tree says, so it cannot be read. Once for each layer, after
    /// [`ToGuest::Start`], and before what it may be the cause of: [`ToHost::Failed`], [`ToHost::Exited`].
    Damaged {
        /// The layer's place in [`Disks::layers`](crate::Disks::layers).
        layer: u32,
        /// The block's number, counted from the disk's start in 4096 bytes; the tree's own blocks are counted, too.
        block: u64,
    },
    /// What came of a [`ToGuest::Exec`]. The last word of each, any but [`Report::Started`], comes before the
    /// container's own [`ToHost::Exited`]; an order that comes later is answered, too, until the guest powers off.
    Exec {
        /// Its session.
        session: u32,
        /// What came of it.
        report: Report,
    },
    /// The answer to [`ToGuest::Stats`].
    Stats(Stats),
    /// Memory ran out, and the kernel has killed a process for it. Not said while the host does not take what it is told.
    OutOfMemory {
        /// Its PID, in the guest's own PID namespace.
        pid: u32,
        /// Its name, as the kernel's log has it.
        name: String,
    },
    /// The container could not be started, or tether itself failed.
    Failed(Failure),
    /// What outlives the machine is written out and unmounted: the host may end it. The last message, just before power-off.
    Stopped {
        /// The steps since the last report.
        timeline: Vec<Step>,
    },
}

/// What came of an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Report {
    /// Its process runs: `execve` has succeeded.
    Started,
    /// Its process has ended. Its last output may still be on its way, and there may be more, for processes that it has started
    /// live on as long as the container, and may hold its stdout.
    #[serde(rename_all = "camelCase")]
    Exited {
        /// How.
        status: ExitStatus,
        /// Bytes of stdout that had been written when it ended; what comes behind them is others'. The largest number where that
        /// is not known, as with a terminal.
        stdout: u64,
        /// The same of stderr.
        stderr: u64,
    },
    /// The container has ended, so its process was killed, as all others.
    ContainerEnded,
    /// It could not be started. Nothing but this session is touched; its streams have ended.
    Failed(Failure),
}

/// What the container uses, as its cgroup counts it; of the network, what the guest does. 0 where the kernel does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stats {
    /// When: `CLOCK_BOOTTIME` in nanoseconds.
    pub at: u64,
    /// CPU time so far, in microseconds.
    pub cpu: u64,
    /// Memory in use, in bytes, without the page cache that can go at once.
    pub memory: u64,
    /// The most that there can be, in bytes.
    pub memory_limit: u64,
    /// Bytes read from disks.
    pub read: u64,
    /// Bytes written to disks.
    pub written: u64,
    /// Bytes received on all network interfaces but `lo`.
    pub received: u64,
    /// Bytes sent on them.
    pub sent: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(u8),
    /// By a signal.
    Signal {
        /// Its Linux x86-64 number.
        signal: i32,
        /// Whether it left a core dump.
        core: bool,
    },
    /// The kernel's out-of-memory killer took it.
    Oom,
}

/// One step of the boot, and when it was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// What was done.
    pub name: String,
    /// When it was done: `CLOCK_BOOTTIME` in nanoseconds.
    pub at: u64,
}

/// Why a container did not start, or why tether gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    /// Where in the start it happened.
    pub stage: Stage,
    /// The system call's error number, if one failed.
    pub errno: Option<i32>,
    /// What was tried, on what, and what the system said: one sentence for the user.
    pub message: String,
}

/// The stages of a start, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// The kernel's own filesystems.
    Boot,
    /// Kernel modules.
    Modules,
    /// Finding the channel and agreeing on a protocol version.
    Channel,
    /// Reading the machine spec.
    Spec,
    /// The interfaces, their addresses, and a DHCP server's first answer.
    Network,
    /// Finding the layer disks and the scratch disk.
    Disks,
    /// Mounting and stacking them.
    Root,
    /// What the OCI config asks for, up to the exec.
    Config,
    /// Executing the container's process.
    Exec,
    /// After the exec.
    Run,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Boot => "mounting the kernel's filesystems",
            Self::Modules => "loading kernel modules",
            Self::Channel => "opening the channel",
            Self::Spec => "reading the machine spec",
            Self::Network => "setting up the network",
            Self::Disks => "finding the disks",
            Self::Root => "assembling the root filesystem",
            Self::Config => "applying the OCI config",
            Self::Exec => "executing the command",
            Self::Run => "running the container",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_nothing_but_hex() {
        let seed = Seed(std::array::from_fn(|at| u8::try_from(at).unwrap().wrapping_mul(9)));
        let text = String::from(seed);
        assert!(text.starts_with("0009121b") && text.len() == 64, "{text}");
        assert_eq!(Seed::try_from(text), Ok(seed));
        for bad in
            ["", &"0a".repeat(31), &"0a".repeat(33), &"0A".repeat(32), &"+a".repeat(32), &"é".repeat(32)]
        {
            assert!(Seed::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert_eq!(format!("{seed:?}"), "Seed");
    }
}

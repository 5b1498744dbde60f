//! What is written down of a container.

use serde::{Deserialize, Serialize};

use crate::health::Check;
use crate::network::publish::Port;
use crate::options::spec_from::SpecFrom;
use crate::restart::Policy;
use crate::transport::Transport;

/// What a container is. Written once, before its VM starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Record {
    /// 32 random bytes in hex, as docker's IDs.
    pub id: String,
    /// As given with `--name`, or made up; no other container has it.
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    /// What is executed, with its arguments.
    pub command: Vec<String>,
    /// When the container was made: seconds since 1970.
    pub created: u64,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it has a stdin.
    pub stdin: bool,
    /// What `vch stop` sends: a signal's number.
    pub stop_signal: i32,
    /// How long `vch stop` waits for it by default, in seconds; -1 is without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Whether it goes when it has ended (`--rm`).
    pub remove: bool,
    /// The names of its volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// The ports of the host that lead to it.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// How its guest is spoken to.
    #[serde(default)]
    pub transport: Transport,
    /// How its guest is told what to run.
    #[serde(default)]
    pub spec_from: SpecFrom,
    /// How its health is checked, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Check>,
    /// When it is started again.
    #[serde(default)]
    pub restart: Policy,
    /// The ID of the template that its VMs are copies of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

impl Record {
    /// Of a container that has this ID and this name, and nothing else.
    pub fn new(id: String, name: String) -> Self {
        Self {
            id,
            name,
            image: String::new(),
            command: vec![],
            created: 0,
            tty: false,
            stdin: false,
            stop_signal: libc::SIGTERM,
            stop_timeout: None,
            remove: false,
            volumes: vec![],
            ports: vec![],
            transport: Transport::default(),
            spec_from: SpecFrom::default(),
            health: None,
            restart: Policy::No,
            template: None,
        }
    }
}

/// How a container is. Replaced as a whole at every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "status")]
pub enum State {
    /// Its VM boots, or was about to.
    Created,
    /// Its process was executed.
    #[serde(rename_all = "camelCase")]
    Running {
        /// When: seconds since 1970.
        started: u64,
    },
    /// It has ended, and is started again.
    #[serde(rename_all = "camelCase")]
    Restarting {
        /// When its process was executed last.
        started: u64,
        /// When it ended.
        finished: u64,
        /// How.
        exit: Exit,
    },
    /// It has ended.
    #[serde(rename_all = "camelCase")]
    Exited {
        /// When its process was executed, if it was.
        started: Option<u64>,
        /// When it ended, or was found to have ended.
        finished: u64,
        /// How.
        exit: Exit,
    },
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Exit {
    /// The exit status that `vch run` and `vch wait` give: docker's rules.
    pub code: u8,
    /// Whether memory ran out.
    pub oom: bool,
    /// What went wrong, for people, if it was not the process that ended by itself.
    pub error: Option<String>,
}

/// What is written down of the restarts of a container, before each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Run {
    /// How many there were.
    pub restarts: u32,
    /// Bytes of stdout in the log that are of VMs before this one.
    pub stdout: u64,
    /// The same of stderr.
    pub stderr: u64,
}

//! `vch stop`: the image's stop signal, then KILL, then the end of the VM.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use super::kill::say_to;
use super::{Store, each};
use crate::client::control::Heard;
use crate::containers::{Container, State};
use crate::monitor::message::ToMonitor;

/// How long a process may take to end when it is asked to, in seconds, if nobody says otherwise: docker's.
const GRACE: u32 = 10;
/// How long the guest may take to end after its process was killed.
const KILLED: Duration = Duration::from_secs(10);
/// The same, when it has volumes to write to.
const WRITE_OUT: Duration = Duration::from_secs(600);

/// How long `container` may take to end when its process is dead.
pub(super) fn patience(container: &Container) -> Duration {
    if container.record.volumes.is_empty() { KILLED } else { WRITE_OUT }
}

/// Options of `vch stop`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Names or IDs of containers
    #[arg(required = true)]
    containers: Vec<String>,

    /// Seconds until the container's process is killed; by default those of run --stop-timeout, or else 10
    #[arg(short = 't', long = "time", alias = "timeout", value_name = "SECONDS")]
    seconds: Option<u32>,

    #[command(flatten)]
    store: Store,
}

/// Stops each.
///
/// # Errors
/// None but those that `say` says.
pub fn run(options: &Options, say: impl Fn(&str)) -> Result<u8> {
    let stop_one = |name: &str| {
        let container = options.store.container(name)?;
        // As docker does: one that has ended is stopped.
        if !matches!(options.store.state(&container)?, State::Exited { .. }) {
            let seconds = options.seconds.or(container.record.stop_timeout).unwrap_or(GRACE);
            stop(&options.store, &container, Duration::from_secs(seconds.into()))?;
        }
        Ok(name.to_owned())
    };
    each(&options.containers, stop_one, say)
}

fn stop(store: &Store, container: &Container, grace: Duration) -> Result<()> {
    let signal = |number| ToMonitor::Signal { number, insists: false };
    let steps = [
        (signal(container.record.stop_signal), grace),
        (signal(libc::SIGKILL), patience(container)),
        (ToMonitor::Stop, KILLED),
    ];
    for (message, patience) in steps {
        let deadline = Instant::now() + patience;
        let mut control = match say_to(store, container, &message) {
            Ok(control) => control,
            // It has ended meanwhile.
            Err(error) => match container.state() {
                Ok(State::Exited { .. }) => return Ok(()),
                _ if !container.dir.exists() => return Ok(()),
                _ => return Err(error),
            },
        };
        match control.wait(Some(deadline))? {
            Heard::Ended(_) => return Ok(()),
            Heard::Taken | Heard::Late | Heard::Lost => {}
        }
    }
    bail!("container {} could not be stopped", container.record.name)
}

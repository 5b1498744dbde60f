//! `vch stop`: the image's stop signal, then KILL, then the end of the VM.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use super::kill::say_to;
use super::{Store, each};
use crate::client::control::{Control, Heard};
use crate::client::find::Found;
use crate::containers::{Container, State};
use crate::monitor::message::ToMonitor;
use crate::monitor::power_button;
use crate::options::process;

/// How long the guest may take to end after its process was killed.
const KILLED: Duration = Duration::from_secs(10);
/// The same, when it has volumes to write to.
const WRITE_OUT: Duration = Duration::from_secs(600);

/// How long `container` may take to end when its process is dead.
pub(super) fn patience(container: &Container) -> Duration {
    if container.record.volumes.is_empty() { KILLED } else { WRITE_OUT }
}

/// Time before a line that is lost is made again.
const TICK: Duration = Duration::from_millis(10);

/// Options of `vch stop`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Names or IDs of containers
    #[arg(required = true)]
    containers: Vec<String>,

    /// Seconds until the container's process is killed, -1 for never; by default those of run --stop-timeout, or else 10
    #[arg(
        short = 't',
        long = "time",
        alias = "timeout",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    #[arg(value_parser = process::grace())]
    seconds: Option<i64>,

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
            let grace = power_button::grace(options.seconds.or(container.record.stop_timeout));
            stop(&options.store, &container, grace)?;
        }
        Ok(name.to_owned())
    };
    each(&options.containers, stop_one, say)
}

fn stop(store: &Store, container: &Container, grace: Option<Duration>) -> Result<()> {
    let signal = |number| ToMonitor::Signal { number, insists: false };
    let mut first = vec![signal(container.record.stop_signal)];
    // As with docker's daemon: it is killed in time if we are not there any more, too.
    first.extend(grace.map(|grace| ToMonitor::KillAfter(grace.as_millis().try_into().unwrap_or(u64::MAX))));
    let steps = [
        (first, grace),
        (vec![signal(libc::SIGKILL)], Some(patience(container))),
        (vec![ToMonitor::Stop], Some(KILLED)),
    ];
    for (messages, patience) in steps {
        if ends(store, container, &messages, patience)? {
            return Ok(());
        }
    }
    bail!("container {} could not be stopped", container.record.name)
}

/// Says `messages`, and waits for the container's end. Says whether it has come in time.
fn ends(
    store: &Store,
    container: &Container,
    messages: &[ToMonitor],
    patience: Option<Duration>,
) -> Result<bool> {
    let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
    let said = || {
        let mut control = say_to(store, container, messages)?;
        loop {
            match control.wait(deadline)? {
                Heard::Ended(_) => return Ok(true),
                Heard::Taken | Heard::Late => return Ok(false),
                // Its monitor has died, or is older and has not understood all.
                Heard::Lost => std::thread::sleep(TICK),
            }
            match store.reach(container)? {
                Found::Monitor(line) => control = Control::new(line)?,
                Found::Ended(_) => return Ok(true),
            }
        }
    };
    said().or_else(|error| match container.state() {
        // It has ended meanwhile.
        Ok(State::Exited { .. }) => Ok(true),
        _ if !container.dir.exists() => Ok(true),
        _ => Err(error),
    })
}

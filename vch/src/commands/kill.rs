//! `vch kill`: a signal to the container's process.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use super::{Store, each};
use crate::client::control::{Control, Heard};
use crate::client::find::Found;
use crate::containers::Container;
use crate::monitor::message::ToMonitor;
use crate::signal_names;

/// How long a monitor may take to take a message.
const TAKEN: Duration = Duration::from_secs(10);

/// Options of `vch kill`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Names or IDs of containers
    #[arg(required = true)]
    containers: Vec<String>,

    /// Signal to send
    #[arg(short, long, default_value = "KILL", value_parser = signal_names::parse)]
    signal: i32,

    #[command(flatten)]
    store: Store,
}

/// Sends the signal to each.
///
/// # Errors
/// None but those that `say` says.
pub fn run(options: &Options, say: impl Fn(&str)) -> Result<u8> {
    let kill = |name: &str| {
        let container = options.store.container(name)?;
        let message = ToMonitor::Signal { number: options.signal, insists: false };
        say_to(&options.store, &container, &[message])?;
        Ok(name.to_owned())
    };
    each(&options.containers, kill, say)
}

/// Says `messages` to the monitor of a container, and gives the line, on which the end will be heard of. One that hangs up, for it
/// does not know the later ones, is told the first alone.
///
/// # Errors
/// It does not run.
pub fn say_to(store: &Store, container: &Container, messages: &[ToMonitor]) -> Result<Control> {
    let deadline = Instant::now() + TAKEN;
    let mut messages = messages;
    loop {
        let Found::Monitor(line) = store.reach(container)? else {
            bail!("container {} is not running", container.record.name);
        };
        let mut control = Control::new(line)?;
        match control.say(messages, Some(deadline))? {
            Heard::Taken | Heard::Ended(_) => return Ok(control),
            Heard::Lost if Instant::now() < deadline => messages = messages.get(..1).unwrap_or(messages),
            Heard::Lost | Heard::Late => {
                bail!("the monitor of container {} does not answer", container.record.name)
            }
        }
    }
}

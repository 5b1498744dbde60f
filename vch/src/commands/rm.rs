//! `vch rm`: removes containers that have ended.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use super::kill::say_to;
use super::stop::patience;
use super::{Store, each};
use crate::client::control::Heard;
use crate::containers::{Container, State};
use crate::monitor::message::ToMonitor;
use crate::volumes::Volumes;

/// How long a VM that was told to end may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Options of `vch rm`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Names or IDs of containers
    #[arg(required = true)]
    containers: Vec<String>,

    /// Stop those that run
    #[arg(short, long)]
    force: bool,

    /// Remove their volumes, too, but for those with a name
    #[arg(short, long)]
    volumes: bool,

    #[command(flatten)]
    store: Store,
}

/// Removes each.
///
/// # Errors
/// None but those that `say` says.
pub fn run(options: &Options, say: impl Fn(&str)) -> Result<u8> {
    let remove = |name: &str| {
        let container = options.store.container(name)?;
        let ended = matches!(options.store.state(&container)?, State::Exited { .. });
        if !ended && !options.force {
            bail!("container {name} is running: stop it before, or remove it with -f");
        }
        // The VM of one that has ended may still be writing to its volumes, or not be willing to go.
        if !ended || (options.force && container.has_vm()?) {
            stop(&options.store, &container)?;
        }
        gone(&container)?;
        if options.volumes {
            Volumes::of(container.store()).remove_anonymous(&container.record.volumes)?;
        }
        Ok(name.to_owned())
    };
    each(&options.containers, remove, say)
}

fn stop(store: &Store, container: &Container) -> Result<()> {
    // What it has written to its volumes is kept.
    if !container.record.volumes.is_empty() {
        let kill = ToMonitor::Signal { number: libc::SIGKILL, insists: false };
        let end = Instant::now() + patience(container);
        if let Ok(mut control) = say_to(store, container, &[kill])
            && matches!(control.wait(Some(end))?, Heard::Ended(_))
        {
            return Ok(());
        }
    }
    match say_to(store, container, &[ToMonitor::Stop]) {
        Ok(mut control) => control.wait(Some(Instant::now() + PATIENCE)).map(drop),
        Err(_) if matches!(container.state(), Ok(State::Exited { .. })) => Ok(()),
        Err(_) if !container.dir.exists() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes it as soon as its VM is gone, unless it removes itself.
fn gone(container: &Container) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while container.dir.exists() {
        match container.remove() {
            Err(error) if Instant::now() >= end => return Err(error),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    Ok(())
}

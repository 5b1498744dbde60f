//! The way to a container's monitor. Where there is none, and the VM lives, another is started; where the VM is gone, too, it is
//! written down that the container has ended.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::launch;
use crate::containers::{Container, State, sockets};
use crate::monitor::message::Ended;
use crate::monitor::{CONTROL, adopt};

/// How long a monitor may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const TICK: Duration = Duration::from_millis(10);

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// A line to the monitor.
    Monitor(UnixStream),
    /// The container has ended so.
    Ended(State),
}

/// Finds the monitor of `container`, which is in `store`.
///
/// # Errors
/// It is gone; nobody answers.
pub fn monitor(store: &Path, container: &Container) -> Result<Found> {
    let end = Instant::now() + PATIENCE;
    let mut next = Instant::now();
    loop {
        if let Ok(line) = sockets::connect(&container.dir, CONTROL) {
            return Ok(Found::Monitor(line));
        }
        // It is starting, or ending, if someone has the lock.
        if let Some(lock) = container.lock_monitor()? {
            match container.has_vm()? {
                true => {
                    drop(lock);
                    if next <= Instant::now() {
                        launch::adopt(store, container)?;
                        next = Instant::now() + Duration::from_secs(1);
                    }
                }
                false => return Ok(Found::Ended(adopt::settle(container)?)),
            }
        }
        if Instant::now() >= end {
            bail!("the monitor of container {} does not answer", container.record.name);
        }
        thread::sleep(TICK);
    }
}

/// How a container ended, as it is written down.
pub fn recorded(state: &State) -> Option<Ended> {
    match state {
        State::Exited { exit, .. } => Some(Ended::Recorded { code: exit.code, error: exit.error.clone() }),
        _ => None,
    }
}

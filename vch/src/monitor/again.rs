//! A container that has ended is started again, if its restart policy says so: in a new VM, on the same scratch disk.
//!
//! It is the monitor's work, and ends with it: one that was killed and replaced has no new VM to give.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;

use super::clients::Clients;
use super::message::ToMonitor;
use super::{Kept, asks_to_end, exit_of, exited};
use crate::containers::{Run, State};
use crate::exit::{End, Outcome};
use crate::log::Offsets;
use crate::restart::Restarts;

/// Waits until it is to be started again, and writes that down; false if it is not.
pub(super) fn again(
    restarts: &mut Restarts,
    result: &Result<Outcome>,
    clients: &mut Clients,
    kept: &mut Kept,
) -> Result<bool> {
    let container = &kept.container;
    let exit = exit_of(result);
    let State::Exited { started: Some(started), finished, .. } = exited(container, exit.clone()) else {
        return Ok(false);
    };
    if is_final(result, container.record.stop_signal) {
        return Ok(false);
    }
    let ran = Duration::from_secs(finished.saturating_sub(started));
    let Some(wait) = restarts.next(exit.code, ran) else { return Ok(false) };
    container.set_state(&State::Restarting { started, finished, exit })?;
    let offsets = kept.log.offsets();
    container.keep_run(&Run { restarts: restarts.count, stdout: offsets.stdout, stderr: offsets.stderr })?;
    clients.execs.finish();
    let end = Instant::now() + wait;
    while Instant::now() < end {
        clients.wait(Some(end))?;
        if asked_to_end(clients, offsets, container.record.stop_signal) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a user wants it to have ended, or it could never run.
fn is_final(result: &Result<Outcome>, stop_signal: i32) -> bool {
    match result {
        Ok(Outcome { end: End::Killed(_) | End::Closed(_) | End::Failed(_), .. }) => true,
        Ok(outcome) => outcome.forwarded.is_some_and(|signal| ends(signal as i32, stop_signal)),
        Err(_) => false,
    }
}

fn ends(signal: i32, stop_signal: i32) -> bool {
    let known = Signal::try_from(signal);
    signal == stop_signal || known.is_ok_and(|signal| signal == Signal::SIGKILL || asks_to_end(signal))
}

fn asked_to_end(clients: &mut Clients, now: Offsets, stop_signal: i32) -> bool {
    clients.messages(now).into_iter().any(|message| match message {
        ToMonitor::Signal { number, .. } => ends(number, stop_signal),
        ToMonitor::Stop | ToMonitor::Closed(_) => true,
        _ => false,
    })
}

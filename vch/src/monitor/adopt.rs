//! A new monitor for a container whose monitor has died.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use protocol::{ExitStatus, Stream};

use super::clients::Clients;
use super::relay::Relay;
use super::{Kept, exited, finish};
use crate::containers::{Container, Exit, State};
use crate::conversation::{Conversation, Phase, SESSION};
use crate::options::spec_from::SpecFrom;
use crate::template::Templates;
use crate::template::thaw::Restore;
use crate::timeline::Clock;
use crate::vm::Wires;

/// How long QEMU may take to end when it was told to.
const QUIT: Duration = Duration::from_secs(10);
/// What ends QEMU, when it has been told that we can do without negotiating.
const QUIT_COMMAND: &[u8] = b"{\"execute\":\"quit\"}\n";
/// How long a guest that was starting its container may still take.
const START: Duration = Duration::from_secs(180);

/// How often to try for the lock.
const LOOKS: usize = 20;
/// Exit status of a container that nobody knows how it ended: as if it had been killed.
const KILLED: u8 = 137;

/// Takes over `container`, unless someone else has it, and stays until it has ended.
///
/// # Errors
/// The system's.
pub fn run(container: Container) -> Result<()> {
    let Some(lock) = lock(&container)? else { return Ok(()) };
    if !container.has_vm()? {
        return settle(&container).map(drop);
    }
    let mut clients = Clients::default();
    let mut kept = Kept::open(container, lock, &mut clients)?;
    let wires = Wires::to(&kept.container)?;
    let mut qmp = wires.monitor.try_clone()?;
    let result = resume(&mut kept, &mut clients, wires);
    // Whatever is left of it: an honest end has none.
    let _ = qmp.write_all(QUIT_COMMAND);
    let end = Instant::now() + QUIT;
    while kept.container.has_vm()? && Instant::now() < end {
        clients.wait(Some(Instant::now() + Duration::from_millis(20)))?;
    }
    finish(&result, &mut clients, Some(kept))
}

/// The monitor's lock; those who only look whether there is a monitor have it for a moment.
fn lock(container: &Container) -> Result<Option<File>> {
    for _ in 0..LOOKS {
        if let Some(lock) = container.lock_monitor()? {
            return Ok(Some(lock));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(None)
}

fn resume(kept: &mut Kept, clients: &mut Clients, wires: Wires) -> Result<crate::exit::Outcome> {
    let (offsets, run) = (kept.log.offsets(), kept.container.run()?);
    let has = BTreeMap::from([
        ((SESSION, Stream::Stdout), offsets.stdout.saturating_sub(run.stdout)),
        ((SESSION, Stream::Stderr), offsets.stderr.saturating_sub(run.stderr)),
    ]);
    let lossy = wires.channel.is_lossy();
    let mut restore = None;
    let (talk, deadline) = match kept.container.state()? {
        State::Created | State::Restarting { .. } => {
            let record = &kept.container.record;
            let mut talk = Conversation::adopting_early(kept.container.machine()?, record.stdin, lossy)?;
            if record.spec_from != SpecFrom::Channel {
                talk.is_told_otherwise();
            }
            restore = template_of(&kept.container);
            (talk, Some(Instant::now() + START))
        }
        State::Running { .. } => (Conversation::adopting(has, Phase::Running, lossy)?, None),
        State::Exited { exit, .. } => {
            let status = if exit.oom { ExitStatus::Oom } else { ExitStatus::Code(exit.code) };
            (Conversation::adopting(has, Phase::Draining(status), lossy)?, None)
        }
    };
    let mut relay = Relay::over(talk, wires, &kept.container, clients, &mut kept.log, Clock::start());
    relay.deadline = deadline;
    if let Some(restore) = restore {
        // If the monitor before has done so, QEMU refuses it, and nothing happens.
        let _ = restore.tell(&relay.wires.monitor);
    }
    relay.run()
}

/// What the VM may still be waiting for, if it is a copy of a template.
fn template_of(container: &Container) -> Option<Restore> {
    let id = container.record.template.as_ref()?;
    let template = Templates::of(container.store()).find(id).ok()?;
    // One that was made since has another memory than the VM has mapped.
    (template.record.created <= container.record.created).then(|| template.open().ok()?.restore().ok())?
}

/// Writes down that a container without a VM has ended, if nobody has; its monitor's lock is ours.
///
/// # Errors
/// The system's.
pub fn settle(container: &Container) -> Result<State> {
    let mut state = container.state()?;
    if let State::Restarting { exit, .. } = &state {
        state = exited(container, exit.clone());
        container.set_state(&state)?;
    } else if !matches!(state, State::Exited { .. }) {
        let error = "the VM ended, and nobody was there to see how".to_owned();
        let exit = Exit { code: KILLED, oom: false, error: Some(error) };
        state = exited(container, exit);
        container.set_state(&state)?;
    }
    if container.record.remove {
        container.remove_with_volumes()?;
    }
    Ok(state)
}

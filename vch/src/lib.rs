//! The virtual container host: runs an OCI image as a virtual machine of its own.
//!
//! [`run`] does what `vch run` does, with the caller's streams in place of the process's own. What stands where:
//!
//! - [`options`]: what can be asked for; [`size`]: docker's size words; [`commands`]: `vch ps` and the others
//! - [`spec`], with docker's [`defaults`] and [`seccomp`] profile: the machine spec that the guest gets; [`stored_spec`]: as a file
//! - [`image`]: found in the store, or brought into it; [`layers`], [`scratch`], [`volumes`]: the disks, [`mke2fs`]: new ones, [`disk`]: as QEMU gets them; [`boot`]: kernel or CD; [`accel`]: KVM or TCG
//! - [`containers`]: their folders; [`name`]: their names; [`log`]: their output, kept, [`guest_log`]: their consoles'
//! - [`network`]: interfaces, published ports, and what `/etc/hosts` and its like say
//! - [`monitor`]: the process that a container has on the host; [`conversation`]: what it says to the guest, in the protocol's order; [`execs`]: what runs beside the container's process
//! - [`transport`]: what carries the channel; [`qemu`]: the command line, [`qemu::machine`]: the machine types, [`host_tsc`]: a clock for one of them; [`vm`]: the process; [`qmp`], [`console`]: what it says
//! - [`mod@line`]: between two processes of ours; [`client`]: the user's side of it; [`stdio`], [`terminal`], [`signals`], [`progress`]: the user
//! - [`template`]: machines that were booted before, and are copied instead of booting
//! - [`exit`]: the outcome, its exit code and its sentence; [`timeline`]: what happened when

pub mod accel;
pub mod boot;
pub mod child;
pub mod client;
pub mod commands;
pub mod console;
pub mod containers;
pub mod conversation;
pub mod defaults;
pub mod disk;
pub mod duration;
pub mod execs;
pub mod exit;
pub mod guest_log;
pub mod health;
pub mod host_tsc;
pub mod image;
pub mod layers;
pub mod line;
pub mod log;
pub mod mke2fs;
pub mod monitor;
pub mod name;
pub mod network;
pub mod options;
pub mod progress;
pub mod qemu;
pub mod qmp;
pub mod random;
pub mod restart;
pub mod scratch;
pub mod seccomp;
pub mod signal_names;
pub mod signals;
pub use image_builder::size;
pub mod spec;
pub mod stdio;
pub mod stored_spec;
pub mod template;
pub mod terminal;
pub mod text;
pub mod timeline;
pub mod transport;
pub mod vm;
pub mod volumes;

use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::{Result, anyhow, bail};

pub use exit::{End, Outcome};
pub use options::RunOptions;
pub use stdio::Stdio;

use client::{Client, Finish};
use containers::Container;
use monitor::Life;
use monitor::message::Ended;
use monitor::relay::Plan;
use timeline::Clock;
use vm::Wires;

/// Runs a containerVM from its start to its end. Nothing of it is left then; if this process dies before, the VM does, too.
///
/// # Errors
/// One sentence with its causes: whatever kept the container from running, or its end from being known.
pub fn run(options: &RunOptions, stdio: &Stdio) -> Result<Outcome> {
    let mut theirs = options.clone();
    theirs.rm = true;
    beside(stdio, options, move |first| monitor::run(&theirs, first, Life::Bound))
}

/// Runs `plan` in the VM behind `wires`, from its start to its end, with the folder of `container`.
///
/// # Errors
/// As [`run`].
pub fn run_in(
    plan: Plan,
    wires: Wires,
    container: Container,
    stdio: &Stdio,
    options: &RunOptions,
) -> Result<Outcome> {
    beside(stdio, options, move |first| monitor::attend(plan, wires, container, first, Clock::start()))
}

/// The client here, and the monitor in a thread.
fn beside(
    stdio: &Stdio,
    options: &RunOptions,
    monitor: impl FnOnce(UnixStream) -> Result<()> + Send + 'static,
) -> Result<Outcome> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut client = Client::owner(ours, options, stdio)?;
    let monitor = thread::spawn(move || monitor(theirs));
    let finish = client.run();
    drop(client);
    monitor.join().map_err(|_| anyhow!("the container's monitor panicked"))??;
    outcome(finish?)
}

/// What came of it, when the client has stayed to the end.
fn outcome(finish: Finish) -> Result<Outcome> {
    match finish {
        Finish::Ended(Ended::Known(outcome)) => Ok(outcome),
        Finish::Ended(Ended::Failed(error)) => Err(anyhow!(error)),
        Finish::Ended(Ended::Recorded { error, .. } | Ended::Exec { error, .. }) => {
            Err(anyhow!(error.unwrap_or_default()))
        }
        Finish::Started(_) | Finish::Detached | Finish::Closed(_) | Finish::Lost => {
            bail!("the container's monitor has gone")
        }
    }
}

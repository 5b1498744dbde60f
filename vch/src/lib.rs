//! The virtual container host: runs an OCI image as a virtual machine of its own.
//!
//! [`run`] does what `vch run` does, with the caller's streams in place of the process's own. What stands where:
//!
//! - [`options`]: what can be asked for; [`size`]: docker's size words
//! - [`spec`], with docker's [`defaults`]: the machine spec that the guest gets
//! - [`image`]: found in the store, or brought into it; [`layers`], [`scratch`]: the disks, [`disk`]: as QEMU gets them; [`boot`]: kernel or CD; [`accel`]: KVM or TCG; [`name`]: who has which name
//! - [`qemu`]: the command line; [`vm`]: the process; [`qmp`], [`console`]: what it says
//! - [`conversation`]: the protocol's order; [`relay`]: the event loop; [`stdio`], [`terminal`], [`signals`]: the user
//! - [`log`]: the container's output, kept on the host
//! - [`exit`]: the outcome, its exit code and its sentence; [`timeline`]: what happened when

pub mod accel;
pub mod boot;
pub mod child;
pub mod console;
pub mod containers;
pub mod conversation;
pub mod defaults;
pub mod disk;
pub mod exit;
pub mod image;
pub mod layers;
pub mod log;
pub mod name;
pub mod options;
pub mod progress;
pub mod qemu;
pub mod qmp;
pub mod random;
pub mod relay;
pub mod scratch;
pub mod signals;
pub use image_builder::size;
pub mod spec;
pub mod stdio;
pub mod terminal;
pub mod text;
pub mod timeline;
pub mod vm;

use std::env::VarError;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use protocol::frame::MAX_TO_GUEST;
use protocol::{Disks, Uuid};

use accel::Accel;
use boot::Boot;
use image::Prepared;
use name::Name;
use relay::{Gone, Plan};
use timeline::Clock;
use vm::Vm;

pub use exit::{End, Outcome};
pub use options::RunOptions;
pub use stdio::Stdio;

/// The largest machine spec, in bytes of JSON: a message to the guest, less what stands around it.
const MOST_SPEC: usize = MAX_TO_GUEST - 4096;

/// Runs a containerVM from its start to its end. Nothing of it is left then, nor if this process dies before.
///
/// # Errors
/// One sentence with its causes: whatever kept the container from running, or its end from being known.
pub fn run(options: &RunOptions, stdio: &Stdio) -> Result<Outcome> {
    let mut clock = Clock::start();
    let stdin = stdin(options, stdio)?;
    let _name = options.name.as_deref().map(Name::take).transpose()?;
    let accel = accel::choose(options.accel)?;
    let boot = Boot::find(options, accel)?;
    let store = store(options)?;
    let (config, layers) = match image::prepare(options, &store, stdio)? {
        Prepared::Ready { config, layers } => (config, layers),
        Prepared::Killed(signal) => return Ok(killed(signal, clock)),
    };
    clock.step("the layer disks are there");

    let id = random::id().context("cannot make an ID")?;
    let uuid = Uuid::from_bytes(random::bytes()?);
    let in_spec = layers.iter().map(|layer| layer.spec(options.verity)).collect::<Result<_>>()?;
    let disks = Disks { layers: in_spec, scratch: uuid };
    let size = terminal::size(&stdio.stdin);
    let machine = spec::compose(&config, options, &id, disks, size, host_variable)?;
    let length = serde_json::to_vec(&machine)?.len();
    if length > MOST_SPEC {
        bail!(
            "the command and the environment are too long: {length} bytes as JSON, at most {} fit",
            MOST_SPEC
        );
    }
    let scratch = scratch::create(&store, options.scratch_size, uuid)?;
    clock.step("the scratch disk is there");

    let name = options.name.as_deref().unwrap_or(&id);
    let (mut vm, wires) = Vm::start(name, options, accel, &boot, &scratch, &layers)?;
    clock.step("QEMU is started");
    drop(scratch);
    let plan = Plan {
        machine,
        layers,
        stdin,
        raw: options.tty && stdin && stdio.stdin.is_terminal(),
        debug: options.debug,
        boot_timeout: options.boot_timeout.unwrap_or(match accel {
            Accel::Kvm => Duration::from_secs(60),
            Accel::Tcg => Duration::from_secs(180),
        }),
    };
    relay::run(plan, wires, stdio, clock).map_err(|error| explain(error, &mut vm))
}

/// Whether stdin goes to the container: with -i, and with -t at a terminal.
fn stdin(options: &RunOptions, stdio: &Stdio) -> Result<bool> {
    let terminal = stdio.stdin.is_terminal();
    if options.tty && options.interactive && !terminal {
        bail!("the input device is not a TTY: -t with -i needs a terminal");
    }
    Ok(options.interactive || (options.tty && terminal))
}

fn host_variable(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            bail!("-e {name}: its value here is not UTF-8, which a machine spec must be")
        }
    }
}

fn store(options: &RunOptions) -> Result<PathBuf> {
    let dir = options.store.clone().map_or_else(image_builder::store::default_dir, Ok)?;
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make the store {}", dir.display()))?;
    Ok(dir)
}

fn killed(signal: Signal, clock: Clock) -> Outcome {
    Outcome { end: End::Killed(signal), forwarded: None, guest: vec![], host: clock.steps, peak_rss: 0 }
}

/// Adds how QEMU ended, where that says more than is known.
fn explain(error: anyhow::Error, vm: &mut Vm) -> anyhow::Error {
    match error.downcast_ref::<Gone>() {
        Some(Gone { known: false, why }) => match vm.wait() {
            Ok(Some(verdict)) => anyhow!("{verdict}: {why}"),
            Ok(None) => error,
            Err(unknown) => error.context(unknown),
        },
        _ => error,
    }
}

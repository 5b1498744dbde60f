//! The monitor of a container: it starts the VM, keeps its output, and stands between it and the clients.
//!
//! `vch run` starts it as a process of its own, which nobody waits for: clients come and go. It may be killed with -9 at any
//! instant: the VM goes on, and whoever looks for the container next starts [another monitor](adopt) for it.
//!
//! - [`relay`]: the event loop, `lines`: what comes from the VM, `obey`: from the clients, [`power_button`], [`stop`]: when it is over; [`clients`], [`connection`], `exec`: who is there; [`message`]: what they say

pub mod adopt;
mod again;
mod check;
pub mod clients;
pub mod connection;
mod exec;
mod host_clock;
mod lines;
pub mod message;
mod obey;
pub mod power_button;
pub mod relay;
pub mod stop;
pub mod wait;

use std::env::VarError;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use oci_spec::image::Config;
use protocol::frame::MAX_TO_GUEST;
use protocol::{Disks, ExitStatus, MachineSpec, Uuid};

use crate::accel::{self, Accel};
use crate::boot::Boot;
use crate::containers::{Container, Containers, Exit, Record, State, sockets};
use crate::exit::{End, OURS, Outcome};
use crate::health::Check;
use crate::image::{self, Prepared};
use crate::layers::OpenLayer;
use crate::log::{Limits, Offsets, Writer};
use crate::options::RunOptions;
use crate::options::spec_from::SpecFrom;
use crate::restart::{Policy, Restarts};
use crate::template::Thaw;
use crate::template::create::Interrupted;
use crate::timeline::Clock;
use crate::vm::{Home, Vm};
use crate::volumes::attach::Attached;
use crate::volumes::share;
use crate::{mke2fs, name, network, random, scratch, signal_names, spec, template, volumes};

pub use obey::asks_to_end;

use clients::Clients;
use message::{Attach, Ended, ToClient, ToMonitor};
use relay::{Plan, Relay};
use stop::Gone;

/// The monitor's socket in the container's folder.
pub const CONTROL: &str = "control";
/// The largest machine spec or exec, in bytes of JSON: a message to the guest, less what stands around it.
pub const MOST_SPEC: usize = MAX_TO_GUEST - 4096;

/// Whose the VM is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// It outlives this process, and the client that it is started for.
    Own,
    /// It ends with this process, and with that client.
    Bound,
}

/// A container that has its folder, and what is open of it.
struct Kept {
    container: Container,
    log: Writer,
    /// Held: nobody else is its monitor.
    _lock: File,
}

impl Kept {
    fn open(container: Container, lock: File, clients: &mut Clients) -> Result<Self> {
        let log = Writer::open(&container.log(), Limits::default())?;
        clients.listen(sockets::listen(&container.dir, CONTROL)?)?;
        Ok(Self { container, log, _lock: lock })
    }
}

/// Runs a container from its start to its end, for the client at the other end of `first`.
///
/// # Errors
/// The system's, when not even the clients can be told. How the container ended they are told.
pub fn run(options: &RunOptions, first: UnixStream, life: Life) -> Result<()> {
    let mut clients = Clients::with(first)?;
    let mut kept = None;
    let result = start(options, life, &mut clients, &mut kept);
    finish(&result, &mut clients, kept)
}

/// Writes down how it ended, and tells the clients.
fn finish(result: &Result<Outcome>, clients: &mut Clients, kept: Option<Kept>) -> Result<()> {
    let ended = match result {
        Ok(outcome) => Ended::Known(outcome.clone()),
        Err(error) => Ended::Failed(format!("{error:#}")),
    };
    let Some(Kept { container, log, _lock }) = kept else {
        return clients.finish(&ended, None, || {});
    };
    // Where it cannot be written down, whoever looks next finds a container that has ended, and knows no more.
    let known = matches!(result, Ok(Outcome { end: End::Exited(_) | End::Failed(_), .. }))
        && matches!(container.state(), Ok(State::Exited { .. }));
    if !known {
        let _ = container.set_state(&exited(&container, exit_of(result)));
    }
    clients.finish(&ended, Some(&log), || {
        if container.record.remove {
            // What cannot be removed is an ended container, which `vch rm` says more of.
            let _ = container.remove_with_volumes();
        }
    })
}

/// What is written down of how it ended.
fn exit_of(result: &Result<Outcome>) -> Exit {
    match result {
        Ok(outcome) => Exit {
            code: outcome.code(),
            oom: outcome.end == End::Exited(ExitStatus::Oom),
            error: outcome.sentence(),
        },
        Err(error) => Exit { code: OURS, oom: false, error: Some(format!("{error:#}")) },
    }
}

/// The state of a container that has ended so, just now or at the time that is written down.
pub(crate) fn exited(container: &Container, exit: Exit) -> State {
    match container.state() {
        Ok(State::Exited { started, finished, .. }) => State::Exited { started, finished, exit },
        Ok(State::Restarting { started, finished, .. }) => {
            State::Exited { started: Some(started), finished, exit }
        }
        Ok(State::Running { started }) => State::Exited { started: Some(started), finished: now(), exit },
        _ => State::Exited { started: None, finished: now(), exit },
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn start(
    options: &RunOptions,
    life: Life,
    clients: &mut Clients,
    kept: &mut Option<Kept>,
) -> Result<Outcome> {
    let mut clock = Clock::start();
    ensure!(
        options.restart == Policy::No || !options.rm,
        "--rm and --restart exclude each other: what is removed at its end cannot be started again"
    );
    template::machine::check(options)?;
    let attach = attached(clients)?;
    let store = store(options)?;
    let containers = Containers::of(&store);
    let name = match &options.name {
        Some(name) => name::check(name).map(|()| name.clone())?,
        None => name::invent()?,
    };
    containers.is_free(&name)?;
    let accel = accel::choose(options.accel)?;
    let boot = Boot::find(options)?;
    let mut look = |layer| {
        if let Some(layer) = layer {
            clients.mention(&ToClient::Layer(layer));
        }
        interrupted(clients)
    };
    let (config, health, layers) = match image::prepare(options, &store, &mut look)? {
        Prepared::Ready { config, health, layers } => (config, health, layers),
        Prepared::Killed(signal) => return Ok(killed(signal, clock)),
    };
    clock.step("the layer disks are there");

    let id = random::id().context("cannot make an ID")?;
    let uuid = Uuid::from_bytes(random::bytes()?);
    // With a journal, which the next VM's kernel replays: what a guest has left on it is nothing for a program of the host's.
    let ephemeral = options.restart == Policy::No;
    let lifetime = if ephemeral { mke2fs::For::Scratch } else { mke2fs::For::Volume };
    // Another program does it, which takes as long as all that comes next.
    let (dir, size) = (store.clone(), options.scratch_size);
    let scratch = std::thread::spawn(move || scratch::create(&dir, size, uuid, lifetime));
    let in_spec = layers.iter().map(|layer| layer.spec(options.verity)).collect::<Result<_>>()?;
    let disks = Disks { layers: in_spec, scratch: uuid, ephemeral };
    let mut machine = spec::compose(&config, options, &id, disks, attach.size, host_variable)?;
    let mut volumes =
        volumes::attach::attach(&store, &options.volumes.all(), &options.limits.tmpfs, &config)?;
    volumes.tell(&mut machine)?;
    let length = serde_json::to_vec(&machine)?.len();
    ensure!(
        length <= MOST_SPEC,
        "the command and the environment are too long: {length} bytes as JSON, at most {MOST_SPEC} fit"
    );
    let thaw = match template::for_run(options, accel, &boot, &machine, &store, &mut || interrupted(clients))
    {
        Err(error) => match error.downcast_ref::<Interrupted>() {
            Some(Interrupted(signal)) => return Ok(killed(*signal, clock)),
            None => return Err(error),
        },
        thaw => thaw?,
    };
    if thaw.is_some() {
        clock.step("the template is there");
    }
    let scratch = scratch.join().map_err(|_| anyhow!("the scratch disk could not be made"))??;
    clock.step("the scratch disk is there");
    if let Some(signal) = interrupted(clients)? {
        return Ok(killed(signal, clock));
    }

    // Kept to the end: the ports are ours.
    let exposed = config.exposed_ports().clone().unwrap_or_default();
    let network = network::Host::open(&options.network, &id, &exposed, &store)?;
    let mut record = record(&id, name, options, &config, &machine, attach.stdin)?;
    record.ports = network.ports().to_vec();
    record.volumes = volumes.names();
    record.transport = options.transport()?;
    record.spec_from = options.spec.spec_from;
    record.restart = options.restart;
    record.template = thaw.as_ref().map(|thaw| thaw.record.id.clone());
    record.health = Check::of(health.as_ref(), &options.health)?;
    let container = containers.create(record)?;
    container.keep_machine(&machine)?;
    volumes.keep();
    let lock = container.lock_monitor()?.context("someone else monitors the new container")?;
    let boot = if machine.nfs.is_empty() { boot } else { boot.with_modules("nfs", &container.dir)? };
    let kept = kept.insert(Kept::open(container, lock, clients)?);
    // Whoever has asked for it can find it from now on, whatever becomes of this process.
    clients.tell(&ToClient::Created(id));
    clients.flush();
    let parts = Parts { options, accel, boot, scratch, layers: layers.into(), volumes, network, thaw };
    let mut restarts = Restarts::new(options.restart, 0);
    loop {
        let result = in_a_vm(&parts, &machine, attach.stdin, life, clients, kept, clock);
        if !again::again(&mut restarts, &result, clients, kept)? {
            return result;
        }
        clock = Clock::start();
    }
}

/// What a container's VM is made of, each time anew.
struct Parts<'a> {
    options: &'a RunOptions,
    accel: Accel,
    boot: Boot,
    scratch: File,
    layers: Arc<[OpenLayer]>,
    volumes: Attached,
    network: network::Host,
    /// What they are copies of, if they do not boot.
    thaw: Option<Thaw>,
}

/// Starts a VM, and relays until it has ended.
fn in_a_vm(
    parts: &Parts,
    machine: &MachineSpec,
    stdin: bool,
    life: Life,
    clients: &mut Clients,
    kept: &mut Kept,
    mut clock: Clock,
) -> Result<Outcome> {
    let Parts { options, accel, boot, scratch, layers, volumes, network, thaw } = parts;
    let home = Home { container: &kept.container, outlives: life == Life::Own };
    let share = |wanted| share::Running::start(wanted, &kept.container, home.outlives);
    let mut shares = volumes.shares.iter().map(share).collect::<Result<Vec<_>>>()?;
    let name = &kept.container.record.name;
    let (mut vm, wires) = Vm::start(
        name,
        Some(home),
        options,
        *accel,
        boot,
        scratch,
        layers,
        &volumes.volumes,
        &shares,
        network,
        thaw.as_ref(),
    )?;
    clock.step("QEMU is started");
    let plan = Plan {
        machine: machine.clone(),
        layers: layers.clone(),
        shared: volumes.shares.iter().map(|share| (share.spec.tag.clone(), share.source.clone())).collect(),
        stdin,
        debug: options.debug,
        boot_timeout: options.boot_timeout.unwrap_or(match accel {
            Accel::Kvm => Duration::from_secs(60),
            Accel::Tcg => Duration::from_secs(180),
        }),
        restore: thaw.as_ref().map(Thaw::restore).transpose()?,
        qemu: Some(vm.id()),
    };
    let mut relay = Relay::new(plan, wires, &kept.container, clients, &mut kept.log, clock)?;
    relay.bound = life == Life::Bound;
    if kept.container.record.spec_from != SpecFrom::Channel {
        relay.talk.is_told_otherwise();
    }
    relay.run().map_err(|error| match shares.iter_mut().find_map(share::Running::trouble) {
        Some(trouble) => error.context(trouble),
        None => explain(error, &mut vm),
    })
}

/// Runs `plan` in the VM behind `wires`, which is `container`'s, for the client at the other end of `first`.
///
/// # Errors
/// As [`run`].
pub fn attend(
    plan: Plan,
    wires: crate::vm::Wires,
    container: Container,
    first: UnixStream,
    clock: Clock,
) -> Result<()> {
    let mut clients = Clients::with(first)?;
    let lock = container.lock_monitor()?.context("someone else monitors the container")?;
    container.keep_machine(&plan.machine)?;
    let mut kept = Kept::open(container, lock, &mut clients)?;
    let result = attached(&mut clients).and_then(|_| {
        let mut relay = Relay::new(plan, wires, &kept.container, &mut clients, &mut kept.log, clock)?;
        relay.bound = true;
        relay.run()
    });
    finish(&result, &mut clients, Some(kept))
}

/// Waits until the first client has said what it wants.
fn attached(clients: &mut Clients) -> Result<Attach> {
    loop {
        if let Some(attach) = clients.first() {
            return Ok(attach);
        }
        ensure!(!clients.is_empty(), "who has asked for the container has gone");
        clients.wait(None)?;
        clients.first_words();
    }
}

/// Before the VM is there: the signal that the client has got, if it has. One that has gone wants nothing any more.
fn interrupted(clients: &mut Clients) -> Result<Option<Signal>> {
    clients.wait(Some(std::time::Instant::now()))?;
    for message in clients.messages(Offsets::default()) {
        match message {
            ToMonitor::Signal { number, .. } => match Signal::try_from(number) {
                Ok(Signal::SIGUSR1 | Signal::SIGUSR2) | Err(_) => {}
                Ok(signal) => return Ok(Some(signal)),
            },
            ToMonitor::Closed(_) | ToMonitor::Stop => return Ok(Some(Signal::SIGKILL)),
            _ => {}
        }
    }
    Ok(clients.is_empty().then_some(Signal::SIGHUP))
}

fn record(
    id: &str,
    name: String,
    options: &RunOptions,
    config: &Config,
    machine: &MachineSpec,
    stdin: bool,
) -> Result<Record> {
    let stop_signal = match config.stop_signal() {
        Some(text) if !text.is_empty() => {
            signal_names::parse(text).with_context(|| format!("the image's StopSignal {text:?} is none"))?
        }
        _ => libc::SIGTERM,
    };
    let stop_signal = options.process.stop_signal.unwrap_or(stop_signal);
    Ok(Record {
        image: options.image.clone(),
        command: machine.config.process.args.clone(),
        created: now(),
        tty: options.tty,
        stdin,
        stop_signal,
        stop_timeout: options.process.stop_timeout,
        remove: options.rm,
        ..Record::new(id.to_owned(), name)
    })
}

/// A variable of this process's environment, if there is one.
///
/// # Errors
/// It is not UTF-8.
pub fn host_variable(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            bail!("-e {name}: its value here is not UTF-8, which a machine spec must be")
        }
    }
}

fn store(options: &RunOptions) -> Result<PathBuf> {
    let dir = store_dir(options.store.as_deref())?;
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make the store {}", dir.display()))?;
    Ok(dir)
}

/// The store that `--store` names, or the default.
///
/// # Errors
/// There is no home directory.
pub fn store_dir(given: Option<&Path>) -> Result<PathBuf> {
    given.map_or_else(image_builder::store::default_dir, |dir| Ok(dir.to_owned()))
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

#[cfg(test)]
mod tests;
